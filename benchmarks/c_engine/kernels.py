"""Each kind of layer on each set of instructions: how many times faster than portable C, or the word "portable" where it is that.

Of processors that are here by time, one thread; of ARM's, in QEMU, by instructions.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.c_engine.forms import forms, with_weight
from benchmarks.harness import Row, skipped
from karui.errors import ToolError
from karui.export import c as c_target
from karui.program.program import Affine, Element, Program, Weight
from karui.run import calibrate, host, measure, qemu
from tests.export.many import inputs_of
from tests.export.test_c_machines import convolution, sums
from tests.export.test_c_signs import layer
from tests.program.single_op import affine, codes, floats, int8, normal, tensor
from tests.program.single_op import program as single

EMULATED = (("pi4", "cortex-a72"), ("pi5", "cortex-a76"), ("cortex-m4", "cortex-m4"))
SIDE, CHANNELS = 14, 64  # of the layers
_SAID = re.compile(r"/\*.*?\*/", re.S)


def rows(quick: bool) -> Iterator[Row]:
    """A row for each kind and machine."""
    for name, make in KINDS.items():
        program = make()
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            yield from on_host(name, program, folder, 0.1 if quick else 0.5)
            yield from emulated(name, program, folder)


def on_host(name: str, program: Program, folder: Path, seconds: float) -> Iterator[Row]:
    """Ratios of times."""
    x = inputs_of(program, 1)
    artefacts = {machine: c_target.write(program, folder / machine, machine=machine) for machine in ("portable", *calibrate.machines())}
    timings = measure.interleaved({m: host.build(each).call(x) for m, each in artefacts.items()}, seconds=seconds)
    for machine, artefact in artefacts.items():
        if machine == "portable":
            yield Row(case=f"0 {name}, portable", figure="latency", value=timings[machine].median_ms, unit="ms")
            continue
        ratio = timings["portable"].median_ms / timings[machine].median_ms
        same = _text(artefact.main) == _text(artefacts["portable"].main)
        yield Row(
            case=f"0 {name}, {machine}", figure="portable / it, latency", value="portable" if same else ratio, unit="" if same else "x"
        )


def emulated(name: str, program: Program, folder: Path) -> Iterator[Row]:
    """Ratios of instructions."""
    x = inputs_of(program, 1)
    for machine, processor in EMULATED:
        case, figure = f"0 {name}, {machine}", "portable / it, instructions"
        plain = c_target.write(program, folder / "plain", machine="portable")
        ours = c_target.write(program, folder / machine, machine=machine)
        if _text(plain.main) == _text(ours.main):
            yield Row(case=case, figure=figure, value="portable")
            continue
        try:
            spent = [qemu.build(each, processor).count(x).instructions[0] for each in (plain, ours)]
        except ToolError as reason:
            yield skipped(case, str(reason))
            continue
        yield Row(case=case, figure=figure, value=spent[0] / spent[1], unit="x")


def _text(source: Path) -> str:
    """What is compiled: a machine's name stands in comments."""
    return _SAID.sub("", source.read_text(encoding="utf-8"))


def dense(**geometry: Any) -> Program:
    """An int8 convolution."""
    return convolution(SIDE, SIDE, CHANNELS, CHANNELS, **geometry)


def formed(form: str, p: Program | None = None) -> Program:
    """An int8 convolution, or another layer, with another form of weights."""
    p = dense() if p is None else p
    return with_weight(p, forms(p.weights["weight"])[form])


def linear(inputs: int = 512, outputs: int = 512) -> Program:
    """A linear layer of int8."""
    x, y = tensor("x", (inputs,), affine(0.05, 3)), tensor("y", (outputs,), affine(0.2, -5))
    scale = np.linspace(0.001, 0.004, outputs).astype(np.float32)
    return single("linear", [x], [y], {"weight": int8(np.maximum(codes(outputs, inputs), -127), scale)}, clamp=[-128, 127])


def in_floats(share: float) -> Program:
    """A float convolution of which so many weights are there."""
    data = normal(CHANNELS, 3, 3, CHANNELS)
    mask = np.random.default_rng(0).random(data.shape) < share
    ends = [tensor("x", (SIDE, SIDE, CHANNELS), None)], [tensor("y", (SIDE, SIDE, CHANNELS), None)]
    a: dict[str, Any] = {"stride": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1, "clamp": [0.0, None]}
    p = single("conv2d", *ends, {"weight": floats(data * mask)}, **a)
    if share == 1:
        return p
    w: Weight = replace(p.weights["weight"], support=Element(mask=mask))
    return Program(**{**vars(p), "weights": {"weight": w}})


def pooled(kind: str) -> Program:
    """Windows of 2 × 2."""
    x = tensor("x", (28, 28, CHANNELS), affine(0.05, 3))
    y = tensor("y", (SIDE, SIDE, CHANNELS), affine(0.05, 3))
    more: dict[str, Any] = {"count_include_pad": True, "clamp": None} if kind == "avg_pool2d" else {}
    return single(kind, [x], [y], kernel=[2, 2], stride=[2, 2], padding=[0, 0, 0, 0], **more)


def table() -> Program:
    """A function of int8 as 256 codes."""
    ends = [tensor("x", (SIDE, SIDE, CHANNELS), affine(0.05, 3))], [tensor("y", (SIDE, SIDE, CHANNELS), affine(0.1, 1))]
    return single("lookup", *ends, {"table": int8(codes(256), 0.1)})


def quantized() -> Program:
    """Floats to codes."""
    return single("quantize", [tensor("x", (SIDE, SIDE, CHANNELS), None)], [tensor("y", (SIDE, SIDE, CHANNELS), affine(0.1, 1))])


ONE = Affine(bits=1, scale=0.5, zero_point=0)
KINDS: dict[str, Callable[[], Program]] = {
    "int8, 3x3": dense,
    "int8, 1x1": lambda: dense(kernel=(1, 1), padding=[0, 0, 0, 0]),
    "int8, depthwise 3x3": lambda: dense(groups=CHANNELS),
    "int8, linear": lambda: linear(),
    "one bit x one bit, 3x3": lambda: layer((SIDE, SIDE, CHANNELS), CHANNELS, ONE),
    "one bit x one bit, linear": lambda: layer((512,), 512, ONE),
    "one bit x int8, 3x3": lambda: formed("1 bit"),
    "one bit x int8, linear": lambda: formed("1 bit", linear()),
    "ternary x int8, 3x3": lambda: formed("ternary"),
    "ternary of two scales x int8, 3x3": lambda: formed("ternary of two scales"),
    "blocks of 16x4, 80% zeros, 3x3": lambda: formed("blocks of 16x4, 80% zero"),
    "blocks of 1x4, 80% zeros, 3x3": lambda: formed("blocks of 1x4, 80% zero"),
    "2 of 4, 3x3": lambda: formed("2:4"),
    "single weights, 90% zeros, 3x3": lambda: formed("single weights, 90% zero"),
    "4 bits x int8, 3x3": lambda: formed("4 bits"),
    "4 bits x int8, linear": lambda: formed("4 bits", linear()),
    "2 bits x int8, 3x3": lambda: formed("2 bits"),
    "palette of 16 x int8, 3x3": lambda: formed("palette of 16"),
    "float, 3x3": lambda: in_floats(1),
    "float, single weights, 90% zeros, 3x3": lambda: in_floats(0.1),
    "int8, add": lambda: sums((SIDE, SIDE, CHANNELS), 3),
    "int8, max_pool2d 2x2": lambda: pooled("max_pool2d"),
    "int8, avg_pool2d 2x2": lambda: pooled("avg_pool2d"),
    "int8, table": table,
    "float to int8": quantized,
}
