"""Hypothesis strategies for weights: every support with every way of writing values."""

from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from karui.program.check_weight import group_shape, runs, spread_blocks
from karui.program.program import (
    AffineValues,
    Array,
    Block,
    CodebookValues,
    Dense,
    Element,
    FloatValues,
    NofM,
    SignValues,
    Support,
    TernaryValues,
    Values,
    Weight,
    per_channel,
)

SUPPORTS = ("dense", "element", "block", "n:m")
VALUES = ("float", "affine", "sign", "ternary", "codebook")


def make_support(kind: str, shape: tuple[int, ...], rng: np.random.Generator, density: float) -> Support:
    """A random support of this kind; about ``density`` of the weights are stored."""
    if kind == "dense":
        return Dense()
    if kind == "element":
        return Element(mask=rng.random(shape) < density)
    if kind == "block":
        rows, columns = int(rng.integers(1, 5)), int(rng.integers(1, 9))
        blocks = rng.random((-(-shape[0] // rows), -(-prod(shape[1:]) // columns))) < density
        return Block(rows=rows, columns=columns, mask=spread_blocks(blocks, rows, columns, shape))
    m = int(rng.integers(1, 9))
    n = int(rng.integers(1, m + 1))
    cut = runs(np.ones(shape, bool), m)
    order = rng.random(cut.shape).argsort(-1)  # n places of each run
    mask = (order < n).reshape(*shape[:-1], -1)[..., : shape[-1]]
    return NofM(n=n, m=m, mask=mask)


def make_values(kind: str, shape: tuple[int, ...], mask: Array, rng: np.random.Generator, bits: int) -> Values:
    """Random values of this kind, canonical outside the mask."""
    channels = (shape[0],) if rng.random() < 0.7 else ()

    def scale() -> Array:
        return np.asarray(rng.uniform(0.01, 2, channels), np.float32)

    def inside(array: Array, empty: Any = 0) -> Array:
        return np.where(mask, array, empty).astype(array.dtype)

    if kind == "float":
        return FloatValues(data=inside(rng.standard_normal(shape).astype(np.float32)))
    if kind == "affine":
        low, high = -(1 << (bits - 1)), 1 << (bits - 1)
        group = int(rng.integers(1, 6)) if len(shape) > 1 and rng.random() < 0.3 else 0
        empty = AffineValues(bits=bits, codes=mask, scale=mask, zero_point=mask, group=group)
        of = group_shape(empty, shape) if group else channels
        zero_point = np.asarray(rng.integers(low, high, of) if rng.random() < 0.5 else np.zeros(of), np.int32)
        codes = rng.integers(low, high, shape).astype(np.int8)
        codes = inside(codes, per_channel(zero_point, shape, empty.group))
        return AffineValues(
            bits=bits, codes=codes, scale=np.asarray(rng.uniform(0.01, 2, of), np.float32), zero_point=zero_point, group=group
        )
    if kind == "sign":
        return SignValues(codes=inside((2 * rng.integers(0, 2, shape) - 1).astype(np.int8)), scale=scale())
    if kind == "ternary":
        zeros = rng.random(shape) < rng.random()
        codes = np.where(zeros, 0, 2 * rng.integers(0, 2, shape) - 1).astype(np.int8)
        return TernaryValues(codes=inside(codes), positive=scale(), negative=scale())
    entries = int(rng.integers(1, (1 << bits) + 1))
    codebook = rng.standard_normal(entries).astype(np.float32) if rng.random() < 0.5 else rng.integers(-128, 128, entries).astype(np.int8)
    return CodebookValues(index=inside(rng.integers(0, entries, shape).astype(np.uint8)), codebook=codebook, scale=scale())


def make_weight(
    support: str, values: str, shape: tuple[int, ...], *, seed: int, density: float = 0.3, bits: int = 8, name: str = "w"
) -> Weight:
    """A random weight."""
    rng = np.random.default_rng(seed)
    chosen = make_support(support, shape, rng, density)
    mask = np.ones(shape, bool) if isinstance(chosen, Dense) else chosen.mask
    return Weight(name=name, shape=shape, support=chosen, values=make_values(values, shape, mask, rng, bits))


@st.composite
def weights(draw: st.DrawFn) -> Weight:
    """Any weight: shapes of one to four axes, from none stored to all."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    return make_weight(
        draw(st.sampled_from(SUPPORTS)),
        draw(st.sampled_from(VALUES)),
        shape,
        seed=draw(st.integers(0, 2**32 - 1)),
        density=draw(st.sampled_from((0.0, 0.02, 0.3, 1.0))),
        bits=draw(st.integers(1, 8)),
    )


def same_weight(a: Weight, b: Weight) -> bool:
    """Equal in every field, arrays in dtype, shape and bits."""
    return a.name == b.name and a.shape == b.shape and _same(a.support, b.support) and _same(a.values, b.values)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    for key, left in vars(a).items():
        right = getattr(b, key)
        if isinstance(left, np.ndarray):
            if left.dtype != right.dtype or left.shape != right.shape or left.tobytes() != right.tobytes():
                return False
        elif left != right:
            return False
    return True
