"""How layers make, take and join channels: convolutions, linear layers, norms, adds, attention."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from karui.graph.carry import Carried, Tracer, argument, axes_of, constant, parameter_of, place_of, same, set_size, unknown
from karui.graph.spaces import Along, Ids, Kept

# what may stand between a parameter and where it meets channels: it repeats or cuts along other axes
SPREADS = ("aten.expand.default", "aten.repeat.default", "aten.slice.Tensor", "aten.unsqueeze.default")
VIEWS = ("aten.view.default", "aten.reshape.default")
COPIES = ("aten.detach.default", "aten.clone.default", "aten.to.dtype")


def spatial(axes: int) -> Callable[[Tracer, fx.Node], Carried]:
    """Works on the last ``axes`` axes."""

    def rule(t: Tracer, node: fx.Node) -> Carried:
        x = t.value(node.args[0])
        return x if x is None or max(x.axes) < len(t.shapes[node.args[0]]) - axes else unknown(t, node)  # type: ignore[index]

    return rule


def linear(t: Tracer, node: fx.Node) -> Carried:
    """Takes the last axis to new channels. Channels along another axis pass by."""
    x, last = t.value(node.args[0]), len(t.shapes[node]) - 1
    if x is not None and last not in x.axes:
        t.fix([n for n in node.all_input_nodes if parameter_of(n) is not None], f"'{t.where(node)}' mixes positions, not channels")
        return x
    return Along(axes=(last,), ids=produce(t, node, None if x is None else t.flat(x, last, node), out_axis=0))


def convolution(t: Tracer, node: fx.Node) -> Carried:
    """A dense one opens new channels; a depthwise one carries its input's; of a grouped one every group loses the same places."""
    x, groups, transposed = t.value(node.args[0]), argument(node, "groups"), "transpose" in str(node.target)
    if x is not None and x.axes != (1,):
        return _past(t, node, x)
    inputs = None if x is None else x.ids
    if groups == 1:
        return Along(axes=(1,), ids=produce(t, node, inputs, out_axis=1 if transposed else 0))
    channels, outputs = t.shapes[node.args[0]][1], t.shapes[node][1]  # type: ignore[index]
    if groups == channels:
        return depthwise(t, node, inputs, outputs // channels, transposed)
    part = None if inputs is None else inputs[: channels // groups]
    if transposed:  # its weight is [C, O / groups, …]: a column makes one channel of each group
        t.claim(node.args[1], 0, inputs, node, "in")
        own = t.spaces.open(outputs // groups)
        ids = np.tile(own, groups)
        t.claim(node.args[1], 1, own, node, "out")
        t.claim(argument(node, "bias"), 0, ids, node)
        if (name := parameter_of(node.args[1])) is not None:
            t.spaces.makers.append((name, 1, own))
    else:
        ids = produce(t, node, part, out_axis=0)
        fold(t, ids, groups, node)
    if inputs is not None:
        fold(t, inputs, groups, node)
    return Along(axes=(1,), ids=ids)


def _past(t: Tracer, node: fx.Node, x: Along) -> Carried:
    """A convolution that mixes another axis (tokens, in a mixer) and takes each place of the channels' by itself lets them pass."""
    kernel, dims = t.shapes[cast(Any, node.args[1])][2:], len(t.shapes[node])
    alone = all(kernel[axis - 2] == 1 and t.shapes[node][axis] == t.shapes[cast(Any, node.args[0])][axis] for axis in x.axes if axis > 1)
    if 1 in x.axes or not alone or dims != len(kernel) + 2:
        return unknown(t, node)
    t.fix([n for n in node.all_input_nodes if parameter_of(n) is not None], f"'{t.where(node)}' mixes positions, not channels")
    return x


def fold(t: Tracer, ids: Ids, parts: int, at: fx.Node) -> None:
    """Equal parts of an axis lose the same places."""
    if len(ids) % parts == 0:
        box = ids.reshape(parts, -1)
        t.spaces.join(box, box[:1], t.where(at))


def depthwise(t: Tracer, node: fx.Node, inputs: Ids | None, factor: int, transposed: bool) -> Carried:
    """Each input channel makes ``factor`` outputs, and they go with it."""
    if inputs is None:
        t.fix(node.all_input_nodes, f"'{t.where(node)}' works on channels that stay, each by itself")
        return None
    ids = inputs.repeat(factor)
    t.claim(node.args[1], 0, inputs if transposed else ids, node)
    t.claim(argument(node, "bias"), 0, ids, node)
    place = place_of(node, "groups")

    def mend(node: fx.Node, kept: Kept) -> None:
        set_size(node, place, None, int(kept(inputs).sum()))

    t.spaces.mends.append((node.name, mend))
    return Along(axes=(1,), ids=ids)


def produce(t: Tracer, node: fx.Node, inputs: Ids | None, *, out_axis: int) -> Ids:
    """New output channels of a layer; its input channels are ``inputs``."""
    weight = node.args[1]
    shape = t.shapes[weight]  # type: ignore[index]
    ids = t.spaces.open(shape[out_axis])
    name = parameter_of(weight)
    if name is not None:
        t.spaces.makers.append((name, out_axis, ids))
    t.claim(weight, 1 - out_axis, inputs, node, "in")
    t.claim(weight, out_axis, ids, node, "out")
    t.claim(argument(node, "bias"), 0, ids, node)
    return ids


def embedding(t: Tracer, node: fx.Node) -> Carried:
    """A row of the table for each index: the columns are new channels along a new last axis."""
    name = parameter_of(node.args[0])
    if name is None:
        return unknown(t, node)
    ids = t.spaces.open(t.shapes[node][-1])
    t.spaces.makers.append((name, 1, ids))
    t.claim(node.args[0], 1, ids, node, "out")
    return Along(axes=(len(t.shapes[node]) - 1,), ids=ids)


# ── norms ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def batch_norm(t: Tracer, node: fx.Node) -> Carried:
    """Axis 1, each channel by itself."""
    x = t.value(node.args[0])
    if x is not None and x.axes != (1,):
        return unknown(t, node)
    for each in node.args[1:5]:
        t.claim(each, 0, None if x is None else x.ids, node)
    return x


def group_norm(t: Tracer, node: fx.Node) -> Carried:
    """Axis 1 in equal parts, each normalised by itself: they lose the same places, so that they stay equal."""
    x = t.value(node.args[0])
    if x is not None and x.axes != (1,):
        return unknown(t, node)
    for name in ("weight", "bias"):
        t.claim(argument(node, name), 0, None if x is None else x.ids, node)
    if x is not None:
        fold(t, x.ids, argument(node, "num_groups"), node)
    return x


def layer_norm(t: Tracer, node: fx.Node) -> Carried:
    """Over the last axes: a channel less is left out of the mean, and the written size shrinks."""
    x, sizes = t.value(node.args[0]), argument(node, "normalized_shape")
    first = len(t.shapes[node]) - len(sizes)
    for axis in range(first, first + len(sizes)):
        along = None if x is None or axis not in x.axes else x
        ids = None if along is None else t.flat(along, axis, node)
        for name in ("weight", "bias"):
            t.claim(argument(node, name), axis - first, ids, node)
        if along is not None:
            t.mend_size(node, place_of(node, "normalized_shape"), axis - first, along, axis)
    return x


def prelu(t: Tracer, node: fx.Node) -> Carried:
    """One slope, or one per channel of axis 1."""
    x, slope = t.value(node.args[0]), node.args[1]
    if x is not None and t.shapes[slope] != (1,):  # type: ignore[index]
        if x.axes != (1,):
            return unknown(t, node)
        t.claim(slope, 0, x.ids, node)
    return x


# ── where values meet ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def binary(t: Tracer, node: fx.Node) -> Carried:
    """Entry by entry with broadcasting: channels that meet are joined."""
    sides = [a for a in node.args[:2] if isinstance(a, fx.Node) and a in t.shapes]
    carrying = {a: along for a in sides if (along := t.value(a)) is not None}
    if not carrying:
        return None
    dims = len(t.shapes[node])
    placed = {a: Along(axes=tuple(i + dims - len(t.shapes[a]) for i in along.axes), ids=along.ids) for a, along in carrying.items()}
    # the side whose channels aren't broadcast says where the result's are
    main = max(placed, key=lambda a: (placed[a].ids.size, -sides.index(a)))
    result = placed[main]
    for other in sides:
        if other is not main:
            _meet(t, node, result, other, placed.get(other))
    return result


def _meet(t: Tracer, node: fx.Node, result: Along, other: fx.Node, along: Along | None) -> None:
    """The other side of an op of two values, against the channels of the result."""
    dims, shape, where = len(t.shapes[node]), t.shapes[other], t.where(node)
    full = [axis for axis in result.axes if axis >= dims - len(shape) and shape[axis - dims + len(shape)] == t.shapes[node][axis]]
    if along is not None:
        fits = set(along.axes) <= set(full)
        if fits and set(full) == set(result.axes) and all(t.shapes[node][a] == along.ids.shape[along.axes.index(a)] for a in along.axes):
            spread = [along.ids.shape[along.axes.index(a)] if a in along.axes else 1 for a in result.axes]
            t.spaces.join(result.ids, along.ids.reshape(spread), where)
        else:  # a mask over positions, an outer sum: its own channels lie elsewhere
            for ids in (along.ids, result.ids):
                t.spaces.fix(ids, f"'{where}' broadcasts its channels")
    elif parameter_of(other) is not None:
        for axis in full:
            t.claim(other, axis - dims + len(shape), t.flat(result, axis, node), node)
    elif full and not all(adopt(t, other, axis - dims + len(shape), t.flat(result, axis, node), node) for axis in full):
        t.spaces.fix(result.ids, f"'{where}' joins them with values whose channels stay")


def adopt(t: Tracer, node: fx.Node, axis: int, ids: Ids, at: fx.Node) -> bool:
    """Let an axis of a parameter be made of ``ids``, where it is only spread or cut along other axes (a class token, a table of places), or
    computed with entry by entry (``sqrt(variance + eps)``) before the channels meet it.
    """
    steps: list[tuple[fx.Node, int]] = []
    while parameter_of(node) is None:
        found = _inside(t, node, axis)
        if found is None or t.shapes[found[0]][found[1]] != t.shapes[node][axis]:
            return False
        if str(node.target) in ("aten.expand.default", *VIEWS):
            steps.append((node, axis))
        node, axis = found
    if t.shapes[node][axis] != len(ids):
        return False
    for each, place in steps:
        t.mend_size(each, 1, place, Along(axes=(place,), ids=ids), place)
    t.claim(node, axis, ids, at)
    return True


def _inside(t: Tracer, node: fx.Node, axis: int) -> tuple[fx.Node, int] | None:
    """What a step towards a parameter was made of, and where the axis is there."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    word, shape, inputs = str(node.target), t.shapes[node], [n for n in node.all_input_nodes if n in t.shapes]
    if word in VIEWS:  # of a vector: its axis is the only one that has any entries
        inner = cast(fx.Node, node.args[0])
        long = [i for i, size in enumerate(t.shapes[inner]) if size != 1]
        return (inner, long[0]) if len(long) == 1 and prod(shape) == shape[axis] else None
    if torch.Tag.pointwise in node.target.tags or word in COPIES:
        whole = [n for n in inputs if prod(t.shapes[n]) != 1]
        return (whole[0], axis) if len(whole) == 1 and t.shapes[whole[0]] == shape else None
    if word not in SPREADS:
        return None
    inner = cast(fx.Node, node.args[0])
    place = axis - len(shape) + len(t.shapes[inner])
    if word == "aten.unsqueeze.default":
        (new,) = axes_of(node, "dim", len(shape))
        place = -1 if new == axis else axis - (new < axis)
    return (inner, place) if place >= 0 else None


def concat(t: Tracer, node: fx.Node) -> Carried:
    """Along the channel axis: one after the other; along another: joined."""
    parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    (axis,) = axes_of(node, "dim", len(t.shapes[node]))
    known = {p: along for p in parts if (along := t.value(p)) is not None}
    if not known:
        return None
    first = next(iter(known.values()))
    if {along.axes for along in known.values()} != {first.axes}:
        return unknown(t, node)
    if axis not in first.axes:
        if not all(p in known or (len(first.axes) == 1 and adopt(t, p, first.axes[0], first.ids, node)) for p in parts):
            return unknown(t, node)
        for along in known.values():
            t.spaces.join(first.ids, along.ids, t.where(node))
        return first
    t.fix([p for p in parts if parameter_of(p) is not None], f"'{t.where(node)}' concatenates it")
    place = first.axes.index(axis)
    pieces = [known[p].ids if p in known else constant([t.shapes[p][a] for a in first.axes]) for p in parts]
    return Along(axes=first.axes, ids=np.concatenate(pieces, place))


def glu(t: Tracer, node: fx.Node) -> Carried:
    """The first half of an axis times the sigmoid of the second: each channel goes with the one that gates it."""
    x, dims = t.value(node.args[0]), len(t.shapes[node])
    (axis,) = axes_of(node, "dim", dims)
    if x is None or axis not in x.axes:
        return x
    if x.axes != (axis,):
        return unknown(t, node)
    first, second = np.split(x.ids, 2)
    t.spaces.join(first, second, t.where(node))
    return Along(axes=(axis,), ids=first)


def reduce(t: Tracer, node: fx.Node) -> Carried:
    """A mean or sum over some axes."""
    x, dims = t.value(node.args[0]), len(t.shapes[node.args[0]])  # type: ignore[index]
    gone = axes_of(node, "dim", dims) if argument(node, "dim") else tuple(range(dims))
    if x is None or set(x.axes) & set(gone):
        return unknown(t, node)
    return x if argument(node, "keepdim") else Along(axes=tuple(axis - sum(a < axis for a in gone) for axis in x.axes), ids=x.ids)


# ── attention ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def matmul(t: Tracer, node: fx.Node) -> Carried:
    """``[…, M, K] · […, K, N]``: a product whose axes before the last two stand for themselves."""
    a, b = cast(Any, node.args[0]), cast(Any, node.args[1])
    left, right = len(t.shapes[a]), len(t.shapes[b])
    if min(left, right) < 2:
        return unknown(t, node)
    many = [str(axis) for axis in range(max(left, right) - 2)]
    labels = ([*many[len(many) - left + 2 :], "M", "K"], [*many[len(many) - right + 2 :], "K", "N"])
    return product(t, node, (a, b), labels, [*many, "M", "N"])


def einsum(t: Tracer, node: fx.Node) -> Carried:
    """A product of two operands whose axes have letters; any other sum is left alone."""
    inputs, _, result = str(node.args[0]).replace(" ", "").partition("->")
    labels, operands = [list(each) for each in inputs.split(",")], list(cast(Any, node.args[1]))
    plain = result and "." not in inputs and all(len(set(each)) == len(each) for each in [*labels, result])
    return product(t, node, operands, labels, list(result)) if plain and len(operands) == 2 else unknown(t, node)


def product(t: Tracer, node: fx.Node, operands: Sequence[Any], labels: Sequence[Sequence[str]], result: Sequence[str]) -> Carried:
    """What both operands have is joined; a head (an axis of both and of the result) goes with all that it holds; one set is carried on."""
    if any(parameter_of(each) is not None for each in operands):
        return unknown(t, node)
    found: dict[str, list[Ids]] = {}
    for operand, own, other in zip(operands, labels, reversed(labels), strict=True):
        if (x := t.value(operand)) is not None:
            held = [own[axis] for axis in x.axes]
            heads = [label for label in held if label in other and label in result]
            for label in heads or [label for label in held if label in result] or held:
                found.setdefault(label, []).append(t.flat(x, own.index(label), node))
    carried = []
    for label, sides in found.items():
        shared = all(label in own for own in labels)
        if shared and len(sides) < 2:
            t.spaces.fix(sides[0], f"'{t.where(node)}' multiplies them with values that stay")
        elif shared and len(sides[0]) != len(sides[1]):
            t.spaces.fix(np.concatenate(sides), f"'{t.where(node)}' broadcasts its heads")
        else:
            t.spaces.join(sides[0], sides[-1], t.where(node))
            carried += [Along(axes=(result.index(label),), ids=sides[0])] if label in result else []
    if len(carried) > 1:
        for along in carried:
            t.spaces.fix(along.ids, f"'{t.where(node)}' makes a product of two sets of channels")
    return carried[0] if len(carried) == 1 else None


def attention(t: Tracer, node: fx.Node) -> Carried:
    """Heads of queries, keys and values go together; single places of a head stay, because the scores are scaled by their number."""
    if len(node.args) > 3 and isinstance(node.args[3], fx.Node):
        t.fix([node.args[3]], f"'{t.where(node)}' takes it as a mask")
    heads = join_heads(t, node, node.args[:3])
    if heads is not None:
        return heads
    t.fix([n for n in node.args[:2] if isinstance(n, fx.Node)], f"'{t.where(node)}' scales its scores by the size of a head")
    return t.value(node.args[2])


def join_heads(t: Tracer, node: fx.Node, operands: Sequence[Any]) -> Along | None:
    """The channels along an axis before the last two, where any operand has such: all that a head holds goes with it."""
    dims, found = len(t.shapes[node]), []
    for each in operands:
        own = [(axis, ids) for axis, ids in by_axis(t, node, each).items() if axis < dims - 2]
        found.extend(own)
    if not found:
        return None
    axis, ids = found[0]
    fits = len(found) == len(operands) and all(a == axis and len(i) == t.shapes[node][axis] for a, i in found)
    for _, other in found:
        if fits:
            t.spaces.join(ids, other, t.where(node))
        else:
            t.spaces.fix(other, f"'{t.where(node)}' shares its heads with values that stay")
    return Along(axes=(axis,), ids=ids) if fits else None


def by_axis(t: Tracer, node: fx.Node, operand: Any) -> dict[int, Ids]:
    """An operand's ids by the result's axes; where there are heads, only those, which hold everything behind them."""
    x = t.value(operand)
    if x is None:
        return {}
    shift = len(t.shapes[node]) - len(t.shapes[operand])
    heads = [axis for axis in x.axes if axis + shift < len(t.shapes[node]) - 2]
    return {axis + shift: t.flat(x, axis, node) for axis in heads or x.axes}


def fake_quantize(t: Tracer, node: fx.Node) -> Carried:
    """On an activation, with one scale for all of it."""
    return same(t, node) if argument(node, "axis") is None else unknown(t, node)


def exit_if(t: Tracer, node: fx.Node) -> Carried:
    """Scores: an output of the network, wherever it stands."""
    t.fix(node.all_input_nodes, f"they are scores, which may leave the network at '{t.where(node)}'")
    return None
