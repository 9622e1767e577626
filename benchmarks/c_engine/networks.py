"""Line 1: whole int8 networks, one thread, a picture at a time, beside the runtimes that a user would take instead."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import peers
from benchmarks.c_engine import ceiling
from benchmarks.c_engine.subjects import SHAPES, Shape, shape
from benchmarks.harness import Row, at_least, skipped
from karui.errors import ToolError
from karui.export import c as c_target
from karui.export import litert as litert_target
from karui.export import onnx as onnx_target
from karui.lower import lower
from karui.program.program import Program
from karui.run import host, litert, measure
from karui.run import onnxruntime as ort
from karui.verify.cost import random_inputs

TWO = ("-DMODEL_THREADS=2", "-pthread")
MACHINES = ("portable", "x86-64-v3", "x86-64-v4")
OURS, RIVALS, DESKTOP = "C, x86-64-v4", ("onnxruntime u8s8", "onnxruntime QDQ", "LiteRT int8", "ExecuTorch int8"), "OpenVINO int8"

RATIO = "int8 of onnxruntime, LiteRT or ExecuTorch, the fastest / ours"


def rows(quick: bool) -> Iterator[Row]:
    """Every network, the mean over all, and how near one's layers come to the processor's ceiling."""
    ratios: list[float] = []
    for name in list(SHAPES)[: 3 if quick else None]:
        try:
            subject = shape(name)
        except ToolError as reason:
            yield skipped(f"1 {name}", str(reason))
            continue
        with TemporaryDirectory() as scratch:
            calls = dict(ours(subject.integer(), Path(scratch))) | dict(theirs(subject, Path(scratch)))
            timings = measure.interleaved(calls, seconds=1.0 if quick else 3.0)
        base = timings["onnxruntime float"].median_ms
        for runner, timing in timings.items():
            yield Row(case=f"1 {name}, {runner}", figure="latency", value=timing.median_ms, unit="ms", spread=timing.p90 - timing.p10)
            yield Row(case=f"1 {name}, {runner}", figure="latency / onnxruntime float", value=timing.median_ms / base)
        fastest = min((rival for rival in RIVALS if rival in timings), key=lambda rival: timings[rival].median_ms)
        ratios.append(timings[fastest].median_ms / timings[OURS].median_ms)
        yield Row(case=f"1 {name}", figure=RATIO, value=ratios[-1], unit="x", peer=fastest)
        if DESKTOP in timings:
            yield Row(case=f"1 {name}", figure="OpenVINO / ours", value=timings[DESKTOP].median_ms / timings[OURS].median_ms, unit="x")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    yield at_least(f"1 {len(ratios)} networks", f"{RATIO}, geometric mean", mean, 1.0, "x")
    yield Row(case=f"1 {len(ratios)} networks", figure="stretch: 1.3", value=mean, unit="x", goal="≥ 1.3 (stretch)")
    if not quick:
        yield from ceiling.rows(quick)


def ours(program: Program, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """C for each machine, and our own files in onnxruntime and in LiteRT (XNNPACK)."""
    sample = random_inputs(program, 1)
    for machine in MACHINES:
        artefact = c_target.write(program, folder / machine, machine=machine)
        yield f"C, {machine}", host.build(artefact).call(sample)
        if machine == MACHINES[-1]:
            yield f"C, {machine}, two threads", host.build(artefact, flags=(*host.FLAGS, *TWO)).call(sample)
    yield "onnxruntime QDQ", ort.load(onnx_target.write(program, folder / "qdq")).call(sample)
    yield from in_litert(program, folder / "litert")


def in_litert(program: Program, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """An integer program as our file in LiteRT, if that is here."""
    try:
        yield "LiteRT int8", litert.load(litert_target.write(program, folder)).call(random_inputs(program, 1))
    except ToolError:
        return


def theirs(subject: Shape, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The float network and what the peers make of it, with the same samples."""
    program = lower(subject.network)
    sample = random_inputs(program, 1)
    x = next(iter(subject.data.calibration.batches(1))).inputs[0].numpy()
    yield "onnxruntime float", ort.load(onnx_target.write(program, folder / "float")).call(sample)
    file, _ = peers.static(subject.network, subject.data.calibration, folder / "static")
    yield "onnxruntime u8s8", ort.load(file).call(sample)
    for label, make in ((RIVALS[-1], peers.executorch), (DESKTOP, peers.openvino)):
        made = folder / label.split()[0]
        made.mkdir()
        try:
            once = make(subject.network, subject.data.calibration, made)
        except ToolError:
            continue
        yield label, partial(once, x)
