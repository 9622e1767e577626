"""Windows over images: what SAME padding is, and the pools."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch

from karui.graph.doors.drawing import LARGEST_CONSTANT, Value
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import CHANNELS_FIRST, Held, Scene

aten = torch.ops.aten

Pads = tuple[tuple[int, int], ...]  # before and after, rows then columns


def same(s: Scene, op: Operator, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads:
    """The padding that the operator asks for: none, or as little as gives one window every ``stride``, the odd one behind."""
    code = op.option("Padding", 0)
    if code not in (0, 1):
        s.refuse(f"the padding {code}", "use SAME or VALID")
    if code == 1:
        return ((0, 0), (0, 0))
    total = [max((-(-n // d) - 1) * d + (k - 1) * r + 1 - n, 0) for n, k, d, r in zip(size, kernel, stride, dilation, strict=True)]
    return tuple((t // 2, t - t // 2) for t in total)


def split(pads: Pads) -> tuple[Pads, list[int]]:
    """What has to be padded ahead of a layer, and what it can do itself: the same on both sides."""
    if all(a == b for a, b in pads):
        return ((0, 0), (0, 0)), [a for a, _ in pads]
    return pads, [0, 0]


def padded(s: Scene, value: Value, pads: Pads, fill: float = 0.0) -> Value:
    """An image that lies channels first with so many rows and columns more."""
    (top, bottom), (left, right) = pads
    if not any((top, bottom, left, right)):
        return value
    return s.drawing.call(aten.constant_pad_nd.default, value, [left, right, top, bottom], fill)


def _pool(s: Scene, op: Operator, average: bool) -> Held:
    """A window that looks beyond the end by less than a step is torch's ceil_mode; other unequal sides are padded ahead."""
    x = s.image(s.held(op, 0))
    kernel = [int(op.option(name, 0)) for name in ("FilterHeight", "FilterWidth")]
    stride = [int(op.option(name, 0)) for name in ("StrideH", "StrideW")]
    size = x.shape[1:3]
    if min(*kernel, *stride) < 1:
        s.refuse(f"a window of {kernel} with strides {stride}", "check the file")
    pads = same(s, op, size, kernel, stride, [1, 1])
    if all(a == b for a, b in pads):
        return _drawn(s, x, average, [kernel, stride, [a for a, _ in pads], False])
    if all(_ceils(n, k, d, a, b) for n, k, d, (a, b) in zip(size, kernel, stride, pads, strict=True)):
        return _drawn(s, x, average, [kernel, stride, [a for a, _ in pads], True])
    if not average:
        lowest = torch.finfo(torch.float32).min
        return _drawn(s, replace(x, value=padded(s, x.value, pads, lowest)), False, [kernel, stride, [0, 0], False])
    return _counted(s, x, pads, kernel, stride)


def _drawn(s: Scene, x: Held, average: bool, window: list[Any]) -> Held:
    kernel, stride, padding, ceils = window
    if average:
        counted = not ceils and not any(padding)
        return s.keep(x, aten.avg_pool2d.default, kernel, stride, padding, ceils, counted)
    return s.keep(x, aten.max_pool2d.default, kernel, stride, padding, [1, 1], ceils)


def _ceils(size: int, kernel: int, stride: int, before: int, after: int) -> bool:
    """Whether torch's ceil_mode with ``before`` on both sides gives the windows of this padding."""
    windows = (size + before + after - kernel) // stride + 1
    span = size + 2 * before - kernel
    ceiled = -(-span // stride) + 1
    if (ceiled - 1) * stride >= size + before:  # torch drops a window that begins behind the padding
        ceiled -= 1
    return 2 * before <= kernel and windows == ceiled


def _counted(s: Scene, x: Held, pads: Pads, kernel: list[int], stride: list[int]) -> Held:
    """The average of what lies inside: that over the padded image, times the window's size over the count inside."""
    if prod(x.shape[1:3]) > LARGEST_CONSTANT:
        s.refuse(f"an image of {list(x.shape[1:3])}", "check the file's shapes")
    out = s.drawing.call(aten.avg_pool2d.default, padded(s, x.value, pads), kernel, stride)
    (top, bottom), (left, right) = pads
    ones = aten.constant_pad_nd.default(torch.ones(1, 1, *x.shape[1:3]), [left, right, top, bottom])
    share = 1 / aten.avg_pool2d.default(ones, kernel, stride)
    return Held(value=s.drawing.call(aten.mul.Tensor, out, s.drawing.known(share, "share")), order=CHANNELS_FIRST)


RULES: Mapping[str, Rule] = {
    "MAX_POOL_2D": lambda s, op: _pool(s, op, False),
    "AVERAGE_POOL_2D": lambda s, op: _pool(s, op, True),
}
