"""Rules for pools and reductions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from karui.lower.builder import Builder, Value
from karui.lower.rule import Arguments, Rule
from karui.lower.rules_gather import mixed, shares_of
from karui.lower.rules_shape import graph_axis

ATEN = torch.ops.aten


def _list(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def _pool(builder: Builder, a: Arguments, kind: str, n: int) -> Value:
    x = builder.channels_last(a.value("self"))
    kernel = _list(a.get("kernel_size"), n)
    stride = _list(a.get("stride") or kernel, n)
    padding = _list(a.get("padding"), n)
    after, counted = list(padding), kind == "avg" and bool(a.get("count_include_pad"))
    if kind == "max" and any(d != 1 for d in _list(a.get("dilation"), n)):
        builder.refuse("max-pooling with dilation", "use dilation 1")
    if kind == "avg" and n == 2 and a.get("divisor_override") is not None:
        builder.refuse("average pooling with divisor_override", "leave it out")
    if a.get("ceil_mode"):
        out = a.shape[1:]
        need = [(o - 1) * s + k - x.shape[1 + i] - padding[i] for i, (o, s, k) in enumerate(zip(out, stride, kernel, strict=True))]
        wide = any(m > p for m, p in zip(need, padding, strict=True))
        if kind == "avg" and wide and counted and any(padding):
            builder.refuse("average pooling with ceil_mode that counts its padding", "use count_include_pad=False")
        counted &= not wide  # what lies behind the padding counts in no window
        after = [max(m, p) if m > p else p for m, p in zip(need, padding, strict=True)]
    one = n == 1
    attributes: dict[str, Any] = {
        "kernel": kernel[0] if one else kernel,
        "stride": stride[0] if one else stride,
        "padding": [*padding, *after],
    }
    if kind == "avg":
        attributes |= {"count_include_pad": counted, "clamp": None}
    return builder.emit(f"{kind}_pool{n}d", [x], a.name, a.shape, x.order, attributes=attributes)


def _adaptive_avg_pool(builder: Builder, a: Arguments, n: int) -> Value:
    x = builder.channels_last(a.value("self"))
    inside, outside = x.shape[1:], a.shape[1:]
    if all(o == 1 for o in outside):
        attributes = {"axes": list(range(n)), "keepdims": True, "clamp": None}
        return builder.emit("mean", [x], a.name, a.shape, x.order, attributes=attributes)
    if inside == outside:
        return x
    if any(i % o for i, o in zip(inside, outside, strict=True)):  # windows of several sizes
        return mixed(builder, x, [shares_of(ATEN.adaptive_avg_pool1d, i, [o]) for i, o in zip(inside, outside, strict=True)], a.name)
    kernel = [i // o for i, o in zip(inside, outside, strict=True)]
    one = n == 1
    attributes = {
        "kernel": kernel[0] if one else kernel,
        "stride": kernel[0] if one else kernel,
        "padding": [0] * (2 * n),
        "count_include_pad": True,
        "clamp": None,
    }
    return builder.emit(f"avg_pool{n}d", [x], a.name, a.shape, x.order, attributes=attributes)


def _adaptive_max_pool(builder: Builder, a: Arguments) -> tuple[Value, None]:
    x = builder.channels_last(a.value("self"))
    shape = builder.shapes[a.node][0].shape
    if any(o != 1 for o in shape[1:]):
        builder.refuse("adaptive max-pooling to more than one place", "use max-pooling with a kernel size")
    attributes = {"function": "max", "axes": list(range(len(shape) - 1)), "keepdims": True}
    return builder.emit("reduce", [x], a.name, shape, x.order, attributes=attributes), None


def _reduce(function: str) -> Rule:
    """mean, sum, max or min over axes."""

    def rule(builder: Builder, a: Arguments) -> Value:
        x, dims = a.anywhere("self"), a.get("dim")
        if dims is None or dims == []:
            builder.refuse(f"{a.node.target} over all axes", "name the axes, without the batch")
        axes = sorted(graph_axis(builder, int(d), x) for d in (dims if isinstance(dims, Sequence) else [dims]))
        return reduced(builder, x, axes, function, a.name, keepdims=bool(a.get("keepdim")))

    return rule


def reduced(builder: Builder, x: Value, axes: Sequence[int], function: str, name: str, *, keepdims: bool = True) -> Value:
    """mean, sum, max or min over network axes (without the batch)."""
    if len(x.order) == 3 and x.order != (1, 2, 0) and list(axes) == [1, 2]:
        x = builder.channels_last(x)
    left = [axis for axis in x.order if axis not in axes]
    order = x.order if keepdims else tuple(sorted(left).index(axis) for axis in left)
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keepdims or axis not in axes]
    attributes: dict[str, Any] = {"axes": sorted(x.axis(axis) for axis in axes), "keepdims": keepdims}
    attributes |= {"clamp": None} if function == "mean" else {"function": function}
    out = builder.emit("mean" if function == "mean" else "reduce", [x], name, sizes, order, like=x, attributes=attributes)
    return out if keepdims else replace(out, batch=x.batch - sum(axis < x.batch for axis in axes))


RULES: Mapping[Any, Rule] = {
    ATEN.max_pool1d.default: lambda b, a: _pool(b, a, "max", 1),
    ATEN.max_pool2d.default: lambda b, a: _pool(b, a, "max", 2),
    ATEN.avg_pool1d.default: lambda b, a: _pool(b, a, "avg", 1),
    ATEN.avg_pool2d.default: lambda b, a: _pool(b, a, "avg", 2),
    ATEN.adaptive_avg_pool1d.default: lambda b, a: _adaptive_avg_pool(b, a, 1),
    ATEN.adaptive_avg_pool2d.default: lambda b, a: _adaptive_avg_pool(b, a, 2),
    ATEN.adaptive_max_pool1d.default: _adaptive_max_pool,
    ATEN.adaptive_max_pool2d.default: _adaptive_max_pool,
    ATEN.mean.dim: _reduce("mean"),
    ATEN.sum.dim_IntList: _reduce("sum"),
    ATEN.amax.default: _reduce("max"),
    ATEN.amin.default: _reduce("min"),
}
