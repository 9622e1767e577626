"""Line 6: ARM processors in QEMU: the interpreter's integers, bit for bit, on each, instructions by layer, and what a wrong choice of
instructions does.

Instructions aren't cycles: these processors run several at a time, and memory lets them wait. They are the same wherever this runs.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.c_engine.cortex_m import work
from benchmarks.c_engine.subjects import shape
from benchmarks.harness import Row, skipped
from karui.errors import ToolError
from karui.export import c as c_target
from karui.program import interpreter
from karui.run import qemu
from karui.verify.cost import random_inputs

NETWORKS = ("resnet8", "ds_cnn", "mobilenet_v1_025")
OURS = (("pi4", "cortex-a72"), ("pi5", "cortex-a76"))  # each processor and what is meant for it
PLACES = (("portable", "cortex-a72"), ("portable", "cortex-a76"), ("pi5", "cortex-a72"), *OURS)
CHOICE, WRONG = "if (getauxval(AT_HWCAP) & (1ul << 20))", "if (getauxval(AT_HWCAP))"


def rows(quick: bool) -> Iterator[Row]:
    """Three networks of MLPerf Tiny; then dot products where there are none."""
    for name in NETWORKS:
        yield from of_network(name)
    yield from refused()


def of_network(name: str) -> Iterator[Row]:
    """An int8 network on each processor: answers, instructions, those of its convolutions, and beside portable C on the same processor."""
    program = shape(name).integer()
    inputs = random_inputs(program, 2)
    expected = interpreter.run(program, inputs)
    macs = {op.name: work(program, op) for op in program.ops}
    whole: dict[tuple[str, str], int] = {}
    for machine, processor in PLACES:
        case = f"6 {name}, for {machine} on {processor}"
        with TemporaryDirectory() as scratch:
            try:
                artefact = c_target.write(program, Path(scratch), machine=machine)
                found = qemu.build(artefact, processor).count(inputs)
                layers = qemu.build(artefact, processor, layers=True).count(inputs).layers
            except ToolError as reason:
                yield skipped(case, str(reason))
                continue
        differ = sum(int(np.sum(a != b)) for a, b in zip(found.outputs, expected, strict=True))
        yield Row(case=case, figure="integers that differ from the interpreter's", value=differ, goal="0", ok=differ == 0)
        whole[machine, processor] = found.instructions[0]
        yield Row(case=case, figure="instructions", value=found.instructions[0])
        yield Row(case=case, figure="instructions / MAC, whole network", value=found.instructions[0] / sum(macs.values()))
        for layer, kind, spent in layers if (machine, processor) in OURS else ():
            if kind == "conv2d":
                yield Row(case=case, figure=f"instructions / MAC, {layer}", value=spent / macs[layer])
    for machine, processor in OURS:
        if (machine, processor) in whole and ("portable", processor) in whole:
            ratio = whole["portable", processor] / whole[machine, processor]
            yield Row(case=f"6 {name}, {processor}", figure=f"portable / {machine}, instructions", value=ratio, unit="x")


def refused() -> Iterator[Row]:
    """A program whose choice is made wrong by hand: the processor stops it, and the runner says why."""
    case = "6 dot products on cortex-a72, chosen by hand"
    program = shape("resnet8").integer()
    with TemporaryDirectory() as scratch:
        artefact = c_target.write(program, Path(scratch), machine="pi5")
        artefact.main.write_text(artefact.main.read_text(encoding="utf-8").replace(CHOICE, WRONG), encoding="utf-8")
        try:
            qemu.build(artefact, "cortex-a72").run(random_inputs(program, 1))
            said = "nothing"
        except ToolError as error:
            said = str(error)
    if "not found" in said:
        yield skipped(case, said)
    else:
        yield Row(case=case, figure="message", value=said, goal="names the processor", ok="doesn't know an instruction" in said)
