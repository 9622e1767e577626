"""How channels move through ops that only rearrange: reshapes, permutations, slices, splits, padding."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from karui.graph.carry import BATCH, Carried, Tracer, along_of, argument, axes_of, place_of, unknown
from karui.graph.spaces import STAYS, Along, Ids, Kept

MANY = 1 << 21  # a reshape is followed entry by entry; more entries than this aren't worth it


def reshape(t: Tracer, node: fx.Node) -> Carried:
    """A view, reshape, flatten or unflatten: every entry keeps its id; sizes that are written in the graph are noted."""
    x = t.value(node.args[0])
    if x is None:
        return None
    found = _rearranged(t.shapes[node.args[0]], t.shapes[node], x)  # type: ignore[index]
    if found is None or 0 in found.axes and t.shapes[node][0] == BATCH:
        return unknown(t, node)
    place, first = _sizes(node, len(t.shapes[node]))
    for axis in found.axes if place is not None else ():
        if axis - first < len(node.args[place]):  # type: ignore[arg-type,index]
            t.mend_size(node, place, axis - first, found, axis)  # type: ignore[arg-type]
    return found


def _sizes(node: fx.Node, dims: int) -> tuple[int | None, int]:
    """Where a reshape spells its sizes out (place of the list, the axis that it begins with); None where it doesn't."""
    name = str(node.target)
    if "unflatten" in name:
        (axis,) = axes_of(node, "dim", dims - len(argument(node, "sizes")) + 1)
        return place_of(node, "sizes"), axis
    return (None, 0) if "flatten" in name else (1, 0)


def _rearranged(old: Sequence[int], new: Sequence[int], x: Along) -> Along | None:
    """The ids after a reshape: the axes that hold them, and what they are merged or split with, entry by entry."""
    blocks = [(a, b) for a, b in _blocks(old, new) if any(axis in x.axes for axis in a)]
    before, after = [axis for a, _ in blocks for axis in a], [axis for _, b in blocks for axis in b]
    if prod(old[axis] for axis in before) > MANY:
        return None
    spread = x.ids.reshape([old[axis] if axis in x.axes else 1 for axis in before])
    full = np.broadcast_to(spread, [old[axis] for axis in before]).reshape([new[axis] for axis in after])
    for place in reversed(range(len(after))):
        if full.shape[place] == 1 or (full == full.take([0], place)).all():
            full = np.take(full, [0], place).squeeze(place)
            del after[place]
    return along_of(after, np.ascontiguousarray(full))


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes on both sides that hold the same entries; axes of size one go with the run before them."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = [i] if i < len(old) else [], [j] if j < len(new) else []
        while (left := prod(old[k] for k in a)) != (right := prod(new[k] for k in b)):
            if left < right:
                a.append(i + len(a))
            else:
                b.append(j + len(b))
        if found and (not a or not b):
            found[-1][0].extend(a)
            found[-1][1].extend(b)
        else:
            found.append((a, b))
        i, j = i + len(a), j + len(b)
    return found


def permute(t: Tracer, node: fx.Node) -> Carried:
    """The axes change places."""
    x, dims = t.value(node.args[0]), len(t.shapes[node])
    if x is None:
        return None
    if "permute" in str(node.target):
        order = list(axes_of(node, "dims", dims))
    else:
        order = list(range(dims))
        (a,), (b,) = axes_of(node, "dim0", dims), axes_of(node, "dim1", dims)
        order[a], order[b] = order[b], order[a]
    return along_of([order.index(axis) for axis in x.axes], x.ids)


def unsqueeze(t: Tracer, node: fx.Node) -> Carried:
    """A new axis of size one."""
    x = t.value(node.args[0])
    (new,) = axes_of(node, "dim", len(t.shapes[node]))
    return x and Along(axes=tuple(axis + (new <= axis) for axis in x.axes), ids=x.ids)


def squeeze(t: Tracer, node: fx.Node) -> Carried:
    """Axes of size one go."""
    x, shape = t.value(node.args[0]), t.shapes[node.args[0]]  # type: ignore[index]
    named = axes_of(node, "dim", len(shape)) if len(node.args) > 1 else range(len(shape))
    gone = [a for a in named if shape[a] == 1]
    if x is None or set(x.axes) & set(gone):
        return unknown(t, node)
    return Along(axes=tuple(axis - sum(a < axis for a in gone) for axis in x.axes), ids=x.ids)


def elsewhere(name: str) -> Callable[[Tracer, fx.Node], Carried]:
    """Works along the axis in the argument ``name``; channels along another pass."""

    def rule(t: Tracer, node: fx.Node) -> Carried:
        x = t.value(node.args[0])
        return unknown(t, node) if x is None or set(axes_of(node, name, len(t.shapes[node]))) & set(x.axes) else x

    return rule


def expand(t: Tracer, node: fx.Node) -> Carried:
    """Repeats along axes of size one; a channel axis stays as it is."""
    x, old, new = t.value(node.args[0]), t.shapes[node.args[0]], t.shapes[node]  # type: ignore[index]
    if x is None:
        return None
    shift = len(new) - len(old)
    found = Along(axes=tuple(axis + shift for axis in x.axes), ids=x.ids)
    if any(old[axis] != new[axis + shift] for axis in x.axes):
        return unknown(t, node)
    for axis in found.axes:
        t.mend_size(node, 1, axis, found, axis)
    return found


def expand_as(t: Tracer, node: fx.Node) -> Carried:
    """As large as the other operand, also once that has lost channels."""
    x, other = t.value(node.args[0]), t.value(node.args[1])
    before, after = t.shapes[node.args[0]], t.shapes[node]  # type: ignore[index]
    if len(before) == len(after) and other is not None and all(before[a] == 1 != after[a] for a in other.axes):
        if x is not None:
            t.spaces.fix(x.ids, f"'{t.where(node)}' broadcasts its channels")
        return other
    if len(before) != len(after) or x is None or other is None or x.axes != other.axes or x.ids.shape != other.ids.shape:
        return None if x is None and other is None else unknown(t, node)
    t.spaces.join(x.ids, other.ids, t.where(node))
    return x


# ── parts of an axis ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def slice_(t: Tracer, node: fx.Node) -> Carried:
    """A part of an axis; where that axis holds channels, its bounds move with them."""
    x, shape = t.value(node.args[0]), t.shapes[node.args[0]]  # type: ignore[index]
    (axis,) = axes_of(node, "dim", len(shape))
    if x is None or axis not in x.axes:
        return x
    start, stop, step = slice(argument(node, "start"), argument(node, "end"), argument(node, "step")).indices(shape[axis])
    if step != 1 or x.axes != (axis,):
        return unknown(t, node)
    before, found = x.ids[:start], Along(axes=(axis,), ids=x.ids[start:stop])
    t.spaces.needs.append((t.where(node), found.ids))

    def mend(node: fx.Node, kept: Kept) -> None:
        first = int(kept(before).sum())
        _set(node, "start", first)
        _set(node, "end", first + int(kept(found.ids).sum()))

    t.spaces.mends.append((node.name, mend))
    return found


def select(t: Tracer, node: fx.Node) -> Carried:
    """One place of an axis, which goes; where the axis holds channels, the place is counted anew."""
    x, shape = t.value(node.args[0]), t.shapes[node.args[0]]  # type: ignore[index]
    (axis,), index = axes_of(node, "dim", len(shape)), argument(node, "index")
    if x is None:
        return None
    others = tuple(a - (a > axis) for a in x.axes if a != axis)
    if axis not in x.axes:
        return Along(axes=others, ids=x.ids)
    place = x.axes.index(axis)
    _count_places(t, node, x.ids, place)
    found = x.ids.take(index, place)
    if not others:
        t.spaces.fix(found, f"'{t.where(node)}' picks it out")
        return None
    return Along(axes=others, ids=found)


def _count_places(t: Tracer, node: fx.Node, ids: Ids, place: int) -> None:
    rest = tuple(a for a in range(ids.ndim) if a != place)
    index = argument(node, "index") % ids.shape[place]
    t.spaces.needs.append((t.where(node), ids.take(index, place)))

    def mend(node: fx.Node, kept: Kept) -> None:
        _set(node, "index", int(np.any(kept(ids), axis=rest, keepdims=True).ravel()[:index].sum()))

    t.spaces.mends.append((node.name, mend))


def split(t: Tracer, node: fx.Node) -> Carried:
    """An axis in parts: each part has the ids of its place, and the sizes are written anew."""
    x, shape = t.value(node.args[0]), t.shapes[node.args[0]]  # type: ignore[index]
    (axis,) = axes_of(node, "dim", len(shape))
    sizes = _part_sizes(node, shape[axis])
    if x is None:
        return None
    if axis not in x.axes:
        return [x] * len(sizes)
    if x.axes != (axis,):
        return unknown(t, node)
    parts = np.split(x.ids, np.cumsum(sizes)[:-1])
    t.spaces.needs.extend((t.where(node), part) for part in parts)

    def mend(node: fx.Node, kept: Kept) -> None:
        left = [int(kept(part).sum()) for part in parts]
        if left != sizes:
            node.target = torch.ops.aten.split_with_sizes.default
            node.args, node.kwargs = (node.args[0], left, axis), {}

    t.spaces.mends.append((node.name, mend))
    return [Along(axes=(axis,), ids=part) for part in parts]


def _part_sizes(node: fx.Node, size: int) -> list[int]:
    """How long each part is."""
    name, given = str(node.target), cast(Any, node.args[1])
    if "split_with_sizes" in name:
        return list(given)
    if "tensor_split.indices" in name:
        bounds = [0, *(min(i % size if i < 0 else i, size) for i in given), size]
        return [b - a for a, b in zip(bounds, bounds[1:])]
    if "tensor_split" in name:
        return [len(part) for part in np.array_split(np.arange(size), given)]
    width = -(-size // given) if "chunk" in name else given
    return [min(width, size - start) for start in range(0, size, width)]


def unbind(t: Tracer, node: fx.Node) -> Carried:
    """Every place of an axis by itself; along the channels' own axis only where each place holds some of every kind (q, k and v)."""
    x, shape = t.value(node.args[0]), t.shapes[node.args[0]]  # type: ignore[index]
    (axis,) = axes_of(node, "dim", len(shape))
    if x is None:
        return None
    others = tuple(a - (a > axis) for a in x.axes if a != axis)
    if axis not in x.axes:
        return [Along(axes=others, ids=x.ids)] * shape[axis]
    if not others:
        return unknown(t, node)
    place = x.axes.index(axis)
    pieces = [np.take(x.ids, [i], place).squeeze(place) for i in range(shape[axis])]
    for piece in pieces:  # the number of places is the number of results, so none may go: what goes takes a bit of each
        t.spaces.join(pieces[0], piece, t.where(node))
    return [Along(axes=others, ids=piece) for piece in pieces]


def item(t: Tracer, node: fx.Node) -> Carried:
    """One of several results."""
    found = t.values.get(node.args[0])  # type: ignore[arg-type]
    return found[node.args[1]] if isinstance(found, list) else found  # type: ignore[index]


def pad(t: Tracer, node: fx.Node) -> Carried:
    """Pads the last axes; what is put beside channels stays."""
    x, given = t.value(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    if x is None:
        return None
    dims = len(t.shapes[node])
    sides = {dims - 1 - i: (given[2 * i], given[2 * i + 1]) for i in range(len(given) // 2)}
    widths = [sides.get(axis, (0, 0)) for axis in x.axes]
    if any(side < 0 for width in widths for side in width) or (any(map(any, widths)) and argument_mode(node) != "constant"):
        return unknown(t, node)
    return Along(axes=x.axes, ids=np.pad(x.ids, widths, constant_values=STAYS))


def argument_mode(node: fx.Node) -> str:
    """How a pad fills: "constant" for the op that can do no other."""
    return str(argument(node, "mode")) if str(node.target) == "aten.pad.default" else "constant"


def turn(t: Tracer, node: fx.Node) -> Carried:
    """Moves entries along the axes in ``dims``; channels along another pass."""
    x = t.value(node.args[0])
    return unknown(t, node) if x is None or set(x.axes) & set(axes_of(node, "dims", len(t.shapes[node]))) else x


def shuffle(t: Tracer, node: fx.Node) -> Carried:
    """``channel_shuffle``: the g parts of axis 1 are dealt out in turn; equal parts are left equal."""
    x, groups = t.value(node.args[0]), argument(node, "groups")
    if x is None or x.axes != (1,):
        return unknown(t, node)
    box = x.ids.reshape(groups, -1)
    t.spaces.join(box, box[:1], t.where(node))
    return Along(axes=(1,), ids=box.T.ravel())


def pixel_shuffle(t: Tracer, node: fx.Node) -> Carried:
    """r² channels become one of r × r pixels: they go together."""
    x, factor = t.value(node.args[0]), argument(node, "upscale_factor")
    if x is None or x.axes != (1,):
        return unknown(t, node)
    box = x.ids.reshape(-1, factor * factor)
    t.spaces.join(box, box[:, :1], t.where(node))
    return Along(axes=(1,), ids=box[:, 0].copy())


def pixel_unshuffle(t: Tracer, node: fx.Node) -> Carried:
    """One channel becomes r², which go with it."""
    x, factor = t.value(node.args[0]), argument(node, "downscale_factor")
    if x is None or x.axes != (1,):
        return unknown(t, node)
    return Along(axes=(1,), ids=x.ids.repeat(factor * factor))


def _set(node: fx.Node, name: str, value: Any) -> None:
    """Write an argument by its name."""
    place = place_of(node, name)
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)
