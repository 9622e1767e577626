"""Line 6: ARM processors in QEMU: the interpreter's integers, bit for bit, on each, and what a wrong choice of instructions does."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.c_engine.subjects import shape
from benchmarks.harness import Row, skipped
from karui.errors import ToolError
from karui.export import c as c_target
from karui.program import interpreter
from karui.run import qemu
from karui.verify.cost import random_inputs

NETWORKS = ("resnet8", "ds_cnn", "mobilenet_v1_025")
PLACES = (("pi4", "cortex-a72"), ("pi5", "cortex-a72"), ("pi5", "cortex-a76"))
CHOICE, WRONG = "if (getauxval(AT_HWCAP) & (1ul << 20))", "if (getauxval(AT_HWCAP))"


def rows(quick: bool) -> Iterator[Row]:
    """Three networks of MLPerf Tiny; then dot products where there are none."""
    for name in NETWORKS:
        program = shape(name).integer()
        inputs = random_inputs(program, 2)
        expected = interpreter.run(program, inputs)
        for machine, processor in PLACES:
            case = f"6 {name}, for {machine} on {processor}"
            with TemporaryDirectory() as scratch:
                try:
                    found = qemu.build(c_target.write(program, Path(scratch), machine=machine), processor).run(inputs)
                except ToolError as reason:
                    yield skipped(case, str(reason))
                    continue
            differ = sum(int(np.sum(a != b)) for a, b in zip(found, expected, strict=True))
            yield Row(case=case, figure="integers that differ from the interpreter's", value=differ, goal="0", ok=differ == 0)
    yield from refused()


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
