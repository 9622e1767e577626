"""Line 5: Cortex-M4 and M7 in QEMU: instructions, memory, and the interpreter's integers; networks, one bit, every form, random layers.

Instructions aren't cycles: memory that waits, and two instructions at a time on a Cortex-M7, are not in them. They are the same on any
machine that runs this.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.c_engine import cortex_m_forms, fuzz
from benchmarks.c_engine.subjects import SAMPLES, shape
from benchmarks.harness import Row, at_least, at_most, skipped
from karui.compress.quantize.binarize import Binarize
from karui.compress.quantize.int8 import Quantize
from karui.errors import ToolError
from karui.export import c as c_target
from karui.finetune.phases import Phase, run_phases
from karui.lower import lower
from karui.program import interpreter
from karui.program.memory import plan
from karui.program.program import Affine, Op, Program, SignValues
from karui.run import bare
from tests.export.many import inputs_of
from tests.export.test_c_machines import convolution
from tests.export.test_c_signs import layer

NETWORKS = ("resnet8", "ds_cnn")
PLACES = (("portable", "cortex-m4"), ("cortex-m4", "cortex-m4"), ("cortex-m7", "cortex-m7"))
SIDES = {16: 32, 32: 16, 64: 8}  # channels, and pixels of a side as in ResNet-8
ENDS = ("conv1", "fc", "*.shortcut.*")  # stay int8
COUNTS = (300, 100)  # random layers of the full run, of a quick one


def rows(quick: bool) -> Iterator[Row]:
    """Networks on every place, then one bit beside eight, then random layers."""
    try:
        for name in NETWORKS:
            yield from of_network(name)
        yield from of_binary_network()
        for channels, side in SIDES.items():
            yield from of_bits(channels, side)
        yield from cortex_m_forms.rows()
        count = COUNTS[quick]
        wrong = sum(fuzz.emulated("cortex-m4", "cortex-m4", first) for first in range(0, count, fuzz.BATCH))
        yield Row(case="5 random layers, cortex-m4", figure=f"of {count}, wrong", value=wrong, goal="0", ok=wrong == 0)
    except ToolError as reason:
        yield skipped("5 Cortex-M", str(reason))


def of_network(name: str) -> Iterator[Row]:
    """An int8 network: on each processor, and beside portable C on the same one."""
    program = shape(name).integer()
    inputs = inputs_of(program, 2)
    expected, whole = interpreter.run(program, inputs), {}
    for machine, processor in PLACES:
        case, ours = f"5 {name}, {machine} on {processor}", machine != "portable"
        with TemporaryDirectory() as scratch:
            artefact = c_target.write(program, Path(scratch), machine=machine)
            built = bare.build(artefact, processor)
            found, layers = built.count(inputs), bare.build(artefact, processor, layers=True).count(inputs).layers
        whole[machine] = found.instructions[0]
        differ = sum(int(np.sum(a != b)) for a, b in zip(found.outputs, expected, strict=True))
        yield Row(case=case, figure="integers that differ from the interpreter's", value=differ, goal="0", ok=differ == 0)
        macs = {op.name: work(program, op) for op in program.ops}
        yield Row(case=case, figure="instructions", value=whole[machine])
        yield Row(case=case, figure="instructions / MAC, whole network", value=whole[machine] / sum(macs.values()))
        for kind, names in convolutions(program).items():
            spent = sum(count for layer_name, _, count in layers if layer_name in names) / sum(macs[each] for each in names)
            figure = f"instructions / MAC, {kind}"
            yield at_most(case, figure, spent, 1.0) if ours and kind == "convolutions" else Row(case=case, figure=figure, value=spent)
        yield Row(case=case, figure="text and read-only data", value=built.bytes, unit="B")
        yield Row(case=case, figure="stack", value=found.stack, unit="B")
        yield Row(case=case, figure="arena", value=built.peak_ram, unit="B")
        yield at_most(case, "arena / what lives at the worst moment", built.peak_ram / bound(program), 1.1, "x")
    for machine, processor in PLACES:
        if machine == processor == "cortex-m4":
            yield Row(case=f"5 {name}", figure="portable / ours, instructions", value=whole["portable"] / whole[machine], unit="x")


def of_binary_network() -> Iterator[Row]:
    """ResNet-8's 3 × 3 layers but the first, of one bit, beside the same layers of int8."""
    subject, case = shape("resnet8"), "5 resnet8, 3x3 layers of one bit"
    few = (Binarize(exclude=ENDS), Quantize(activation_bits=1, samples=SAMPLES, exclude=ENDS), Quantize(include=ENDS, samples=SAMPLES))
    binary = lower(run_phases(subject.network, subject.data, [Phase(techniques=few)]).network)
    names = {op.name for op in binary.ops if "weight" in op.weights and _signs(binary, op)}
    spent = {}
    for name, program in {"one bit": binary, "int8": subject.integer()}.items():
        inputs = inputs_of(program, 1)
        with TemporaryDirectory() as scratch:
            built = bare.build(c_target.write(program, Path(scratch), machine="cortex-m4"), "cortex-m4", layers=True)
            found = built.count(inputs)
        expected = interpreter.run(program, inputs)
        differ = sum(int(np.sum(a != b)) for a, b in zip(found.outputs, expected, strict=True))
        yield Row(case=f"{case}: {name}", figure="integers that differ from the interpreter's", value=differ, goal="0", ok=differ == 0)
        spent[name] = sum(count for layer_name, _, count in found.layers if layer_name in names)
        macs = sum(work(program, op) for op in program.ops if op.name in names)
        yield Row(case=f"{case}: {name}", figure="instructions / MAC, these layers", value=spent[name] / macs)
    yield at_least(case, "int8 / one bit, instructions", spent["int8"] / spent["one bit"], 3.0, "x")


def of_bits(channels: int, side: int) -> Iterator[Row]:
    """A 3 × 3 layer whose weights and activations are of one bit, beside the same of eight."""
    size, spent = (side, side, channels), {}
    programs = {"one bit": layer(size, channels, Affine(bits=1, scale=0.5, zero_point=0)), "int8": convolution(*size, channels)}
    for name, program in programs.items():
        inputs = inputs_of(program, 1)
        with TemporaryDirectory() as scratch:
            found = bare.build(c_target.write(program, Path(scratch), machine="cortex-m4"), "cortex-m4").count(inputs)
        case = f"5 3x3, {channels} channels, {side} x {side} pixels, {name}"
        differ = int(np.sum(found.outputs[0] != interpreter.run(program, inputs)[0]))
        yield Row(case=case, figure="integers that differ from the interpreter's", value=differ, goal="0", ok=differ == 0)
        spent[name] = found.instructions[0] / (channels * channels * 9 * side * side)
        yield Row(case=case, figure="instructions / MAC", value=spent[name])
    case = f"5 3x3, {channels} channels, {side} x {side} pixels"
    yield Row(case=case, figure="int8 / one bit, instructions", value=spent["int8"] / spent["one bit"], unit="x")


def convolutions(program: Program) -> dict[str, set[str]]:
    """Names of all of them, and of those that aren't depthwise where some are."""
    found = {op.name: op.attributes["groups"] > 1 for op in program.ops if op.kind == "conv2d"}
    dense = {name for name, grouped in found.items() if not grouped}
    return {"convolutions": set(found)} | ({"without depthwise": dense, "depthwise": set(found) - dense} if len(dense) < len(found) else {})


def work(program: Program, op: Op) -> int:
    """MACs of a layer of weights; 0 for other ops."""
    if "weight" not in op.weights:
        return 0
    return prod(program.tensor(op.outputs[0]).shape) * prod(program.weights[op.weights["weight"]].shape[1:])


def _signs(program: Program, op: Op) -> bool:
    return isinstance(program.weights[op.weights["weight"]].values, SignValues)


def bound(program: Program) -> int:
    """Bytes of the tensors that have to live at the worst moment, if sums take the place of an operand."""
    made = plan(program, alignment=1)
    together = [0] * (len(program.ops) + 1)
    for name, (first, last) in made.lifetimes.items():
        for i in range(first + (name in made.in_place), last + 1):
            together[i] += program.tensor(name).nbytes
    return max(together)
