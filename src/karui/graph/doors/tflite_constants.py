"""The constants of a ``.tflite`` file as tensors: codes become real numbers that remember their form, sparse ones become dense."""

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from karui.errors import FileError, UnsupportedOp
from karui.graph.doors.drawing import Form
from karui.graph.doors.tflite_file import FileTensor, Quant, Stored

_NUMPY = {
    "FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "BOOL": "?", "INT8": "i1", "UINT8": "u1", "INT16": "<i2", "UINT16": "<u2",
    "INT32": "<i4", "UINT32": "<u4", "INT64": "<i8",
}  # fmt: skip
_BITS = {"INT8": 8, "UINT8": 8, "INT16": 16, "INT4": 4, "INT2": 2}
_DENSER = 1024  # a sparse constant holds one of so many elements at least, or is small
_SMALL = 1 << 20


def form_of(tensor: FileTensor) -> Form | None:
    """How codes of this tensor stand for real numbers; None for floats, plain integers and biases. Codes of uint8 are moved to int8's."""
    bits = _BITS.get(tensor.dtype)
    if tensor.quant is None or bits is None:
        return None
    shift = 128 if tensor.dtype == "UINT8" else 0
    single = len(tensor.quant.scale) == 1
    scale, zero = torch.from_numpy(tensor.quant.scale.copy()), torch.from_numpy(tensor.quant.zero_point - shift)
    scale[scale == 0] = 1  # a channel that is all zero, whatever its codes
    return Form(
        scale=scale.reshape(()) if single else scale,
        zero_point=zero.reshape(()) if single else zero,
        qmin=-(1 << (bits - 1)),
        qmax=(1 << (bits - 1)) - 1,
        axis=None if single else tensor.quant.axis,
    )


def numbers_of(tensor: FileTensor) -> torch.Tensor:
    """A constant as the file writes it: numbers, codes as codes."""
    assert tensor.data is not None
    data: NDArray[Any]
    if tensor.dtype in ("INT4", "INT2"):
        data = _unpacked(tensor.data, _BITS[tensor.dtype])
    elif tensor.dtype in _NUMPY:
        data = tensor.data.view(_NUMPY[tensor.dtype])
    else:
        raise UnsupportedOp(f"constant '{tensor.name}' is {tensor.dtype}; expected numbers")
    if tensor.sparse is not None:
        data = _dense(data, tensor.sparse, tensor.shape, tensor.name)
    data = data[: prod(tensor.shape)].reshape(tensor.shape)
    wide = {"FLOAT16": np.float32, "UINT16": np.int32, "UINT32": np.int64}.get(tensor.dtype, data.dtype)
    return torch.from_numpy(np.array(data, dtype=wide))


def real_of(tensor: FileTensor, codes: torch.Tensor) -> torch.Tensor:
    """``scale · (code − zero_point)`` as float32."""
    assert tensor.quant is not None
    spread = [1] * len(tensor.shape)
    if len(tensor.quant.scale) > 1:
        spread[tensor.quant.axis] = -1
    scale, zero = (torch.from_numpy(np.array(each)).double().reshape(spread) for each in (tensor.quant.scale, tensor.quant.zero_point))
    return ((codes.double() - zero) * scale).float()


def same_quant(a: FileTensor, b: FileTensor) -> bool:
    """Whether equal codes stand for equal numbers."""
    return a.dtype == b.dtype and _key(a.quant) == _key(b.quant)


def _key(quant: Quant | None) -> object:
    return None if quant is None else (quant.scale.tobytes(), quant.zero_point.tobytes(), quant.axis)


def _unpacked(data: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """Several codes a byte, the lowest first, with sign."""
    parts = [(data << (8 - bits - at)).astype(np.int8) >> (8 - bits) for at in range(0, 8, bits)]
    return np.stack(parts, 1).reshape(-1)


# ── sparse constants ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _dense(stored: NDArray[np.generic], how: Stored, shape: tuple[int, ...], name: str) -> NDArray[np.generic]:
    """The whole tensor: each axis in the stored order opens the places below it, densely or by segments of indices; blocks come last."""
    if prod(shape) > max(_SMALL, _DENSER * len(stored)):
        raise FileError(
            f"sparse constant '{name}' of shape {list(shape)} holds {len(stored)} values only; expected one in {_DENSER} at least"
        )
    rank = len(shape)
    sizes = _sizes(how, shape, name)
    places = np.zeros((1, rank + len(how.blocks)), np.int64)
    rows = np.zeros(1, np.int64)  # each place's row among the segments of the next level
    for axis, level in zip(how.order, how.levels, strict=True):
        if isinstance(level, int):
            below, each, within = level, np.repeat(np.arange(len(rows)), level), np.tile(np.arange(level), len(rows))
            rows = rows[each] * below + within
        else:
            each, within, rows = _segment(rows, *level, name)
        if len(each) > max(len(stored), 1):
            raise FileError(f"sparse constant '{name}' names more places than it has values; copy or convert the file again")
        places = places[each]
        places[:, axis] = within
    if len(places) != len(stored) or (places >= sizes).any() or (places < 0).any():
        raise FileError(f"sparse constant '{name}' has {len(stored)} values for {len(places)} places; copy or convert the file again")
    out = np.zeros(shape, stored.dtype)
    where = places[:, :rank].copy()
    for i, axis in enumerate(how.blocks):
        where[:, axis] = where[:, axis] * sizes[rank + i] + places[:, rank + i]
    out[tuple(where.T)] = stored
    return out.reshape(-1)


def _sizes(how: Stored, shape: tuple[int, ...], name: str) -> NDArray[np.int64]:
    """The size of each axis of the stored order: those of the shape over their block's, then the blocks'."""
    rank = len(shape)
    sizes = np.array([*shape, *[1] * len(how.blocks)], np.int64)
    for i, axis in enumerate(how.blocks):
        block = how.levels[how.order.index(rank + i)]
        if not isinstance(block, int) or block < 1 or sizes[axis] % block:
            raise FileError(f"sparse constant '{name}' has blocks that don't fit its shape; copy or convert the file again")
        sizes[axis] //= block
        sizes[rank + i] = block
    for axis, level in zip(how.order, how.levels, strict=True):
        if isinstance(level, int) and level != sizes[axis]:
            raise FileError(f"sparse constant '{name}' has an axis of {level} for {sizes[axis]}; copy or convert the file again")
    return sizes


def _segment(
    rows: NDArray[np.int64], segments: NDArray[np.int64], indices: NDArray[np.int64], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What each row opens: its own number repeated, the indices there, and their places in the list."""
    counts = np.diff(segments)
    if len(segments) < 1 or segments[0] != 0 or (counts < 0).any() or segments[-1] != len(indices) or (rows >= len(counts)).any():
        raise FileError(f"sparse constant '{name}' has segments that don't fit its indices; copy or convert the file again")
    each = np.repeat(np.arange(len(rows)), counts[rows])
    at = np.concatenate([np.arange(segments[row], segments[row + 1]) for row in rows]) if len(rows) else np.zeros(0, np.int64)
    return each, indices[at], at
