"""Rules for what sums up along axes: reductions, softmax, indices of extremes, cumulative sums."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch

from karui.graph.doors.drawing import Drawing, Value
from karui.graph.doors.onnx_node import Node, Rule

aten = torch.ops.aten


def _axes(n: Node, x: Value) -> list[int] | None:
    """What is reduced; None for nothing."""
    axes = n.listed("axes", 1)
    if not axes:
        if n.whole("noop_with_empty_axes"):
            return None
        axes = list(range(x.two.dim()))
    return sorted({n.inner(x, axis) for axis in axes})


def _reduced(function: Callable[[Drawing, Value, list[int], bool], Value]) -> Rule:
    def rule(d: Drawing, n: Node) -> Value:
        x = n.value(0)
        axes = _axes(n, x)
        if axes is None:
            return x
        return function(d, x, axes, bool(n.whole("keepdims", 1))) if axes else function(d, d.reshape(x, [1], [1]), [0], False)

    return rule


def _plain(op: Any) -> Callable[[Drawing, Value, list[int], bool], Value]:
    return lambda d, x, axes, keep: d.call(op, x, axes, keep)


def _sum(d: Drawing, x: Value, axes: list[int], keep: bool) -> Value:
    return (
        d.call(aten.sum.dim_IntList, x, axes, keep)
        if x.two.is_floating_point()
        else d.call(aten.sum.dim_IntList, x, axes, keep, dtype=x.two.dtype)
    )


def _mean(d: Drawing, x: Value, axes: list[int], keep: bool) -> Value:
    if x.two.is_floating_point():
        return d.call(aten.mean.dim, x, axes, keep)
    count = prod(x.two.shape[axis] for axis in axes)
    return d.call(aten.div.Tensor_mode, _sum(d, x, axes, keep), count, rounding_mode="trunc")


def _norm(order: float) -> Callable[[Drawing, Value, list[int], bool], Value]:
    return lambda d, x, axes, keep: d.call(aten.linalg_vector_norm.default, x, order, axes, keep)


def _squares(d: Drawing, x: Value, axes: list[int], keep: bool) -> Value:
    return _sum(d, d.call(aten.mul.Tensor, x, x), axes, keep)


def _log_sum(d: Drawing, x: Value, axes: list[int], keep: bool) -> Value:
    return d.call(aten.log.default, _sum(d, x, axes, keep))


def _product(d: Drawing, x: Value, axes: list[int], keep: bool) -> Value:
    for axis in reversed(axes):
        x = d.call(aten.prod.dim_int, x, axis, keep, dtype=x.two.dtype)
    return x


# ── along one axis ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _softmax(op: Any) -> Rule:
    """Until opset 12 all axes from ``axis`` on are one."""

    def rule(d: Drawing, n: Node) -> Value:
        x = n.value(0)
        rank = x.two.dim()
        axis = n.axis(x, n.whole("axis", 1 if n.opset < 13 else -1))
        if n.opset >= 13 or all(size == 1 for size in x.two.shape[axis + 1 :]) or axis == rank - 1:
            return d.call(op, x, n.inner(x, axis))
        if axis == 0:
            n.refuse("an op along the batch axis", "samples must not depend on each other")
        flat = d.reshape(x, *([*t.shape[:axis], prod(t.shape[axis:])] for t in (x.two, x.three)))
        return d.reshape(d.call(op, flat, n.inner(flat, axis)), list(x.two.shape), list(x.three.shape))

    return rule


def _arg(op: Any) -> Rule:
    def rule(d: Drawing, n: Node) -> Value:
        if n.whole("select_last_index"):
            n.refuse("select_last_index", "the first index has a rule")
        return d.call(op, n.value(0), n.inner(n.value(0), n.whole("axis")), bool(n.whole("keepdims", 1)))

    return rule


def _cumulative(d: Drawing, n: Node) -> Value:
    """Backwards by turning it round; without its own place by shifting it by one."""
    x, axis = n.value(0), n.number("axis", 1)
    if axis is None:
        n.refuse("no axis", "check the file")
    at, backwards = n.inner(x, int(axis)), bool(n.whole("reverse"))
    y = d.call(aten.flip.default, x, [at]) if backwards else x
    total = d.call(aten.cumsum.default, y, at) if x.two.is_floating_point() else d.call(aten.cumsum.default, y, at, dtype=x.two.dtype)
    total = d.call(aten.sub.Tensor, total, y) if n.whole("exclusive") else total
    return d.call(aten.flip.default, total, [at]) if backwards else total


def _top(d: Drawing, n: Node) -> Any:
    x, count = n.value(0), n.number("k", 1)
    if count is None or not 0 < count <= x.two.shape[n.axis(x, n.whole("axis", -1))]:
        n.refuse(f"k = {count}", "check the file")
    axis = n.inner(x, n.whole("axis", -1))
    return d.call(aten.topk.default, x, int(count), axis, bool(n.whole("largest", 1)), bool(n.whole("sorted", 1)))


RULES: Mapping[str, Rule] = {
    "ReduceMean": _reduced(_mean),
    "ReduceSum": _reduced(_sum),
    "ReduceMax": _reduced(_plain(aten.amax.default)),
    "ReduceMin": _reduced(_plain(aten.amin.default)),
    "ReduceProd": _reduced(_product),
    "ReduceL1": _reduced(_norm(1.0)),
    "ReduceL2": _reduced(_norm(2.0)),
    "ReduceSumSquare": _reduced(_squares),
    "ReduceLogSum": _reduced(_log_sum),
    "ReduceLogSumExp": _reduced(_plain(aten.logsumexp.default)),
    "Softmax": _softmax(aten.softmax.int),
    "LogSoftmax": _softmax(aten.log_softmax.int),
    "ArgMax": _arg(aten.argmax.default),
    "ArgMin": _arg(aten.argmin.default),
    "CumSum": _cumulative,
    "TopK": _top,
}
