"""One layer's weights in every form that a Program has: int8, fewer bits, palettes, and zeros of every pattern."""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

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

ZEROS = (0.5, 0.8, 0.9, 0.95)
SHAPES = ((1, 4), (2, 4), (16, 4))


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
    ternary = TernaryValues(codes=rng.integers(-1, 2, w.shape).astype(np.int8), positive=one, negative=one)
    found = {
        "int8": w,
        "1 bit": replace(w, values=SignValues(codes=(2 * rng.integers(0, 2, w.shape) - 1).astype(np.int8), scale=one)),
        "ternary": replace(w, values=ternary),
        "ternary of two scales": replace(w, values=replace(ternary, negative=2 * one)),
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
