"""Line 3: layers with blocks of 16 output channels × 4 inputs taken out, against the same layers in full."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import nn

from benchmarks import peers
from benchmarks.c_engine.elsewhere import deepsparse
from benchmarks.c_engine.networks import in_litert, theirs
from benchmarks.c_engine.subjects import SAMPLES, Shape, shape
from benchmarks.harness import Row, at_least, at_most, skipped
from karui.compress.prune.weights import Prune
from karui.data import Data
from karui.export import c as c_target
from karui.export import onnx as onnx_target
from karui.finetune.phases import Phase, run_phases
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program.program import Program
from karui.run import host, measure
from karui.verify.cost import random_inputs

MACHINE, PATTERN = "x86-64-v4", "16x4"
LAYERS = {  # channels, pixels of a side, kernel
    "1x1, 128 channels": (128, 28, 1),
    "1x1, 256 channels": (256, 14, 1),
    "1x1, 512 channels": (512, 14, 1),
    "3x3, 256 channels": (256, 14, 3),
}
SPARSITIES = (0.4, 0.5, 0.55, 0.67, 0.8, 0.9, 0.95)
GOALS = {0.8: 2.5, 0.9: 4.5}
NETWORKS = ("resnet18", "mobilenet_v2")


def rows(quick: bool) -> Iterator[Row]:
    """Layers, then whole networks beside every dense int8 peer."""
    for name in LAYERS:
        yield from of_layer(name, quick)
    for name in () if quick else NETWORKS:
        yield from of_network(name)


def of_layer(name: str, quick: bool) -> Iterator[Row]:
    """How much faster, and from which sparsity on it is faster at all."""
    channels, side, kernel = LAYERS[name]
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    noise = torch.randn(SAMPLES, channels, side, side)
    part = (noise, torch.zeros(SAMPLES, dtype=torch.int64))
    subject = Shape(
        network=capture(nn.Sequential(layer, nn.ReLU()), noise[:2], name="layer"), data=Data.of(train=part, validation=part, test=part)
    )
    with TemporaryDirectory() as scratch:
        calls, macs = {}, channels * channels * kernel * kernel * side * side
        for sparsity in (0.0, *SPARSITIES):
            program = in_codes(subject.integer(*([Prune(sparsity=sparsity, pattern=PATTERN)] if sparsity else [])))
            folder = Path(scratch) / str(sparsity)
            calls[sparsity] = host.build(c_target.write(program, folder, machine=MACHINE)).call(random_inputs(program, 1))
        timings = measure.interleaved(calls, seconds=0.3 if quick else 1.0)
    dense = timings[0.0].median_ms
    case = f"3 {name}, {side} x {side} pixels, {PATTERN}"
    yield Row(case=case, figure="dense int8", value=macs / dense / 1e6, unit="MAC/ns")
    for sparsity in SPARSITIES:
        ratio = dense / timings[sparsity].median_ms
        if sparsity in GOALS and kernel == 1:
            yield at_least(f"{case}, {sparsity:.0%}", "dense / sparse latency", ratio, GOALS[sparsity], "x")
        else:
            yield Row(case=f"{case}, {sparsity:.0%}", figure="dense / sparse latency", value=ratio, unit="x")
    faster = next((s for s in SPARSITIES if timings[s].median_ms < dense), 1.0)
    yield at_most(case, "the least sparsity measured that is faster", faster, 0.55)


def in_codes(program: Program) -> Program:
    """The layer alone. Its input is codes, as in a network; to make them of floats is an op of its own."""
    first, *rest = program.ops
    assert first.kind == "quantize"
    return replace(program, ops=tuple(rest), inputs=(replace(program.inputs[0], tensor=first.outputs[0]),))


def of_network(name: str) -> Iterator[Row]:
    """All but the first and the last layer pruned, each alike, as fresh weights say nothing of which layers bear more."""
    subject = shape(name)
    first, *_, last = [n for n, w in subject.network.parameters().items() if w.dim() > 1]
    ends = tuple(n.removesuffix(".weight") for n in (first, last))
    with TemporaryDirectory() as scratch:
        calls = dict(theirs(subject, Path(scratch))) | dict(in_litert(subject.integer(), Path(scratch) / "litert"))
        for sparsity in (0.0, 0.8, 0.9):
            program = subject.integer(
                *([Prune(sparsity=sparsity, pattern=PATTERN, allocation="uniform", exclude=ends)] if sparsity else [])
            )
            library = host.build(c_target.write(program, Path(scratch) / str(sparsity), machine=MACHINE))
            calls[f"{sparsity:.0%} sparse"] = library.call(random_inputs(program, 1))
        timings = measure.interleaved(calls, seconds=3.0)
        others = {s: _deepsparse(subject, ends, s, Path(scratch)) for s in (0.8, 0.9)}
    dense = {label: t.median_ms for label, t in timings.items() if "sparse" not in label and "float" not in label}
    fastest = min(dense, key=lambda label: dense[label])
    for label, timing in timings.items():
        yield Row(case=f"3 {name}, {label}", figure="latency", value=timing.median_ms, unit="ms", spread=timing.p90 - timing.p10)
        if label in ("80% sparse", "90% sparse"):
            ratio = dense[fastest] / timing.median_ms
            yield at_least(f"3 {name}, {label}", "fastest dense int8 peer / ours", ratio, 1.0, "x", peer=fastest)
            gain = timings["0% sparse"].median_ms / timing.median_ms
            yield Row(case=f"3 {name}, {label}", figure="our dense int8 / it", value=gain, unit="x")
            beside = timing.median_ms / timings["onnxruntime float"].median_ms
            yield Row(case=f"3 {name}, {label}", figure="latency / onnxruntime float", value=beside)
    for sparsity, found in others.items():
        case, ran = f"3 {name}, {sparsity:.0%} sparse", {}
        for form, latency in found.items():
            if isinstance(latency, str):
                yield skipped(f"{case}, deepsparse, {form}", latency)
                continue
            ran[form] = latency
            yield Row(case=f"{case}, deepsparse", figure=f"latency, {form}", value=latency, unit="ms")
        if ran:
            form = min(ran, key=lambda each: ran[each])
            ratio = ran[form] / timings[f"{sparsity:.0%} sparse"].median_ms
            yield at_least(case, "deepsparse, the faster form / ours", ratio, 1.0, "x", peer=f"deepsparse 1.8.0, {form}")


def _deepsparse(subject: Shape, ends: tuple[str, ...], sparsity: float, folder: Path) -> dict[str, float | str]:
    """The same zeros in floats, and in int8 as onnxruntime's tools make it; that gains where there is VNNI."""
    pruning = Prune(sparsity=sparsity, pattern=PATTERN, allocation="uniform", exclude=ends)
    network = run_phases(subject.network.copy(), subject.data, [Phase(techniques=(pruning,))]).network
    files = {
        "float": onnx_target.write(lower(network), folder / f"deepsparse{sparsity}").main,
        "int8": _plain(peers.static(network, subject.data.calibration, folder / f"deepsparse{sparsity}-int8")[0]),
    }
    return {form: deepsparse(file, subject.network.inputs[0].shape, 3.0) for form, file in files.items()}


def _plain(file: Path) -> Path:
    """Without the operator sets that no node is of, some of which are newer than what deepsparse knows."""
    model = onnx.load(file)
    used = [each for each in model.opset_import if each.domain in {node.domain for node in model.graph.node}]
    del model.opset_import[:]
    model.opset_import.extend(used)
    onnx.save(model, file)
    return file
