"""Rules for what moves, joins or cuts elements: axes are translated to where the program holds them."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from karui.lower.builder import Builder, Constant, Shaped, Value
from karui.lower.rule import Arguments, Rule

ATEN = torch.ops.aten


def graph_axis(builder: Builder, axis: int, x: Value) -> int:
    """The network's axis ``axis`` of ``x`` as an axis of its shape without the batch."""
    found = x.axes()[axis]
    if -1 in found:
        builder.refuse("an op along the batch axis", "samples must not depend on each other")
    return found[0]


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
    elif target is ATEN.movedim.int:
        perm.insert(a.get("destination") % rank, perm.pop(a.get("source") % rank))
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
    """A new axis, which may stand before the batch."""
    given = a.get("tensors")
    rank = next(len(p.shape) for p in given if isinstance(p, Value))
    parts = [builder.constant(p, f"{a.name}_part", rank) if isinstance(p, Constant) else builder.plain(p) for p in given]
    if not all(p.ordinary for p in parts):
        builder.refuse("a stack of tensors whose batch is not the first axis", "move the batch to the front before it")
    dim = int(a.get("dim")) % (len(parts[0].shape) + 2)
    axis = max(dim - 1, 0)
    row = (*parts[0].shape[:axis], 1, *parts[0].shape[axis:])
    rows = [builder.reshaped(p, f"{a.name}_part", row) for p in parts]
    shape = (*row[:axis], len(rows), *row[axis + 1 :])
    out = builder.emit("concat", rows, a.name, shape, attributes={"axis": axis})
    return replace(out, batch=1) if dim == 0 else out


def cut(builder: Builder, x: Value, name: str, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """``x`` from start to stop (left out) of a network axis."""
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
    return x if (start, stop, step) == (0, x.shape[axis], 1) else cut(builder, x, a.name, axis, start, stop, step)


def _select(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    axis = graph_axis(builder, int(a.get("dim")), x)
    index = int(a.get("index")) % x.shape[axis]
    return _drop(builder, cut(builder, x, f"{a.name}_cut", axis, index, index + 1), a.name, axis)


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
        part = cut(builder, x, f"{a.name}_{i}", axis, at, at + size)
        parts.append(_drop(builder, part, f"{a.name}_{i}_part", axis) if single else part)
        at += size
    return parts


def _image(a: Arguments) -> Value:
    return a.value(a.node.target._schema.arguments[0].name)  # type: ignore[union-attr]


RULES: Mapping[Any, Rule] = {
    ATEN.flatten.using_ints: _reshape,
    ATEN.view.default: _reshape,
    ATEN.reshape.default: _reshape,
    ATEN.unflatten.int: _reshape,
    ATEN.view_as.default: _reshape,
    ATEN.reshape_as.default: _reshape,
    ATEN.squeeze.dim: _resize_axes,
    ATEN.squeeze.default: _resize_axes,
    ATEN.squeeze.dims: _resize_axes,
    ATEN.unsqueeze.default: _resize_axes,
    ATEN.permute.default: _permute,
    ATEN.transpose.int: _permute,
    ATEN.mT.default: _permute,
    ATEN.movedim.int: _permute,
    ATEN.cat.default: _cat,
    ATEN.stack.default: _stack,
    ATEN.slice.Tensor: _slice,
    ATEN.select.int: _select,
    ATEN.split.Tensor: _split,
    ATEN.split_with_sizes.default: _split,
    ATEN.chunk.default: _split,
    ATEN.tensor_split.sections: _split,
    ATEN.tensor_split.indices: _split,
    ATEN.unbind.int: _split,
}
