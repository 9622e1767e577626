"""Line 5, weights in every form: layers by themselves on a Cortex-M4 in QEMU, instructions a product beside those of int8.

Two layers: 3 × 3 with 64 channels on 14 × 14 pixels, and 1 × 1 with 64 on 25 × 5. Products are those of the layer in full. A layer by
itself has no memory to spare: the arena is what its kernel wants.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.harness import Row, at_least
from karui.export import c as c_target
from karui.program import interpreter
from karui.program.check_weight import runs, spread_blocks
from karui.program.program import (
    AffineValues,
    Block,
    CodebookValues,
    Element,
    NofM,
    Program,
    SignValues,
    Support,
    TernaryValues,
    Weight,
)
from karui.run import bare
from tests.export.many import inputs_of
from tests.export.test_c_machines import convolution

LAYERS = {
    "3x3, 64 channels, 14 x 14": convolution(14, 14, 64, 64, seed=1),
    "1x1, 64 channels, 25 x 5": convolution(25, 5, 64, 64, kernel=(1, 1), padding=(0, 0, 0, 0), seed=2),
}
ZEROS = (0.5, 0.8, 0.9, 0.95)
SHAPES = ((1, 4), (2, 4), (16, 4))
GOALS = {f"blocks of {high}x{wide}, 50% zero": 1.0 for high, wide in SHAPES} | {"blocks of 16x4, 80% zero": 2.5}


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


def forms(w: Weight) -> dict[str, Weight]:
    """Weights of one layer in every form, int8 first."""
    rng = np.random.default_rng(0)
    one = np.asarray(0.0123, np.float32)

    def affine(bits: int) -> Weight:
        codes = rng.integers(-(1 << bits >> 1) + 1, 1 << bits >> 1, w.shape).astype(np.int8)
        return replace(w, values=AffineValues(bits=bits, codes=codes, scale=one, zero_point=np.zeros((), np.int32)))

    palette = CodebookValues(
        index=rng.integers(0, 16, w.shape).astype(np.uint8), codebook=rng.integers(-127, 128, 16).astype(np.int8), scale=one
    )
    found = {
        "int8": w,
        "1 bit": replace(w, values=SignValues(codes=(2 * rng.integers(0, 2, w.shape) - 1).astype(np.int8), scale=one)),
        "ternary": replace(w, values=TernaryValues(codes=rng.integers(-1, 2, w.shape).astype(np.int8), positive=one, negative=one)),
        "2 bits": affine(2),
        "3 bits": affine(3),
        "4 bits": affine(4),
        "palette of 16": replace(w, values=palette),
        "2:4": masked(w, n_of_m(w, 2, 4, rng)),
    }
    for zeros in ZEROS:
        for shape in SHAPES:
            found[f"blocks of {shape[0]}x{shape[1]}, {zeros:.0%} zero"] = masked(w, blocks(w, *shape, zeros, rng))
    for zeros in (0.5, 0.9, 0.95):
        found[f"single weights, {zeros:.0%} zero"] = masked(w, Element(mask=rng.random(w.shape) >= zeros))
    return found


def masked(w: Weight, support: Any) -> Weight:
    """The same bytes where they are stored."""
    assert isinstance(w.values, AffineValues)
    return replace(w, support=support, values=replace(w.values, codes=np.where(support.mask, w.values.codes, 0).astype(np.int8)))


def blocks(w: Weight, high: int, wide: int, zeros: float, rng: np.random.Generator) -> Support:
    """Blocks of which that share is left out, exactly."""
    shape = (-(-w.shape[0] // high), -(-prod(w.shape[1:]) // wide))
    there = rng.permutation(prod(shape)).reshape(shape) >= round(zeros * prod(shape))
    return Block(rows=high, columns=wide, mask=spread_blocks(there, high, wide, w.shape))


def n_of_m(w: Weight, n: int, m: int, rng: np.random.Generator) -> Support:
    """n random weights in every run of m."""
    order = rng.random(runs(np.ones(w.shape, bool), m).shape).argsort(-1)
    return NofM(n=n, m=m, mask=(order < n).reshape(w.shape))


def with_weight(p: Program, w: Weight) -> Program:
    """The same layer around another weight."""
    return Program(**{**vars(p), "weights": {"weight": w}})


def counted(p: Program, machine: str = "cortex-m4") -> tuple[int, int, int]:
    """Instructions of a run, integers that are wrong, bytes of the arena."""
    inputs = inputs_of(p, 1)
    with TemporaryDirectory() as scratch:
        built = bare.build(c_target.write(p, Path(scratch), machine=machine), "cortex-m4")
        found = built.count(inputs)
    differ = sum(int(np.sum(a != b)) for a, b in zip(found.outputs, interpreter.run(p, inputs), strict=True))
    return found.instructions[0], differ, built.peak_ram
