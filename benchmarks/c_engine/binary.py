"""Line 2: layers of weights and activations of one bit: beside the machine's ceiling for them, our own int8, and OpenVINO's int8.

On each machine of target ``c`` whose instructions this processor has, beside the ceiling of those instructions.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.c_engine.subjects import SAMPLES, Shape, of
from benchmarks.harness import Row, at_least, skipped
from karui.compress.quantize.binarize import Binarize
from karui.compress.quantize.int8 import Quantize
from karui.errors import ToolError
from karui.export import c as c_target
from karui.finetune.phases import Phase, run_phases
from karui.lower import lower
from karui.program.program import Program
from karui.run import calibrate, compiler, host, measure
from karui.run.machine import flags
from karui.verify.cost import random_inputs
from tests.export.test_c_machines import convolution
from tests.export.test_c_signs import bits as few_bits
from tests.export.test_c_signs import layer

LAYERS = {64: 56, 128: 28, 256: 14, 512: 7}  # channels, and pixels of a side as in ResNet-18
LARGE = 128  # channels from which on a layer counts as large
LINEAR = 1024  # inputs and outputs
ENDS = ("conv1", "fc", "*.project.*")
COUNTS = {  # machine → ways of counting ones, and the flag without which they can't run; the fastest is the ceiling
    "x86-64-v3": {"count_avx2": "avx2", "count_popcnt": "popcnt"},
    "x86-64-v4": {"count_avx2": "avx2", "count_popcnt": "popcnt", "count_avx512": "avx512_vpopcntdq"},
}
TABLES = "count_tables"  # the way of our kernel on x86-64-v3, which takes fewer instructions
VECTORS, TIMES = 124, 500  # 4 KB each of weights and activations; what makes a call some tenths of a millisecond
ONE = few_bits(1, 0)  # codes −1 and 0
EIGHTFOLD = "count_avx512"  # counts that many times as many bits in a call


def rows(quick: bool) -> Iterator[Row]:
    """Single layers, then a whole network."""
    here = [machine for machine in calibrate.machines() if machine in COUNTS]
    if not here:
        yield skipped("2 layers of one bit", "this processor is another than those whose ceilings the benchmark knows")
        return
    for machine in here:
        for channels, side in LAYERS.items():
            case, shape = f"2 3x3, {channels} channels, {side} x {side} pixels, {machine}", (side, side, channels)
            programs = {"binary": layer(shape, channels, ONE), "int8": convolution(*shape, channels)}
            yield from of_layer(machine, case, programs, channels * channels * 9 * side * side, channels >= LARGE, quick)
        linear = {"binary": layer((LINEAR,), LINEAR, ONE), "int8": convolution(1, 1, LINEAR, LINEAR, kernel=(1, 1), padding=(0, 0, 0, 0))}
        yield from of_layer(machine, f"2 linear, {LINEAR} to {LINEAR}, {machine}", linear, LINEAR**2, False, quick)
    yield from of_network(here, quick)


def of_layer(machine: str, case: str, programs: dict[str, Program], work: int, large: bool, quick: bool) -> Iterator[Row]:
    """A layer by itself. work: its products."""
    with TemporaryDirectory() as scratch:
        try:
            calls: dict[str, Callable[[], object]] = ceilings(machine, Path(scratch))
        except ToolError as reason:
            yield skipped(case, str(reason))
            return
        counts = set(calls)
        calls |= {name: call(program, Path(scratch) / name, machine) for name, program in programs.items()}
        timings = measure.interleaved(calls, seconds=0.3 if quick else 1.0)
    bits = {name: (8 if name == EIGHTFOLD else 1) * VECTORS * 256 * TIMES / timings[name].median_ms / 1e6 for name in counts}
    ceiling = max(counts - {TABLES}, key=lambda name: bits[name])
    speed = work / timings["binary"].median_ms / 1e6
    yield Row(case=case, figure="ceiling: exclusive-or and count of ones", value=bits[ceiling], unit="bit/ns", peer=ceiling)
    yield Row(case=case, figure="ours", value=speed, unit="bit/ns", spread=_spread(timings["binary"]))
    share, figure = 100 * speed / bits[ceiling], "share of the ceiling"
    yield at_least(case, figure, share, 60, "%") if large else Row(case=case, figure=figure, value=share, unit="%")
    if TABLES in bits:
        yield Row(case=case, figure="share of what tables of counts could reach", value=100 * speed / bits[TABLES], unit="%")
    yield Row(case=case, figure="our int8 / it, latency", value=timings["int8"].median_ms / timings["binary"].median_ms, unit="x")


def of_network(machines: Sequence[str], quick: bool) -> Iterator[Row]:
    """Bi-Real-like ResNet-18."""
    case, theirs = "2 ResNet-18 as in Bi-Real Net, 3x3 layers of one bit", "OpenVINO int8"
    torch.manual_seed(0)
    subject = of(BiReal().eval(), (3, 224, 224), name="bireal18")
    with TemporaryDirectory() as scratch:
        programs = both(subject)
        calls = {(m, name): call(program, Path(scratch) / m / name, m) for m in machines for name, program in programs.items()}
        try:
            once = peers.openvino(subject.network, subject.data.calibration, Path(scratch) / "openvino")
            x = next(iter(subject.data.calibration.batches(1))).inputs[0].numpy()
            calls["", theirs] = lambda: once(x)
        except ToolError as reason:
            yield skipped(f"{case}, {theirs}", str(reason))
        timings = measure.interleaved(calls, seconds=1.0 if quick else 3.0)
    for (machine, name), timing in timings.items():
        what = ", ".join(filter(None, (case, machine, name)))
        yield Row(case=what, figure="latency", value=timing.median_ms, unit="ms", spread=_spread(timing))
    for machine in machines:
        ours, integer = timings[machine, "binary"].median_ms, timings[machine, "int8"].median_ms
        yield at_least(f"{case}, {machine}", "our int8 of the same shape / it, latency", integer / ours, 3.0, "x")
        if ("", theirs) in timings:
            ratio, figure = timings["", theirs].median_ms / ours, f"{theirs} of the same shape / it, latency"
            row = Row(case=f"{case}, {machine}", figure=figure, value=ratio, unit="x")
            yield at_least(row.case, figure, ratio, 1.0, "x") if machine == machines[-1] else row


class Layer(nn.Module):
    """A 3 × 3 layer with a shortcut of its own, which carries more than one bit (Liu et al. 2018, "Bi-Real Net", fig. 3b)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.project = down if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) + self.project(x)


class BiReal(nn.Module):
    """ResNet-18's stem, widths and depths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        widths = [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4
        self.layers = nn.Sequential(*(Layer(a, b, b // a) for a, b in zip([64, *widths], widths, strict=False)))
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.norm(self.conv1(x)), 3, 2, 1)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layers(x), 1), 1))


def both(subject: Shape) -> dict[str, Program]:
    """Weights and activations of one bit but for the ends and projections, which are int8; and int8 all over."""
    one = Quantize(activation_bits=1, observer="mse", samples=SAMPLES, exclude=ENDS)
    few = (Binarize(exclude=ENDS), one, Quantize(include=ENDS, samples=SAMPLES))
    binary = run_phases(subject.network, subject.data, [Phase(techniques=few)]).network
    return {"binary": lower(binary), "int8": subject.integer()}


def call(program: Program, folder: Path, machine: str) -> Callable[[], object]:
    """A program in C, and what runs it."""
    return host.build(c_target.write(program, folder, machine=machine)).call(random_inputs(program, 1))


def ceilings(machine: str, folder: Path) -> dict[str, Callable[[], object]]:
    """Loops that count ones, compiled here, of which this processor has the instructions. Raises ToolError where there is no compiler."""
    library = folder / "popcount.so"
    source = Path(str(files("benchmarks.c_engine") / "popcount.c"))
    compiler.compile_c(compiler.find(), ["-O3", "-shared", "-fPIC", "-o", library, source], what="the ceiling")
    loaded, known = ctypes.CDLL(str(library)), flags()
    names = [name for name, flag in COUNTS[machine].items() if flag in known] + [TABLES] * (machine == "x86-64-v3")
    return {name: _counting(getattr(loaded, name)) for name in names}


def _counting(count: Any) -> Callable[[], object]:
    count.argtypes = [ctypes.c_int32, ctypes.c_int32]
    count.restype = ctypes.c_uint64
    return lambda: count(VECTORS, TIMES)


def _spread(timing: measure.Timing) -> float:
    return timing.p90 - timing.p10
