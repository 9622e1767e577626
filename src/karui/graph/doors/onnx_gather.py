"""Rules for what picks, cuts, joins or surrounds elements."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from karui.graph.doors.drawing import LARGEST_CONSTANT, Drawing, Known, Live, Value
from karui.graph.doors.onnx_layers import padded
from karui.graph.doors.onnx_node import Node, Rule, layer_name
from karui.graph.doors.onnx_pointwise import cast
from karui.graph.doors.onnx_shapes import lists

aten = torch.ops.aten


# ── picking ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gather(d: Drawing, n: Node) -> Value:
    """Of shapes at once; rows of a table as an embedding; places of a live value as a slice or a choice."""
    x, index = n.value(0), n.value(1)
    axis = n.axis(x, n.whole("axis"))
    if isinstance(index, Live):
        return _looked_up(d, n, x, index, axis)
    if isinstance(x, Known):
        return _folded_gather(d, x, index, axis)
    if not index.fixed:
        n.refuse("indices that depend on the batch size", "make them a constant of the file")
    n.inner(x, axis)
    places = index.two.reshape(-1)
    size = x.shape[axis]
    if places.numel() == 0 or bool(((places < -size) | (places >= size)).any()):
        n.refuse(f"indices outside of {size} places", "check the file")
    if index.two.dim() == 0:
        return d.call(aten.select.int, x, axis, int(places[0]))
    picked = _picked(d, x, axis, (places % size).tolist())
    if index.two.dim() == 1:
        return picked
    two, three = ([*t.shape[:axis], *index.two.shape, *t.shape[axis + 1 :]] for t in (x.two, x.three))
    return d.reshape(picked, two, three)


def _picked(d: Drawing, x: Live, axis: int, places: list[int]) -> Value:
    start, count = places[0], len(places)
    if places == list(range(start, start + count)):
        return d.call(aten.slice.Tensor, x, axis, start, start + count, 1)
    return d.call(aten.index_select.default, x, axis, d.known(torch.tensor(places), f"{d.layer}.places"))


def _folded_gather(d: Drawing, x: Known, index: Known, axis: int) -> Known:
    def taken(t: Tensor, at: Tensor) -> Tensor:
        flat = d.call(aten.index_select.default, d.known(t), axis, d.known((at.reshape(-1) % max(t.shape[axis], 1)).long())).two
        return flat.reshape((*t.shape[:axis], *at.shape, *t.shape[axis + 1 :]))

    two = taken(x.two, index.two)
    return Known(two=two, three=two if x.two is x.three and index.two is index.three else taken(x.three, index.three))


def _looked_up(d: Drawing, n: Node, x: Value, index: Live, axis: int) -> Value:
    if isinstance(x, Live):
        n.refuse("computed indices into a computed value", "index a constant, or by a constant")
    if axis != 0 or x.two.dim() < 1 or not x.two.is_floating_point():
        moved = d.call(aten.index_select.default, x, axis, d.call(aten.flatten.using_ints, index, 0, -1))
        two, three = ([*t.shape[:axis], *i.shape, *t.shape[axis + 1 :]] for t, i in ((x.two, index.two), (x.three, index.three)))
        return d.reshape(moved, two, three)
    d.layer = layer_name(d.layer, n.kind, x.name)
    rows = x.two.shape[0]
    table = d.parameter(x, f"{d.layer}.weight", _rows, "rows")
    out = d.call(aten.embedding.default, table, index)
    if x.two.dim() == 2:
        return out
    two, three = ([*t.shape, *x.two.shape[1:]] for t in (index.two, index.three))
    return d.reshape(out, two, three) if rows else out


def _rows(table: Tensor) -> Tensor:
    return table.reshape(len(table), -1)


def _gather_elements(d: Drawing, n: Node) -> Value:
    x, index = n.value(0), n.value(1)
    axis = n.inner(x, n.whole("axis"))
    size = x.two.shape[axis]
    index = d.call(aten.remainder.Scalar, index, size) if isinstance(index, Known) else index
    return d.call(aten.gather.default, x, axis, cast(d, index, torch.int64))


def _gather_nd(d: Drawing, n: Node) -> Value:
    """By lists of places: of constants."""
    x, index = n.known(0), n.known(1)
    if x is None or index is None or n.whole("batch_dims"):
        n.refuse("batch_dims, or no constant", "index a constant by a constant")

    def taken(t: Tensor, at: Tensor) -> Tensor:
        return t[tuple(at.long().movedim(-1, 0))]

    return Known(two=taken(x.two, index.two), three=taken(x.three, index.three))


def _scatter_nd(d: Drawing, n: Node) -> Value:
    x, index, updates = n.known(0), n.known(1), n.known(2)
    if x is None or index is None or updates is None or n.text("reduction", "none") != "none":
        n.refuse("a reduction, or no constant", "scatter constants into a constant")

    def put(t: Tensor, at: Tensor, new: Tensor) -> Tensor:
        return t.clone().index_put_(tuple(at.long().movedim(-1, 0)), new)

    return Known(two=put(x.two, index.two, updates.two), three=put(x.three, index.three, updates.three))


def _one_hot(d: Drawing, n: Node) -> Value:
    """values[1] where the index is, values[0] elsewhere."""
    index, depth, values = n.value(0), n.constant(1), n.constant(2)
    if depth is None or values is None or values.numel() != 2:
        n.refuse("no constant depth and two values", "make them constants of the file")
    count = int(depth.reshape(-1)[0])
    axis, rank = n.whole("axis", -1), index.two.dim() + 1
    if not 0 < count <= LARGEST_CONSTANT or not -rank <= axis < rank:
        n.refuse(f"a depth of {count} along axis {axis}", "check the file")
    axis %= rank
    places = torch.arange(count).reshape([-1 if i == axis else 1 for i in range(rank)])
    off, on = values.reshape(-1).tolist()
    wrapped = d.call(aten.remainder.Scalar, index, count)
    hit = cast(d, d.call(aten.eq.Tensor, d.call(aten.unsqueeze.default, wrapped, axis), d.known(places, f"{d.layer}.places")), values.dtype)
    hit = d.call(aten.mul.Tensor, hit, on - off) if on - off != 1 else hit
    return d.call(aten.add.Tensor, hit, off) if off else hit


def _non_zero(d: Drawing, n: Node) -> Value:
    x = n.known(0)
    if x is None or not x.fixed:
        n.refuse("a value that isn't constant", "export the network without it")
    return d.known(x.two.nonzero().t())


# ── cutting ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _slice(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    starts, ends = _ends(d, n, "starts", 1), _ends(d, n, "ends", 2)
    count = len(starts[0])
    axes = n.listed("axes", 3) or list(range(count))
    steps = n.listed("steps", 4) or [1] * count
    if not len(starts[0]) == len(ends[0]) == len(axes) == len(steps) or 0 in steps:
        n.refuse("starts, ends, axes and steps that don't go together", "check the file")
    for i, axis in enumerate(axes):
        spans = [(s[i], e[i]) for s, e in zip(starts, ends, strict=True)]
        x = _cut(d, n, x, n.axis(x, axis), spans, steps[i])
    return x


def _ends(d: Drawing, n: Node, name: str, place: int) -> tuple[list[int], list[int]]:
    given = n.wholes(name)
    return (given, given) if given is not None else lists(d, n.get(place), name)


def _cut(d: Drawing, n: Node, x: Value, axis: int, spans: Sequence[tuple[int, int]], step: int) -> Value:
    """For each batch size its span, as the ONNX standard clamps it."""
    places = [
        range(t.shape[axis])[slice(a, b if b >= -t.shape[axis] else None if step < 0 else b, step)]
        for t, (a, b) in zip((x.two, x.three), spans)
    ]
    if all(p == range(t.shape[axis]) for p, t in zip(places, (x.two, x.three), strict=True)):
        return x
    if isinstance(x, Known):
        two, three = (
            d.call(aten.index_select.default, d.known(t), axis, d.known(torch.tensor(p, dtype=torch.int64))).two
            for t, p in zip((x.two, x.three), places)
        )
        return Known(two=two, three=two if x.two is x.three and places[0] == places[1] else three)
    n.inner(x, axis)
    if places[0] != places[1] or not len(places[0]):
        n.refuse("a slice that depends on the batch size, or is empty", "check the file")
    (at,) = {places[0]}
    if step > 0:
        return d.call(aten.slice.Tensor, x, axis, at.start, at.stop, step)
    whole = d.call(aten.slice.Tensor, x, axis, at[-1], at[0] + 1, -step) if (at[-1], at[0] + 1, -step) != (0, x.shape[axis], 1) else x
    return d.call(aten.flip.default, whole, [axis])


def _split(d: Drawing, n: Node) -> tuple[Value, ...]:
    x = n.value(0)
    axis = n.inner(x, n.whole("axis"))
    size, sizes = x.two.shape[axis], n.listed("split", 1)
    if sizes is None:
        parts = n.whole("num_outputs", len(n.wanted))
        each = -(-size // parts) if 0 < parts <= size else n.refuse(f"{parts} parts of {size}", "check the file")
        sizes = [min(each, size - each * i) for i in range(parts)]
    if sum(sizes) != size or min(sizes, default=0) < 0 or len(sizes) > LARGEST_CONSTANT:
        n.refuse(f"parts {sizes[:8]} of {size}", "check the file")
    if len(set(sizes)) == 1:
        return d.call(aten.split.Tensor, x, sizes[0], axis) if len(sizes) > 1 else (x,)
    return d.call(aten.split_with_sizes.default, x, sizes, axis)


# ── joining and surrounding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _concat(d: Drawing, n: Node) -> Value:
    """Constants beside live values are copied for each sample."""
    parts = [v for v in n.values() if v.two.numel() or v.two.dim() != 1 or len(n.inputs) == 1]
    if not parts:
        return n.value(0)
    axis = n.axis(parts[0], n.whole("axis"))
    live = next((v for v in parts if isinstance(v, Live)), None)
    if live is None:
        return d.call(aten.cat.default, parts, axis) if len(parts) > 1 else parts[0]
    n.inner(live, axis)
    parts = [_for_each(d, n, v, live, axis) if isinstance(v, Known) else v for v in parts]
    return d.call(aten.cat.default, parts, axis) if len(parts) > 1 else parts[0]


def _for_each(d: Drawing, n: Node, part: Known, live: Live, axis: int) -> Value:
    if part.two.dim() != live.rank:
        n.refuse("parts with different numbers of axes", "check the file")
    batch = live.batch
    if part.fixed and batch is not None and batch != axis and part.two.shape[batch] != 1:
        n.refuse("a constant that has a batch", "export the file with one row per sample")
    once = d.one_sample(part)
    learned = once.name.replace("_", ".").rsplit(".", 1)[-1].lower() in ("token", "tokens", "query", "queries", "weight")
    node = d.parameter(once, f"{d.layer}.weight") if learned and once.two.is_floating_point() else d.held(once)
    two, three = ([once.two.shape[axis] if i == axis else s for i, s in enumerate(t.shape)] for t in (live.two, live.three))
    return d.spread(node, two, three) if tuple(two) != tuple(once.two.shape) else node


def _pad(d: Drawing, n: Node) -> Value:
    x, mode = n.value(0), n.text("mode", "constant")
    rank = x.two.dim()
    pads, fill = n.listed("pads", 1) or [0] * (2 * rank), n.number("value", 2) or 0.0
    axes = n.listed("axes", 3)
    axes = list(range(rank)) if axes is None else [n.axis(x, axis) for axis in axes]
    if len(pads) != 2 * len(axes):
        n.refuse(f"pads {pads[:8]} for {len(axes)} axes", "check the file")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    padding = [axis for axis in range(rank) if before[axis] or after[axis]]
    if not padding:
        return x
    first = min(n.inner(x, axis) for axis in padding)
    if mode == "constant":
        return padded(d, x, before[first:], after[first:], float(fill) if x.two.is_floating_point() else fill)
    return _mirrored(d, n, x, before, after, mode)


def _mirrored(d: Drawing, n: Node, x: Value, before: Sequence[int], after: Sequence[int], mode: str) -> Value:
    """With what lies inside: by torch's ops for images and sequences, else place by place."""
    rank = x.two.dim()
    ops: Mapping[tuple[str, int], Any] = {
        ("reflect", 3): aten.reflection_pad1d.default,
        ("reflect", 4): aten.reflection_pad2d.default,
        ("edge", 3): aten.replication_pad1d.default,
        ("edge", 4): aten.replication_pad2d.default,
    }
    if (mode, rank) in ops and not any((*before[:2], *after[:2])) and min(*before, *after) >= 0:
        return d.call(ops[mode, rank], x, [size for pair in zip(before[:1:-1], after[:1:-1], strict=True) for size in pair])
    for axis in range(rank):
        if before[axis] or after[axis]:
            x = d.call(aten.index_select.default, x, axis, d.known(_places(n, x.two.shape[axis], before[axis], after[axis], mode), ""))
    return x


def _places(n: Node, size: int, before: int, after: int, mode: str) -> Tensor:
    """Where each place of a padded axis comes from."""
    if before + after + size > LARGEST_CONSTANT or min(before, after) < 0 or size < 1 or (mode == "reflect" and size < 2):
        n.refuse(f"pads of {before} and {after} around {size} places", "check the file")
    places = torch.arange(-before, size + after)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    if mode != "reflect":
        n.refuse(f"mode {mode[:20]}", "pad by constant, reflect, edge or wrap")
    turn = 2 * (size - 1)
    return size - 1 - (places % turn - (size - 1)).abs()


RULES: Mapping[str, Rule] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "OneHot": _one_hot,
    "NonZero": _non_zero,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Pad": _pad,
}
