"""Rules for what puts elements elsewhere: chosen or mixed along an axis, shuffled between channels and space."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from karui.lower.builder import Builder, Constant, Value
from karui.lower.rule import Arguments, Rule
from karui.lower.rules_shape import cut, graph_axis

ATEN = torch.ops.aten

_MOST = 64  # parts that a concat may have


def take(builder: Builder, x: Value, axis: int, indices: Sequence[int], name: str) -> Value:
    """``x`` at ``indices`` of a network axis, as slices side by side, one for each run of neighbours."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([index, index + 1])
    if len(runs) > _MOST:
        builder.refuse(f"a choice of {len(runs)} separate places along an axis", f"choose {_MOST} runs of neighbours at most")
    parts = [cut(builder, x, f"{name}_{i}", axis, start, stop) for i, (start, stop) in enumerate(runs)]
    shape = (*x.shape[:axis], len(indices), *x.shape[axis + 1 :])
    return builder.emit("concat", parts, name, shape, x.order, like=x, attributes={"axis": x.axis(axis)})


def _flip(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    for dim in a.get("dims"):
        axis = graph_axis(builder, int(dim), x)
        x = take(builder, x, axis, range(x.shape[axis])[::-1], a.name)
    return x


def _roll(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    if not a.get("dims"):
        builder.refuse("roll over all axes at once", "name the axes, without the batch")
    for shift, dim in zip(a.get("shifts"), a.get("dims"), strict=True):
        axis = graph_axis(builder, int(dim), x)
        x = take(builder, x, axis, np.roll(np.arange(x.shape[axis]), int(shift)).tolist(), a.name)
    return x


def _index(builder: Builder, a: Arguments) -> Value:
    """x[:, [2, 1, 0]]: one list of places, known now."""
    x, given = a.anywhere("self"), a.get("indices")
    lists = [(dim, each) for dim, each in enumerate(given) if each is not None]
    dim, places = lists[0]
    if len(lists) != 1 or not isinstance(places, Constant) or places.data.dim() != 1 or places.data.dtype == torch.bool:
        builder.refuse("indexing by a computed tensor, a mask or several lists", "index one axis at a time by a list of numbers")
    return _taken(builder, a, x, graph_axis(builder, dim, x), places.data)


def _index_select(builder: Builder, a: Arguments) -> Value:
    x, places = a.anywhere("self"), a.constant("index")
    assert places is not None
    return _taken(builder, a, x, graph_axis(builder, int(a.get("dim")), x), places)


def _taken(builder: Builder, a: Arguments, x: Value, axis: int, places: torch.Tensor) -> Value:
    size = x.shape[axis]
    return take(builder, x, axis, [int(i) % size for i in places.tolist()], a.name)


def _repeat_interleave(builder: Builder, a: Arguments) -> Value:
    x, count, dim = a.anywhere("self"), int(a.get("repeats")), a.get("dim")
    if dim is None:
        builder.refuse("repeat_interleave over all axes", "name the axis")
    axis = graph_axis(builder, int(dim), x)
    return take(builder, x, axis, [i for i in range(x.shape[axis]) for _ in range(count)], a.name)


_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def padded(builder: Builder, x: Value, pads: Sequence[int], mode: str, name: str) -> Value:
    """Pad the last axes with what lies inside: ``pads`` as torch gives them, the last axis first."""
    for i in range(len(pads) // 2):
        axis, before, after = len(x.shape) - 1 - i, int(pads[2 * i]), int(pads[2 * i + 1])
        if before < 0 or after < 0:
            builder.refuse("a negative padding", "slice instead")
        if before or after:
            places = np.pad(np.arange(x.shape[axis]), (before, after), mode=_MODES[mode])  # type: ignore[call-overload]
            x = take(builder, x, axis, places.tolist(), name)
    return x


def _pad(builder: Builder, a: Arguments) -> Value:
    x = a.value("self")
    if a.node.target is ATEN.pad.default and a.get("mode") != "constant":
        return padded(builder, x, a.get("pad"), a.get("mode"), a.name)
    pads = list(a.get("pad"))
    padding = [[0, 0] for _ in x.shape]
    for i in range(len(pads) // 2):
        padding[x.axis(len(x.shape) - 1 - i)] = [int(pads[2 * i]), int(pads[2 * i + 1])]
    if any(v < 0 for pair in padding for v in pair):
        builder.refuse("a negative padding", "slice instead")
    attributes = {"padding": padding, "value": float(a.get("value") or 0.0)}
    return builder.emit("pad", [x], a.name, a.shape, x.order, attributes=attributes)


def _pad_inside(mode: str) -> Rule:
    return lambda builder, a: padded(builder, a.value("self"), a.get("padding"), mode, a.name)


# ── channels and space ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _regrouped(builder: Builder, x: Value, name: str, split: Sequence[int], perm: Sequence[int], shape: Sequence[int]) -> Value:
    """The program's axes of an image that lies channels last: split into ``split``, put in the order ``perm``, joined to ``shape``."""
    plain = tuple(range(len(split)))
    parts = builder.emit("reshape", [x], f"{name}_parts", split, plain)
    moved = builder.emit("transpose", [parts], f"{name}_moved", [split[p] for p in perm], plain, attributes={"perm": list(perm)})
    return builder.emit("reshape", [moved], name, shape, x.order)


def _pixel_shuffle(builder: Builder, a: Arguments) -> Value:
    """r² channels → r × r pixels (Shi et al. 2016, equation 4)."""
    x, r = builder.channels_last(a.value("self")), int(a.get("upscale_factor"))
    c, h, w = x.shape
    return _regrouped(builder, x, a.name, (h, w, c // (r * r), r, r), (0, 3, 1, 4, 2), a.shape)


def _pixel_unshuffle(builder: Builder, a: Arguments) -> Value:
    x, r = builder.channels_last(a.value("self")), int(a.get("downscale_factor"))
    c, h, w = x.shape
    return _regrouped(builder, x, a.name, (h // r, r, w // r, r, c), (0, 2, 4, 1, 3), a.shape)


def _channel_shuffle(builder: Builder, a: Arguments) -> Value:
    """Channel i of each group beside channel i of the others (Zhang et al. 2018, "ShuffleNet", figure 1)."""
    x, groups = builder.channels_last(a.value("self")), int(a.get("groups"))
    c, *rest = x.shape
    n = len(rest)
    return _regrouped(builder, x, a.name, (*rest, groups, c // groups), (*range(n), n + 1, n), a.shape)


# ── fixed shares along an axis ──────────────────────────────────────────────────────────────────────────────────────────────────


def mixed(builder: Builder, x: Value, shares: Sequence[torch.Tensor], name: str) -> Value:
    """Each spatial axis of an image or sequence that lies channels last as a product with its matrix ``[size before, size after]``."""
    x = builder.channels_last(x)
    *sizes, channels = (x.shape[axis] for axis in x.order)
    for axis, share in enumerate(shares):
        before, after = share.shape
        ahead, behind = int(np.prod(sizes[:axis])), int(np.prod(sizes[axis + 1 :])) * channels
        sizes[axis] = after
        if before == after and torch.equal(share, torch.eye(before)):
            continue
        matrix = builder.constant(Constant(data=share.t()[None]), f"{name}_shares_{axis}", 3)
        flat = builder.emit("reshape", [x], f"{name}_rows_{axis}", (ahead, before, behind))
        product = builder.emit(
            "matmul", [matrix, flat], f"{name}_mixed_{axis}", (ahead, after, behind), attributes={"transpose_b": False, "scale": 1.0}
        )
        out = builder.emit("reshape", [product], name, (*sizes, channels))
        x = replace(x, name=out.name, shape=(channels, *sizes))
    return x


def shares_of(op: Any, size: int, *arguments: Any) -> torch.Tensor:
    """A linear op along one axis as a matrix ``[size, size after]``: what it makes of the unit vectors."""
    with torch.no_grad():
        found: torch.Tensor = op(torch.eye(size)[None], *arguments)[0]
    return found


def _nearest(builder: Builder, a: Arguments) -> Value:
    """Whole factors copy pixels; others choose them, with the factors that the network gave."""
    x = builder.channels_last(a.value(a.node.target._schema.arguments[0].name))  # type: ignore[union-attr]
    before, after = x.shape[1:], a.shape[1:]
    if any(new % old for old, new in zip(before, after, strict=True)):
        factors = _factors(a, len(before))
        op = ATEN.upsample_nearest1d.default
        return mixed(builder, x, [shares_of(op, *each) for each in zip(before, ([n] for n in after), factors, strict=True)], a.name)
    scale = [new // old for old, new in zip(before, after, strict=True)]
    if len(scale) == 2:
        return builder.emit("upsample_nearest2d", [x], a.name, a.shape, x.order, attributes={"scale": scale})
    channels, length = x.shape
    image = builder.emit("reshape", [x], f"{a.name}_image", (channels, 1, length), (1, 2, 0))
    wide = builder.emit(
        "upsample_nearest2d", [image], f"{a.name}_wide", (channels, 1, *after), (1, 2, 0), attributes={"scale": [1, *scale]}
    )
    return builder.emit("reshape", [wide], a.name, a.shape, x.order)


def _factors(a: Arguments, count: int) -> list[float | None]:
    names = [argument.name for argument in a.node.target._schema.arguments]  # type: ignore[union-attr]
    if "scale_factors" in names:
        return list(a.get("scale_factors") or [None] * count)
    return [a.get(name) for name in (("scales",) if count == 1 else ("scales_h", "scales_w"))]


def _linear1d(builder: Builder, a: Arguments) -> Value:
    x = a.value(a.node.target._schema.arguments[0].name)  # type: ignore[union-attr]
    (factor,) = _factors(a, 1)
    op = ATEN.upsample_linear1d.default
    return mixed(builder, x, [shares_of(op, x.shape[1], [a.shape[1]], bool(a.get("align_corners")), factor)], a.name)


def _bilinear(builder: Builder, a: Arguments) -> Value:
    """Steps that follow from the sizes are an op of their own; a factor that doesn't make a whole size steps otherwise, so by matrices."""
    x = builder.channels_last(a.value(a.node.target._schema.arguments[0].name))  # type: ignore[union-attr]
    before, after, corners = x.shape[1:], a.shape[1:], bool(a.get("align_corners"))
    factors = _factors(a, 2)
    if corners or all(f is None or f * old == new for f, old, new in zip(factors, before, after, strict=True)):
        attributes = {"size": list(after), "align_corners": corners}
        return builder.emit("upsample_bilinear2d", [x], a.name, a.shape, x.order, attributes=attributes)
    op = ATEN.upsample_linear1d.default
    shares = [shares_of(op, old, [new], False, f) for old, new, f in zip(before, after, factors, strict=True)]
    return mixed(builder, x, shares, a.name)


RULES: Mapping[Any, Rule] = {
    ATEN.flip.default: _flip,
    ATEN.roll.default: _roll,
    ATEN.index.Tensor: _index,
    ATEN.index_select.default: _index_select,
    ATEN.repeat_interleave.self_int: _repeat_interleave,
    ATEN.pad.default: _pad,
    ATEN.constant_pad_nd.default: _pad,
    ATEN.reflection_pad1d.default: _pad_inside("reflect"),
    ATEN.reflection_pad2d.default: _pad_inside("reflect"),
    ATEN.replication_pad1d.default: _pad_inside("replicate"),
    ATEN.replication_pad2d.default: _pad_inside("replicate"),
    ATEN.pixel_shuffle.default: _pixel_shuffle,
    ATEN.pixel_unshuffle.default: _pixel_unshuffle,
    ATEN.channel_shuffle.default: _channel_shuffle,
    ATEN.native_channel_shuffle.default: _channel_shuffle,
    ATEN.upsample_nearest1d.vec: _nearest,
    ATEN.upsample_nearest1d.default: _nearest,
    ATEN.upsample_nearest2d.vec: _nearest,
    ATEN.upsample_nearest2d.default: _nearest,
    ATEN.upsample_linear1d.vec: _linear1d,
    ATEN.upsample_linear1d.default: _linear1d,
    ATEN.upsample_bilinear2d.vec: _bilinear,
    ATEN.upsample_bilinear2d.default: _bilinear,
}
