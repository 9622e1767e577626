"""Lines 2 and 3: our ``.tflite`` files in the real LiteRT, beside those of litert-torch and onnx2tf; MLPerf Tiny's files there and back.

The peers need an environment of their own, with litert-torch and ai-edge-quantizer beside karui; onnx2tf asks for another LiteRT and has
one for itself: its command is named by ``KARUI_ONNX2TF``. Rows without them are skipped.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import peers
from benchmarks.c_engine.subjects import SHAPES, Shape, shape
from benchmarks.harness import Row, at_least, at_most, skipped
from benchmarks.subjects import efficientnet_lite0
from karui import api, datasets
from karui.compress.quantize.int8 import Quantize
from karui.data import Data
from karui.errors import DataError, ToolError
from karui.export import litert as target
from karui.export import onnx as onnx_target
from karui.finetune.phases import Phase, run_phases
from karui.graph.doors.capture import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program import interpreter
from karui.program.interpreter import Arithmetic
from karui.program.program import Program
from karui.run import host, litert, measure
from karui.verify.cost import random_inputs

NETWORKS = ("resnet8", "ds_cnn", "mobilenet_v1_025", "mobilenet_v2", "efficientnet_lite0")
KERNELS: dict[Arithmetic, bool] = {"litert_ref": True, "xnnpack": False}
MLPERF = {"float": "pretrainedResnet.tflite", "int8": "pretrainedResnet_quant.tflite"}
KEYWORDS = "kws_ref_model.tflite"


def rows(quick: bool) -> Iterator[Row]:
    """Line 2, network by network."""
    for name in NETWORKS[: 2 if quick else None]:
        try:
            subject = _warmed(name)
        except ToolError as reason:
            yield skipped(f"2 {name}", str(reason))
            continue
        program = subject.integer()
        with TemporaryDirectory() as scratch:
            file = target.write(program, Path(scratch) / "ours").main
            yield from _equal(name, program, file, 4 if np.prod(SHAPES[name][1]) > 100_000 else 64)
            if not quick:
                yield from _beside(name, subject, {"int8": file, "float": target.write(lower(subject.network), Path(scratch) / "f").main})


def _warmed(name: str) -> Shape:
    """With batch statistics that fit its fresh weights: without them values die out. Trained weights have theirs."""
    build, size = SHAPES[name]
    plain = shape(name)
    if build is efficientnet_lite0:
        return plain
    torch.manual_seed(0)
    module, noise = build().train(), torch.randn(16, *size)
    with torch.no_grad():
        for _ in range(20):
            module(noise)
    return replace(plain, network=capture(module.eval(), noise[:2], name=name))


def _equal(name: str, program: Program, file: Path, count: int) -> Iterator[Row]:
    inputs = random_inputs(program, count)
    for arithmetic, reference in KERNELS.items():
        found = litert.load(file, reference=reference).run(inputs)
        expected = interpreter.run(program, inputs, arithmetic=arithmetic)
        total, apart = sum(a.size for a in found), sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True))
        kernels = "reference kernels" if reference else "default kernels"
        yield at_most(f"2 {name}, {kernels}", f"values of {total} that differ from the interpreter ({arithmetic})", apart, 0)


# ── beside the peers ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Who else makes such files. make: the float and the int8 file, from a network and calibration data, in a folder."""

    name: str
    make: Callable[[Shape, Path], dict[str, Path]]


def _litert_torch(subject: Shape, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    done, _ = peers.litert_static(subject.network.copy(), subject.data.calibration, folder)
    return {"int8": done, "float": folder / "float.tflite"}


def _onnx2tf(subject: Shape, folder: Path) -> dict[str, Path]:
    command = os.environ.get("KARUI_ONNX2TF")
    if not command:
        raise ToolError("onnx2tf has an environment of its own; name its command in KARUI_ONNX2TF")
    file = onnx_target.write(lower(subject.network), folder).main
    sample = np.concatenate([b.inputs[0].numpy() for b in subject.data.calibration.batches(1)]).transpose(0, 2, 3, 1)
    np.save(folder / "calibration.npy", sample)
    channels = sample.shape[-1]
    zeros, ones = (str([[[[n] * channels]]]).replace(" ", "") for n in (0, 1))
    spec = [subject.network.inputs[0].name, "calibration.npy", zeros, ones]
    made = subprocess.run(
        [command, "-i", file.name, "-o", "out", "-oiqt", "-cind", *spec], cwd=folder, capture_output=True, text=True, check=False
    )
    found = {"int8": folder / "out/model_full_integer_quant.tflite", "float": folder / "out/model_float32.tflite"}
    if not all(path.exists() for path in found.values()):
        raise ToolError(f"onnx2tf made no file: {(made.stderr or made.stdout).strip().splitlines()[-1][:160]}")
    return found


RIVALS = (Rival(name="litert-torch + ai-edge-quantizer", make=_litert_torch), Rival(name="onnx2tf", make=_onnx2tf))


def _beside(name: str, subject: Shape, ours: dict[str, Path]) -> Iterator[Row]:
    files = {"karui": ours}
    with TemporaryDirectory() as scratch:
        for i, rival in enumerate(RIVALS):
            try:
                files[rival.name] = rival.make(subject, Path(scratch) / str(i))
            except ToolError as reason:
                yield skipped(f"2 {name}, {rival.name}", str(reason))
        for form in ("int8", "float"):
            calls = {who: _call(each[form]) for who, each in files.items()}
            timings = measure.interleaved(calls, seconds=2.0)
            for who, each in files.items():
                timing, case = timings[who], f"2 {name} {form}, {who}"
                yield Row(case=case, figure="latency, one thread", value=timing.median_ms, unit="ms", spread=timing.p90 - timing.p10)
                yield Row(case=case, figure="size", value=each[form].stat().st_size, unit="bytes")
                if who != "karui":
                    ratio = timings["karui"].median_ms / timing.median_ms
                    yield at_most(f"2 {name} {form}", "latency, ours / theirs", round(ratio, 2), 1, "x", peer=who)
                    size = ours[form].stat().st_size / each[form].stat().st_size
                    yield at_most(f"2 {name} {form}", "size, ours / theirs", size, 1, "x", peer=who)


def _call(file: Path) -> Callable[[], object]:
    """One sample of noise, whatever the file takes."""
    from ai_edge_litert.interpreter import Interpreter

    worker = Interpreter(model_path=str(file), num_threads=1)
    worker.allocate_tensors()
    random = np.random.default_rng(0)
    for entry in worker.get_input_details():
        noise = random.standard_normal(entry["shape"]).astype(np.float32)
        worker.set_tensor(entry["index"], noise if entry["dtype"] is np.float32 else (noise * 40).clip(-128, 127).astype(entry["dtype"]))
    return worker.invoke  # type: ignore[no-any-return]


# ── MLPerf Tiny ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def mlperf(quick: bool) -> Iterator[Row]:
    """Line 3."""
    folder = os.environ.get("KARUI_DATA")
    found = [path for path in Path(folder or ".").rglob(MLPERF["float"])] if folder else []
    try:
        data = datasets.load("cifar-10", augment=False)
    except DataError as reason:
        yield skipped("3", str(reason))
        return
    if not found:
        yield skipped("3", f"KARUI_DATA has no {MLPERF['float']} of MLPerf Tiny")
        return
    count = 1000 if quick else len(data.test)
    pictures, classes = (t[:count].numpy() for t in (data.test.inputs[0], data.test.targets))
    share = {}
    for form, name in MLPERF.items():
        share[form] = _accuracy(_reference(found[0].parent / name, pictures, optimised=True), classes)
        yield Row(case="3 MLPerf Tiny", figure=f"the reference's {form} file, test accuracy on {data.name}", value=share[form], unit="%")
    with TemporaryDirectory() as scratch:
        yield from _compressed(found[0].parent / MLPERF["float"], data, (pictures, classes), share["int8"], Path(scratch))
    for name in (MLPERF["int8"], KEYWORDS):
        yield from _unchanged(found[0].parent / name, pictures if name == MLPERF["int8"] else None, 200 if quick else 1000)


def _accuracy(scores: np.ndarray, classes: np.ndarray) -> float:
    return float((scores.reshape(len(classes), -1).argmax(1) == classes).mean() * 100)


def _reference(file: Path, pictures: np.ndarray, *, optimised: bool) -> np.ndarray:
    """The answers of somebody's file for pictures, ``[N, C, H, W]`` bytes or codes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN if optimised else OpResolverType.BUILTIN_REF
    worker = Interpreter(model_path=str(file), num_threads=1, experimental_op_resolver_type=kernels)
    worker.allocate_tensors()
    (entry,), (end,) = worker.get_input_details(), worker.get_output_details()
    scale, zero = entry["quantization"]
    answers = []
    for picture in pictures:
        x = picture.transpose(1, 2, 0)[None]
        if entry["dtype"] is np.int8 and x.dtype == np.uint8:
            x = (x.astype(np.float32) / np.float32(scale) + zero).round().clip(-128, 127)
        worker.set_tensor(entry["index"], x.astype(entry["dtype"]).reshape(entry["shape"]))
        worker.invoke()
        answers.append(worker.get_tensor(end["index"])[0].copy())
    return np.stack(answers)


def _compressed(file: Path, data: Data, test: tuple[np.ndarray, np.ndarray], theirs: float, folder: Path) -> Iterator[Row]:
    """Float in, our int8, out as C and as ``.tflite``."""
    train = data.train.take(512)
    numbers = Data.of(**dict.fromkeys(("train", "validation", "test"), (train.inputs[0].float(), train.targets)))
    network = run_phases(capture(file), numbers, [Phase(techniques=(Quantize(samples=512),))]).network
    program = lower(network)
    inputs = [test[0].transpose(0, 2, 3, 1).astype(np.float32)]
    runs = {
        ".tflite": litert.load(target.write(program, folder / "tflite")),
        "C": host.build(api.targets.write_all(program, ("c",), folder / "c")["c"]),
    }
    for what, runner in runs.items():
        found = _accuracy(runner.run(inputs)[0], test[1])
        yield at_least(
            f"3 float .tflite → int8 → {what}", "test accuracy, less the reference int8's", round(found - theirs, 2), 0, "points"
        )
        yield Row(case=f"3 float .tflite → int8 → {what}", figure="test accuracy", value=found, unit="%")
        yield Row(case=f"3 float .tflite → int8 → {what}", figure="size", value=runner.bytes, unit="bytes")


def _unchanged(file: Path, pictures: np.ndarray | None, count: int) -> Iterator[Row]:
    """An int8 file in and out again: every output, in both sets of kernels; on pictures, or on noise."""
    network: Network = capture(file)
    random = np.random.default_rng(0)
    shape_ = network.inputs[0].shape
    codes = random.integers(-128, 128, (count, *shape_)).astype(np.int8) if pictures is None else _codes(pictures[:count])
    with TemporaryDirectory() as scratch:
        again = target.write(lower(network), Path(scratch)).main
        for optimised in (False, True):
            a, b = (_reference(path, codes, optimised=optimised) for path in (file, again))
            kernels = "default" if optimised else "reference"
            yield at_most(f"3 {file.name}, there and back", f"values of {a.size} that differ, {kernels} kernels", int((a != b).sum()), 0)
        sizes = again.stat().st_size / file.stat().st_size
        yield Row(case=f"3 {file.name}, there and back", figure="size, of the reference's", value=sizes, unit="x")


def _codes(pictures: np.ndarray) -> np.ndarray:
    return (pictures.astype(np.int16) - 128).astype(np.int8)
