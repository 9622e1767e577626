"""Rules for what moves, joins, cuts or gathers elements: axes are translated to where the program holds them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from karui.lower.builder import Builder, Constant, Shaped, Value
from karui.lower.rule import Arguments, Rule

ATEN = torch.ops.aten


def _list(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def graph_axis(builder: Builder, axis: int, x: Value) -> int:
    """The network's axis ``axis`` of ``x`` as an axis of its shape without the batch."""
    found = x.axes()[axis]
    if -1 in found:
        builder.refuse("an op along the batch axis", "samples must not depend on each other")
    return found[0]


def new_axis(builder: Builder, a: Arguments, axis: int) -> int:
    """The axis ``axis`` of the node's own value, batch first, as an axis of its shape without the batch."""
    axis = axis + len(a.shape) + 1 if axis < 0 else axis
    if axis == 0:
        builder.refuse("a new axis before the batch", "keep the batch the first axis")
    return axis - 1


# ── pools and reductions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pool(builder: Builder, a: Arguments, kind: str, n: int) -> Value:
    x = builder.channels_last(a.value("self"))
    kernel = _list(a.get("kernel_size"), n)
    stride = _list(a.get("stride") or kernel, n)
    padding = _list(a.get("padding"), n)
    after = list(padding)
    if kind == "max" and any(d != 1 for d in _list(a.get("dilation"), n)):
        builder.refuse("max-pooling with dilation", "use dilation 1")
    if kind == "avg" and n == 2 and a.get("divisor_override") is not None:
        builder.refuse("average pooling with divisor_override", "leave it out")
    if a.get("ceil_mode"):
        out = a.shape[1:]
        need = [(o - 1) * s + k - x.shape[1 + i] - padding[i] for i, (o, s, k) in enumerate(zip(out, stride, kernel, strict=True))]
        if kind == "avg" and any(m > p for m, p in zip(need, padding, strict=True)):
            builder.refuse("average pooling with ceil_mode", "pad the input so that the windows fit")
        after = [max(m, p) if m > p else p for m, p in zip(need, padding, strict=True)]
    one = n == 1
    attributes: dict[str, Any] = {
        "kernel": kernel[0] if one else kernel,
        "stride": stride[0] if one else stride,
        "padding": [*padding, *after],
    }
    if kind == "avg":
        attributes |= {"count_include_pad": bool(a.get("count_include_pad")), "clamp": None}
    return builder.emit(f"{kind}_pool{n}d", [x], a.name, a.shape, x.order, attributes=attributes)


def _adaptive_avg_pool(builder: Builder, a: Arguments, n: int) -> Value:
    x = builder.channels_last(a.value("self"))
    inside, outside = x.shape[1:], a.shape[1:]
    if all(o == 1 for o in outside):
        attributes = {"axes": list(range(n)), "keepdims": True, "clamp": None}
        return builder.emit("mean", [x], a.name, a.shape, x.order, attributes=attributes)
    if any(i % o for i, o in zip(inside, outside, strict=True)):
        builder.refuse(f"adaptive average pooling from {inside} to {outside}", "choose an output size that divides the input")
    if inside == outside:
        return x
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
        x = a.value("self")
        dims = a.get("dim")
        axes = sorted(graph_axis(builder, d, x) for d in (dims if isinstance(dims, Sequence) else [dims]))
        keepdims = bool(a.get("keepdim"))
        if len(x.order) == 3 and x.order != (1, 2, 0) and axes == [1, 2]:
            x = builder.channels_last(x)
        left = [axis for axis in x.order if axis not in axes]
        order = x.order if keepdims else tuple(sorted(left).index(axis) for axis in left)
        attributes: dict[str, Any] = {"axes": sorted(x.axis(axis) for axis in axes), "keepdims": keepdims}
        attributes |= {"clamp": None} if function == "mean" else {"function": function}
        return builder.emit("mean" if function == "mean" else "reduce", [x], a.name, a.shape, order, attributes=attributes)

    return rule


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reshape(builder: Builder, a: Arguments) -> Value:
    """The same elements in the network's order. Where the batch stands among them must not change; which axis it shares may."""
    x, new = a.anywhere("self"), a.shaped
    before = math.prod(x.shape[: x.batch])
    ahead = math.prod(new.before)
    inside = before // ahead if ahead else 0  # of the batch's new axis: what stands in front of the batch
    if ahead * inside != before or new.factor % max(inside, 1):
        builder.refuse("a reshape that moves elements between samples", "keep the batch apart from the other axes")
    left, right = ((inside,) if inside > 1 else ()), ((new.factor // inside,) if new.factor // inside > 1 else ())
    shape = (*new.before, *left, *right, *new.after)
    batch = len(new.before) + len(left)
    if shape == x.shape and (batch, len(left), len(right)) == (x.batch, x.left, x.right):
        return x
    out = builder.emit("reshape", [builder.plain(x)], a.name, shape) if shape != x.shape else x
    return replace(out, batch=batch, left=len(left), right=len(right))


def _resize_axes(builder: Builder, a: Arguments) -> Value:
    """squeeze and unsqueeze: axes of size one come and go, and the others lie as they lay."""
    x = a.anywhere("self")
    if not x.ordinary or a.shaped.before:
        return _reshape(builder, a)
    old = [axis for axis in x.order if x.shape[axis] != 1]
    new = [axis for axis, size in enumerate(a.shape) if size != 1]
    rank = {axis: i for i, axis in enumerate(sorted(old))}
    laid = [new[rank[axis]] for axis in old]
    ones = [axis for axis, size in enumerate(a.shape) if size == 1]
    if old == sorted(old):
        order = tuple(range(len(a.shape)))
    else:  # channels last stays channels last where it can: axes of size one go in front
        order = (*ones, *laid)
    return builder.emit("reshape", [x], a.name, a.shape, order)


def _permute(builder: Builder, a: Arguments) -> Value:
    """The network's axes get new names; nothing moves."""
    x = a.anywhere("self")
    axes = x.axes()
    target, rank = a.node.target, len(axes)
    perm = list(range(rank))
    if target is ATEN.permute.default:
        perm = [d % rank for d in a.get("dims")]
    elif target is ATEN.transpose.int:
        i, j = a.get("dim0") % rank, a.get("dim1") % rank
        perm[i], perm[j] = perm[j], perm[i]
    else:  # the last two
        perm[-1], perm[-2] = perm[-2], perm[-1]
    flat = [part for p in perm for part in axes[p]]
    moved = [part for part in flat if part >= 0]  # new axis i was the old axis moved[i]
    order = tuple(moved.index(axis) for axis in x.order)
    return replace(x, shape=tuple(x.shape[m] for m in moved), order=order, batch=flat.index(-1))


def _cat(builder: Builder, a: Arguments) -> Value:
    parts = a.get("tensors")
    if any(isinstance(p, Value) and not p.ordinary for p in parts):
        builder.refuse("a concatenation of tensors whose batch is not the first axis", "move the batch to the front before it")
    axis = graph_axis(builder, int(a.get("dim")), next(p for p in parts if isinstance(p, Value)))
    order = next(p.order for p in parts if isinstance(p, Value))
    values = [builder.constant(p, f"{a.name}_part", len(a.shape)) if isinstance(p, Constant) else p for p in parts]
    laid = [builder.laid(v, order) for v in values]
    return builder.emit("concat", laid, a.name, a.shape, order, attributes={"axis": order.index(axis)})


def _stack(builder: Builder, a: Arguments) -> Value:
    axis = new_axis(builder, a, int(a.get("dim")))
    parts = [builder.plain(p) for p in a.get("tensors")]
    shape = tuple(1 if i == axis else size for i, size in enumerate(a.shape))
    parts = [builder.reshaped(p, f"{a.name}_part", shape) for p in parts]
    return builder.emit("concat", parts, a.name, a.shape, attributes={"axis": axis})


def _cut(builder: Builder, x: Value, name: str, axis: int, start: int, stop: int, step: int = 1) -> Value:
    shape = list(x.shape)
    shape[axis] = len(range(start, stop, step))
    attributes = {"axis": x.axis(axis), "start": start, "stop": stop, "step": step}
    return builder.emit("slice", [x], name, shape, x.order, like=x, attributes=attributes)


def _slice(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    if -1 in x.axes()[int(a.get("dim"))]:
        whole = builder.shapes[a.node] == Shaped(before=x.shape[: x.batch], factor=1, after=x.shape[x.batch :])
        return x if whole else builder.refuse("a slice of the batch", "samples must not depend on each other")
    axis = graph_axis(builder, int(a.get("dim")), x)
    start, stop, step = slice(a.get("start"), a.get("end"), a.get("step")).indices(x.shape[axis])
    return x if (start, stop, step) == (0, x.shape[axis], 1) else _cut(builder, x, a.name, axis, start, stop, step)


def _select(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    axis = graph_axis(builder, int(a.get("dim")), x)
    index = int(a.get("index")) % x.shape[axis]
    return _drop(builder, _cut(builder, x, f"{a.name}_cut", axis, index, index + 1), a.name, axis)


def _drop(builder: Builder, x: Value, name: str, axis: int) -> Value:
    """Take out a network axis of size one."""
    shape = tuple(size for i, size in enumerate(x.shape) if i != axis)
    order = tuple(o - (o > axis) for o in x.order if o != axis)
    out = builder.emit("reshape", [x], name, shape, order, like=x)
    return replace(out, batch=x.batch - (axis < x.batch))


def _split(builder: Builder, a: Arguments) -> list[Value]:
    x = a.anywhere("self")
    axis = graph_axis(builder, int(a.get("dim")), x)
    shapes = builder.shapes[a.node]
    single = a.node.target is ATEN.unbind.int
    parts: list[Value] = []
    at = 0
    for i, shape in enumerate(shapes):
        size = 1 if single else (*shape.before, *shape.after)[axis]
        part = _cut(builder, x, f"{a.name}_{i}", axis, at, at + size)
        parts.append(_drop(builder, part, f"{a.name}_{i}_part", axis) if single else part)
        at += size
    return parts


def _pad(builder: Builder, a: Arguments) -> Value:
    x = a.value("self")
    if a.node.target is ATEN.pad.default and a.get("mode") != "constant":
        builder.refuse(f"padding of mode {a.get('mode')}", "pad with a constant")
    pads = list(a.get("pad"))
    padding = [[0, 0] for _ in x.shape]
    for i in range(len(pads) // 2):
        padding[x.axis(len(x.shape) - 1 - i)] = [int(pads[2 * i]), int(pads[2 * i + 1])]
    if any(v < 0 for pair in padding for v in pair):
        builder.refuse("a negative padding", "slice instead")
    attributes = {"padding": padding, "value": float(a.get("value") or 0.0)}
    return builder.emit("pad", [x], a.name, a.shape, x.order, attributes=attributes)


def _nearest(builder: Builder, a: Arguments) -> Value:
    x = builder.channels_last(_image(a))
    (h, w), (oh, ow) = x.shape[1:], a.shape[1:]
    if oh % h or ow % w:
        builder.refuse("nearest upsampling by a fraction", "use a whole factor")
    return builder.emit("upsample_nearest2d", [x], a.name, a.shape, x.order, attributes={"scale": [oh // h, ow // w]})


def _bilinear(builder: Builder, a: Arguments) -> Value:
    x = builder.channels_last(_image(a))
    attributes = {"size": list(a.shape[1:]), "align_corners": bool(a.get("align_corners"))}
    return builder.emit("upsample_bilinear2d", [x], a.name, a.shape, x.order, attributes=attributes)


def _image(a: Arguments) -> Value:
    return a.value(a.node.target._schema.arguments[0].name)  # type: ignore[union-attr]


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
    ATEN.flatten.using_ints: _reshape,
    ATEN.view.default: _reshape,
    ATEN.reshape.default: _reshape,
    ATEN.unflatten.int: _reshape,
    ATEN.squeeze.dim: _resize_axes,
    ATEN.squeeze.default: _resize_axes,
    ATEN.squeeze.dims: _resize_axes,
    ATEN.unsqueeze.default: _resize_axes,
    ATEN.permute.default: _permute,
    ATEN.transpose.int: _permute,
    ATEN.mT.default: _permute,
    ATEN.cat.default: _cat,
    ATEN.stack.default: _stack,
    ATEN.slice.Tensor: _slice,
    ATEN.select.int: _select,
    ATEN.split.Tensor: _split,
    ATEN.split_with_sizes.default: _split,
    ATEN.chunk.default: _split,
    ATEN.unbind.int: _split,
    ATEN.pad.default: _pad,
    ATEN.constant_pad_nd.default: _pad,
    ATEN.upsample_nearest2d.vec: _nearest,
    ATEN.upsample_nearest2d.default: _nearest,
    ATEN.upsample_bilinear2d.vec: _bilinear,
    ATEN.upsample_bilinear2d.default: _bilinear,
}
