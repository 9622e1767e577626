"""Line 5, weights in every form: layers by themselves on a Cortex-M4 in QEMU, instructions a product beside those of int8.

Two layers: 3 × 3 with 64 channels on 14 × 14 pixels, and 1 × 1 with 64 on 25 × 5. Products are those of the layer in full. A layer by
itself has no memory to spare: the arena is what its kernel wants.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.c_engine.forms import SHAPES, forms, with_weight
from benchmarks.harness import Row, at_least
from karui.export import c as c_target
from karui.program import interpreter
from karui.program.program import Program
from karui.run import bare
from tests.export.many import inputs_of
from tests.export.test_c_machines import convolution

LAYERS = {
    "3x3, 64 channels, 14 x 14": convolution(14, 14, 64, 64, seed=1),
    "1x1, 64 channels, 25 x 5": convolution(25, 5, 64, 64, kernel=(1, 1), padding=(0, 0, 0, 0), seed=2),
}
GOALS = {f"blocks of {high}x{wide}, {zeros:.0%} zero": goal for high, wide in SHAPES for zeros, goal in ((0.5, 1.0), (0.8, 2.5))}


def rows() -> Iterator[Row]:
    """Each form of each layer."""
    for name, p in LAYERS.items():
        w = p.weights["weight"]
        int8 = 0.0
        for form, each in forms(w).items():
            found, differ, arena = counted(with_weight(p, each))
            macs = prod(w.shape) * prod(p.tensor("y").shape[:-1])
            case = f"5 {name}, {form}"
            yield Row(case=case, figure="integers that differ from the interpreter's", value=differ, goal="0", ok=differ == 0)
            yield Row(case=case, figure="instructions / MAC", value=found / macs)
            yield Row(case=case, figure="arena", value=arena, unit="B")
            int8 = int8 or found
            goal = GOALS.get(form)
            figure = "int8 / this, instructions"
            yield (
                Row(case=case, figure=figure, value=int8 / found, unit="x")
                if goal is None
                else at_least(case, figure, int8 / found, goal, "x")
            )


def counted(p: Program, machine: str = "cortex-m4") -> tuple[int, int, int]:
    """Instructions of a run, integers that are wrong, bytes of the arena."""
    inputs = inputs_of(p, 1)
    with TemporaryDirectory() as scratch:
        built = bare.build(c_target.write(p, Path(scratch), machine=machine), "cortex-m4")
        found = built.count(inputs)
    differ = sum(int(np.sum(a != b)) for a, b in zip(found.outputs, interpreter.run(p, inputs), strict=True))
    return found.instructions[0], differ, built.peak_ram
