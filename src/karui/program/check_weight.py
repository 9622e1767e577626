"""Check that a Weight's arrays agree with its shape, its support and its bits."""

from math import prod

import numpy as np

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
    Weight,
    per_channel,
)

LARGEST = 1 << 28  # elements


def check_weight(weight: Weight) -> None:
    """Raise ValueError, naming the weight, where it contradicts itself."""
    try:
        shape = weight.shape
        _need(len(shape) <= 8 and all(type(n) is int and n >= 1 for n in shape), f"shape {list(shape)}")
        _need(prod(shape) <= LARGEST, f"{prod(shape)} elements, at most {LARGEST} are allowed")
        _check_support(weight.support, shape)
        _check_values(weight)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"weight '{weight.name}': {error}") from None


def _need(condition: bool | np.bool_, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _array(array: Array, dtype: str, shape: tuple[int, ...], what: str) -> None:
    _need(array.dtype == dtype, f"{what} is {array.dtype}, expected {dtype}")
    _need(array.shape == shape, f"{what} has shape {list(array.shape)}, expected {list(shape)}")


def _check_support(support: Support, shape: tuple[int, ...]) -> None:
    if isinstance(support, Dense):
        return
    _need(isinstance(support, Element | Block | NofM), f"unknown support {type(support).__name__}")
    _array(support.mask, "bool", shape, "its mask")
    _need(len(shape) >= 1, "a sparse weight needs an axis")
    if isinstance(support, Block):
        _need(support.rows >= 1 and support.columns >= 1, f"blocks of {support.rows} × {support.columns}")
        blocks = block_mask(support.mask, support.rows, support.columns)
        _need(bool((spread_blocks(blocks, support.rows, support.columns, shape) == support.mask).all()), "its mask cuts through blocks")
    if isinstance(support, NofM):
        _need(1 <= support.n <= support.m, f"{support.n} of {support.m}")
        most = int(runs(support.mask, support.m).sum(-1).max())
        _need(most <= support.n, f"a run of {support.m} stores {most}, at most {support.n} are allowed")


def block_mask(mask: Array, rows: int, columns: int) -> Array:
    """Bool [⌈O/rows⌉, ⌈K/columns⌉]: which blocks of a mask hold anything. Blocks at the edges may be cut off."""
    matrix = mask.reshape(mask.shape[0], -1)
    high, wide = -(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns)
    padded = np.zeros((high * rows, wide * columns), bool)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return np.asarray(padded.reshape(high, rows, wide, columns).any(axis=(1, 3)))


def spread_blocks(blocks: Array, rows: int, columns: int, shape: tuple[int, ...]) -> Array:
    """The opposite of ``block_mask``: bool in the weight's shape."""
    matrix = blocks.repeat(rows, axis=0).repeat(columns, axis=1)
    return matrix[: shape[0], : prod(shape[1:])].reshape(shape)


def runs(mask: Array, m: int) -> Array:
    """The mask cut into runs of ``m`` along its last axis, the last run filled up with False: bool [..., ⌈n/m⌉, m]."""
    short = -mask.shape[-1] % m
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, short)])
    return padded.reshape(*mask.shape[:-1], -1, m)


def _check_values(weight: Weight) -> None:
    values, shape, mask = weight.values, weight.shape, weight.mask
    channels = (shape[0],) if shape else ()
    if isinstance(values, FloatValues):
        _array(values.data, "float32", shape, "its data")
        _empty(values.data, mask, 0)
    elif isinstance(values, AffineValues):
        _check_affine(values, shape, mask)
    elif isinstance(values, SignValues):
        _array(values.codes, "int8", shape, "its codes")
        _need(bool((np.abs(values.codes[mask]) == 1).all()), "its codes must be −1 or +1")
        _empty(values.codes, mask, 0)
        _scale(values.scale, channels, "its scale")
    elif isinstance(values, TernaryValues):
        _array(values.codes, "int8", shape, "its codes")
        _need(bool((np.abs(values.codes[mask]) <= 1).all()), "its codes must be −1, 0 or +1")
        _empty(values.codes, mask, 0)
        _scale(values.positive, channels, "its positive scale")
        _scale(values.negative, channels, "its negative scale")
    elif isinstance(values, CodebookValues):
        _array(values.index, "uint8", shape, "its index")
        _need(values.codebook.dtype in ("float32", "int8"), f"its codebook is {values.codebook.dtype}, expected float32 or int8")
        _need(values.codebook.ndim == 1 and 1 <= len(values.codebook) <= 256, "its codebook must have 1 to 256 entries")
        _need(values.index.size == 0 or int(values.index.max()) < len(values.codebook), "an index lies outside its codebook")
        _empty(values.index, mask, 0)
        _scale(values.scale, channels, "its scale")
    else:
        raise ValueError(f"unknown values {type(values).__name__}")


def _empty(codes: Array, mask: Array, zero: int | Array) -> None:
    _need(bool(((codes == zero) | mask).all()), "a weight outside its support isn't zero")


def _scale(scale: Array, channels: tuple[int, ...], what: str) -> None:
    _need(scale.dtype == "float32", f"{what} must be a float32 array")
    _need(scale.shape in (channels, ()), f"{what} has shape {list(scale.shape)}, expected {list(channels)} or []")
    _need(bool(np.isfinite(scale).all()), f"{what} isn't finite")


def group_shape(values: AffineValues, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the scales of a grouped weight have: [O, ⌈K / group⌉]."""
    return (shape[0], -(-prod(shape[1:]) // values.group))


def _check_affine(values: AffineValues, shape: tuple[int, ...], mask: Array) -> None:
    _need(1 <= values.bits <= 8, f"{values.bits} bits, expected 1 to 8")
    _array(values.codes, "int8", shape, "its codes")
    low, high = -(1 << (values.bits - 1)), (1 << (values.bits - 1)) - 1
    _need(values.group >= 0, f"group {values.group}")
    if values.group:
        _need(len(shape) >= 2, "groups need two axes")
        _array(values.scale, "float32", group_shape(values, shape), "its scale")
        _need(bool(np.isfinite(values.scale).all()), "its scale isn't finite")
    else:
        _scale(values.scale, (shape[0],) if shape else (), "its scale")
    _array(values.zero_point, "int32", values.scale.shape, "its zero point")
    _need(bool(((values.zero_point >= low) & (values.zero_point <= high)).all()), f"a zero point lies outside {low} … {high}")
    _need(bool(((values.codes >= low) & (values.codes <= high)).all()), f"codes lie outside the {low} … {high} of {values.bits} bits")
    spread = per_channel(values.zero_point, shape, values.group)
    _empty(values.codes, mask, spread.astype(np.int8))
