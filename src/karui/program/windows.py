"""Sliding windows over channels-last arrays, and the sums of products over them that convolutions are."""

from collections.abc import Iterator

import numpy as np

from karui.program.program import Array


def padded(x: Array, padding: tuple[int, ...], value: float) -> Array:
    """[N,H,W,C] with ``padding`` = (top, left, bottom, right) filled with ``value``."""
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value) if any(padding) else x


def square(value: int | list[int]) -> tuple[int, int]:
    """A kernel, stride or dilation as (y, x); that of a 1-D op has y = 1."""
    return (1, value) if isinstance(value, int) else (value[0], value[1])


def edges(value: list[int]) -> tuple[int, ...]:
    """A padding as (top, left, bottom, right); that of a 1-D op has two numbers."""
    return (0, value[0], 0, value[1]) if len(value) == 2 else tuple(value)


def taps(x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Iterator[Array]:
    """For each place (y, x) in the kernel, row by row, what lies under it: [N,OH,OW,C] views of the padded ``x``."""
    height, width = ((size - (k - 1) * d - 1) // s + 1 for size, k, s, d in zip(x.shape[1:3], kernel, stride, dilation, strict=True))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield x[:, top : top + (height - 1) * stride[0] + 1 : stride[0], left : left + (width - 1) * stride[1] + 1 : stride[1]]


def correlate(x: Array, weight: Array, stride: tuple[int, int], dilation: tuple[int, int], groups: int) -> Array:
    """Sums of products: padded ``x`` [N,H,W,C] under ``weight`` [O,kh,kw,C/groups] → [N,OH,OW,O], in the dtype of ``x``."""
    kernel = (weight.shape[1], weight.shape[2])
    weight = weight.astype(x.dtype)
    if groups > 1 and weight.shape[3] == 1:
        return _depthwise(x, weight, stride, dilation)
    results = []
    for part, rows in zip(np.split(x, groups, axis=3), np.split(weight, groups), strict=True):
        columns = np.concatenate(list(taps(part, kernel, stride, dilation)), axis=3)  # [N,OH,OW,kh·kw·C], the order of the weight
        results.append(columns.reshape(-1, columns.shape[3]) @ rows.reshape(len(rows), -1).T)
    return np.concatenate(results, axis=1).reshape(*columns.shape[:3], len(weight))


def _depthwise(x: Array, weight: Array, stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Every output channel sees one input channel: a sum over the kernel's places."""
    kernel = (weight.shape[1], weight.shape[2])
    flat = weight.reshape(len(weight), -1)
    repeat = len(weight) // x.shape[3]
    total: Array | float = 0.0
    for place, seen in enumerate(taps(x, kernel, stride, dilation)):
        total = total + np.repeat(seen, repeat, axis=3) * flat[:, place]
    return np.asarray(total)
