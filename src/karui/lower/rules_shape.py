"""Rules for what moves, joins, cuts or gathers elements: axes are translated to where the program holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from karui.lower.builder import Builder, Constant, Value
from karui.lower.rule import Arguments, Rule

ATEN = torch.ops.aten


def _list(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def graph_axis(builder: Builder, axis: int, rank: int) -> int:
    """The network's axis ``axis`` (of a tensor with ``rank`` axes after the batch) without the batch."""
    axis = axis + rank + 1 if axis < 0 else axis
    if axis == 0:
        builder.refuse("an op along the batch axis", "samples must not depend on each other")
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
    if any(o != 1 for o in a.builder.shapes[a.node][0][1:]):
        builder.refuse("adaptive max-pooling to more than one place", "use max-pooling with a kernel size")
    shape = a.builder.shapes[a.node][0]
    attributes = {"function": "max", "axes": list(range(len(shape) - 1)), "keepdims": True}
    return builder.emit("reduce", [x], a.name, shape, x.order, attributes=attributes), None


def _reduce(function: str) -> Rule:
    """mean, sum, max or min over axes."""

    def rule(builder: Builder, a: Arguments) -> Value:
        x = a.value("self")
        dims = a.get("dim")
        rank = len(x.shape)
        axes = sorted(graph_axis(builder, d, rank) for d in (dims if isinstance(dims, Sequence) else [dims]))
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
    x = a.value("self")
    if x.shape == a.shape:
        return x
    return builder.reshaped(x, a.name, a.shape)


def _resize_axes(builder: Builder, a: Arguments) -> Value:
    """squeeze and unsqueeze: axes of size one come and go, and the others lie as they lay."""
    x = a.value("self")
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
    x = a.value("self")
    rank = len(x.shape)
    target = a.node.target
    perm = list(range(rank + 1))
    if target is ATEN.permute.default:
        perm = [d % (rank + 1) for d in a.get("dims")]
    elif target is ATEN.transpose.int:
        i, j = a.get("dim0") % (rank + 1), a.get("dim1") % (rank + 1)
        perm[i], perm[j] = perm[j], perm[i]
    else:  # adjoint of the last two axes
        perm[-1], perm[-2] = perm[-2], perm[-1]
    if perm[0] != 0:
        builder.refuse("a permute that moves the batch axis", "keep the batch first")
    moved = [p - 1 for p in perm[1:]]  # new axis i was the old axis moved[i]
    order = tuple(moved.index(axis) for axis in x.order)
    return Value(name=x.name, shape=tuple(x.shape[m] for m in moved), order=order)


def _cat(builder: Builder, a: Arguments) -> Value:
    parts = a.get("tensors")
    axis = graph_axis(builder, int(a.get("dim")), len(a.shape))
    order = next(p.order for p in parts if isinstance(p, Value))
    values = [builder.constant(p, f"{a.name}_part", len(a.shape)) if isinstance(p, Constant) else p for p in parts]
    laid = [builder.laid(v, order) for v in values]
    return builder.emit("concat", laid, a.name, a.shape, order, attributes={"axis": order.index(axis)})


def _stack(builder: Builder, a: Arguments) -> Value:
    axis = graph_axis(builder, int(a.get("dim")), len(a.shape))
    parts = [builder.plain(p) for p in a.get("tensors")]
    shape = tuple(1 if i == axis else size for i, size in enumerate(a.shape))
    parts = [builder.reshaped(p, f"{a.name}_part", shape) for p in parts]
    return builder.emit("concat", parts, a.name, a.shape, attributes={"axis": axis})


def _cut(builder: Builder, x: Value, name: str, axis: int, start: int, stop: int, step: int = 1) -> Value:
    shape = list(x.shape)
    shape[axis] = len(range(start, stop, step))
    attributes = {"axis": x.axis(axis), "start": start, "stop": stop, "step": step}
    return builder.emit("slice", [x], name, shape, x.order, attributes=attributes)


def _slice(builder: Builder, a: Arguments) -> Value:
    x = a.value("self")
    if int(a.get("dim")) == 0:
        return x if x.shape == a.shape else builder.refuse("a slice of the batch", "samples must not depend on each other")
    axis = graph_axis(builder, int(a.get("dim")), len(x.shape))
    start, stop, step = slice(a.get("start"), a.get("end"), a.get("step")).indices(x.shape[axis])
    return x if (start, stop, step) == (0, x.shape[axis], 1) else _cut(builder, x, a.name, axis, start, stop, step)


def _select(builder: Builder, a: Arguments) -> Value:
    x = a.value("self")
    axis = graph_axis(builder, int(a.get("dim")), len(x.shape))
    index = int(a.get("index")) % x.shape[axis]
    return _drop(builder, _cut(builder, x, f"{a.name}_cut", axis, index, index + 1), a.name, axis)


def _drop(builder: Builder, x: Value, name: str, axis: int) -> Value:
    """Take out a network axis of size one."""
    shape = tuple(size for i, size in enumerate(x.shape) if i != axis)
    order = tuple(o - (o > axis) for o in x.order if o != axis)
    return builder.emit("reshape", [x], name, shape, order)


def _split(builder: Builder, a: Arguments) -> list[Value]:
    x = a.value("self")
    axis = graph_axis(builder, int(a.get("dim")), len(x.shape))
    parts: list[Value] = []
    at = 0
    for i, shape in enumerate(builder.shapes[a.node]):
        size = x.shape[axis] // len(builder.shapes[a.node]) if a.node.target is ATEN.unbind.int else shape[axis]
        part = _cut(builder, x, f"{a.name}_{i}", axis, at, at + size)
        parts.append(_drop(builder, part, f"{a.name}_{i}_part", axis) if a.node.target is ATEN.unbind.int else part)
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
