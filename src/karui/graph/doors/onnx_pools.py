"""Rules for pools."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from karui.graph.doors.drawing import Drawing, Value
from karui.graph.doors.onnx_layers import padded, pads_of, window
from karui.graph.doors.onnx_node import Node, Rule

aten = torch.ops.aten
_MAX = {1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default}
_AVERAGE = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}
_ADAPTIVE = {1: aten.adaptive_avg_pool1d.default, 2: aten.adaptive_avg_pool2d.default}


def _pool(kind: str) -> Rule:
    def rule(d: Drawing, n: Node) -> Value:
        if any(n.wanted[1:]):
            n.refuse("indices that are read", "only the values have a rule")
        return pooled(d, n, n.value(0), kind)

    return rule


def pooled(d: Drawing, n: Node, x: Value, kind: str) -> Value:
    """A pool over windows. torch pads both sides alike; what a file pads unlike is reached by ceil_mode, by a cut, or by padding first."""
    count = n.images(x).two.dim() - 2
    if count not in _MAX:
        n.refuse(f"a value with {x.two.dim()} axes", "1 to 3 spatial axes have a rule")
    sizes = list(x.two.shape[2:])
    kernel = n.wholes("kernel_shape")
    if kernel is None or len(kernel) != count or min(kernel) < 1:
        n.refuse(f"kernel_shape {kernel}", f"give {count} sizes")
    stride, dilation = window(n, "strides", count), window(n, "dilations", count)
    before, after = pads_of(n, sizes, kernel, stride, dilation)
    spans = [(k - 1) * each + 1 for k, each in zip(kernel, dilation, strict=True)]
    if kind == "average" and any(each != 1 for each in dilation):
        n.refuse(f"dilations {dilation}", "average pools with dilations 1 have a rule")
    rounds_up = bool(n.whole("ceil_mode")) and n.text("auto_pad", "NOTSET") in ("NOTSET", "")
    counted = kind == "average" and bool(n.whole("count_include_pad")) and any((*before, *after))
    out = [_places(size, span, s, b, a, rounds_up) for size, span, s, b, a in zip(sizes, spans, stride, before, after, strict=True)]
    fits = all(b <= k // 2 for b, k in zip(before, kernel, strict=True)) and min(before) >= 0
    same = before == after
    if not fits or (counted and not same):
        return _padded_pool(d, n, x, kind, (kernel, stride, dilation), before, after, counted, rounds_up)
    up = rounds_up if same else not _reaches(sizes, spans, stride, before, out)
    y = _drawn(d, x, kind, kernel, stride, before, dilation, up, counted or same and bool(n.whole("count_include_pad")))
    for axis, size in enumerate(out, start=2):
        if y.two.shape[axis] > size:
            y = d.call(aten.slice.Tensor, y, axis, 0, size, 1)
        elif y.two.shape[axis] < size:
            return _padded_pool(d, n, x, kind, (kernel, stride, dilation), before, after, counted, rounds_up)
    return y


def _places(size: int, span: int, stride: int, before: int, after: int, rounds_up: bool) -> int:
    """How many windows there are along an axis; one that would start behind the value and its left padding is none."""
    room = size + before + after - span
    places = (-(-room // stride) if rounds_up else room // stride) + 1
    return places - 1 if rounds_up and (places - 1) * stride >= size + before else places


def _reaches(sizes: Sequence[int], spans: Sequence[int], stride: Sequence[int], pads: Sequence[int], out: Sequence[int]) -> bool:
    """Whether windows with equal padding on both sides are as many, or more, without rounding up."""
    return all((size + 2 * p - span) // s + 1 >= o for size, span, s, p, o in zip(sizes, spans, stride, pads, out, strict=True))


def _drawn(d: Drawing, x: Value, kind: str, kernel: Any, stride: Any, pads: Any, dilation: Any, up: bool, counted: bool) -> Value:
    if kind == "max":
        return d.call(_MAX[len(kernel)], x, kernel, stride, pads, dilation, up)
    return d.call(_AVERAGE[len(kernel)], x, kernel, stride, pads, up, counted or not any(pads))


def _padded_pool(d: Drawing, n: Node, x: Value, kind: str, window: Any, before: Any, after: Any, counted: bool, up: bool) -> Value:
    """Padding as an op of its own; averages that don't count it are divided by what there is."""
    kernel, stride, dilation = window
    none = [0] * len(kernel)
    if kind == "max":
        return _drawn(d, padded(d, x, before, after, float("-inf")), kind, kernel, stride, none, dilation, up, True)
    y = _drawn(d, padded(d, x, before, after), kind, kernel, stride, none, dilation, up, True)
    if counted:
        return y
    ones = d.known(torch.ones(1, 1, *x.two.shape[2:]))
    share = _drawn(d, padded(d, ones, before, after), kind, kernel, stride, none, dilation, up, True)
    return d.call(aten.mul.Tensor, y, d.call(aten.reciprocal.default, share))


def _global_average(d: Drawing, n: Node) -> Value:
    return global_average(d, n.images(n.value(0)))


def global_average(d: Drawing, x: Value) -> Value:
    """The mean over all axes behind the channels."""
    count = x.two.dim() - 2
    if count in _ADAPTIVE:
        return d.call(_ADAPTIVE[count], x, [1] * count)
    return d.call(aten.mean.dim, x, list(range(2, x.two.dim())), True) if count else x


def _global_max(d: Drawing, n: Node) -> Value:
    x = n.images(n.value(0))
    return d.call(aten.amax.default, x, list(range(2, x.two.dim())), True) if x.two.dim() > 2 else x


RULES: Mapping[str, Rule] = {
    "MaxPool": _pool("max"),
    "AveragePool": _pool("average"),
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
}
