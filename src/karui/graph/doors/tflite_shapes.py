"""Rules for what gives elements other axes, or puts tensors side by side: axes are translated to where the node holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch

from karui.graph.doors.drawing import SIZES, Known, Live, Value
from karui.graph.doors.tflite_axes import axes_of, hidden, inserted, without
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import CHANNELS_FIRST, Held, Scene, Spread, plain_order
from karui.graph.doors.tflite_windows import padded

aten = torch.ops.aten


def _targets(s: Scene, op: Operator, i: int) -> tuple[list[int], list[int]]:
    """A shape that the file gives as a constant or works out, for either batch size."""
    known = s.known(op, i)
    if known is None:
        s.refuse("a computed shape", "make it a constant of the file")
    two, three = ([int(n) for n in each.reshape(-1).tolist()] for each in (known.two, known.three))
    if len(two) > 8 or len(two) != len(three) or any(n < -1 for n in (*two, *three)) or two.count(-1) > 1:
        s.refuse(f"the shape {two[:8]}", "check the file")
    return two, three


def _reshape(s: Scene, op: Operator) -> Held:
    x = s.held(op, 0)
    if s.has(op, 1):
        two, three = _targets(s, op, 1)
    else:
        two = [int(n) for n in op.option("NewShape", ())]
        three = list(two)
    if two != three:  # worked out from the batch: what is left open is known
        two, three = (_filled_in(sizes, value.numel()) for sizes, value in ((two, x.value.two), (three, x.value.three)))
    return s.reshaped(x, two, three)


def _filled_in(sizes: Sequence[int], total: int) -> list[int]:
    rest = prod(n for n in sizes if n != -1)
    return [n if n != -1 else total // max(rest, 1) for n in sizes]


def _transpose(s: Scene, op: Operator) -> Held:
    """The file's axes get new places; nothing moves."""
    x, perm = s.held(op, 0), s.numbers(op, 1, "permutation")
    perm = [p + x.rank if p < 0 else p for p in perm]
    if sorted(perm) != list(range(x.rank)):
        s.refuse(f"the permutation {perm} of {x.rank} axes", "check the file")
    if isinstance(x.value, Known):
        return Held(value=s.drawing.call(aten.permute.default, s.plain(x).value, perm), order=plain_order(x.rank))
    return replace(x, order=tuple(-1 if axis < 0 else perm.index(axis) for axis in x.order))


def _squeeze(s: Scene, op: Operator) -> Held:
    """Axes of size one go; so does the batch in a file of one sample, out of sight."""
    x = s.held(op, 0)
    shape = [1 if axis == x.batch and size == SIZES[0] else size for axis, size in enumerate(x.shape)]
    axes = [axis % max(x.rank, 1) for axis in op.option("SqueezeDims", ())] or [axis for axis, size in enumerate(shape) if size == 1]
    if any(axis >= x.rank or shape[axis] != 1 for axis in axes):
        s.refuse(f"a squeeze of axes {axes} of {shape}", "check the file")
    if x.batch is not None and x.batch in axes:
        x, axes = hidden(s, x), [axis - 1 for axis in axes if axis != x.batch]
    if not axes:
        return x
    places = sorted(x.axis(axis) for axis in set(axes))
    return Held(value=s.drawing.call(aten.squeeze.dims, x.value, places), order=without(x, axes))


def _expand_dims(s: Scene, op: Operator) -> Held:
    x, axis = s.held(op, 0), s.numbers(op, 1, "axis")[0]
    axis = axis + x.rank + 1 if axis < 0 else axis
    if not 0 <= axis <= x.rank or x.rank >= 8:
        s.refuse(f"a new axis {axis} among {x.rank}", "check the file")
    return inserted(s, x, axis)


def _beside(s: Scene, part: Held, live: Held | None) -> Value:
    """A constant that is to stand beside live values, once per sample."""
    if isinstance(part.value, Live) or live is None or live.value.two.dim() == 0 or live.sample is None:
        return part.value
    if live.hidden:
        return s.repeated(s.drawing.call(aten.unsqueeze.default, part.value, 0))
    if not part.value.two.dim():
        return part.value
    if part.value.fixed and part.value.two.shape[0] != 1:
        s.refuse("a constant that has a batch", "convert the file with one row per sample")
    return s.repeated(part.value)


def _concatenation(s: Scene, op: Operator) -> Held:
    parts = [s.held(op, i) for i in range(len(op.inputs))]
    if not parts or any(p.rank != parts[0].rank for p in parts):
        s.refuse("a concatenation of tensors of several ranks", "check the file")
    parts = s.aligned(*parts)
    live = next((p for p in parts if isinstance(p.value, Live)), None)
    like = live or parts[0]
    (axis,) = axes_of(s, like, [int(op.option("Axis", 0))], op.kind)
    values = [_beside(s, p, live) for p in parts]
    return Held(value=s.drawing.call(aten.cat.default, values, like.axis(axis)), order=like.order)


def _pack(s: Scene, op: Operator) -> Held:
    """Tensors side by side along a new axis."""
    parts = [s.plain(p) for p in s.aligned(*(s.held(op, i) for i in range(len(op.inputs))))]
    live = next((p for p in parts if isinstance(p.value, Live)), None)
    like = live or parts[0]
    axis = int(op.option("Axis", 0)) % (like.rank + 1)
    value = s.drawing.call(aten.stack.default, [_beside(s, p, live) for p in parts], axis + like.hidden)
    return Held(value=value, order=plain_order(like.rank + 1, like.hidden))


def _unpack(s: Scene, op: Operator) -> tuple[Held, ...]:
    x = s.held(op, 0)
    (axis,) = axes_of(s, x, [int(op.option("Axis", 0))], op.kind)
    if x.shape[axis] != len(op.outputs):
        s.refuse(f"{len(op.outputs)} outputs for {x.shape[axis]} parts", "check the file")
    return tuple(Held(value=part, order=without(x, [axis])) for part in s.drawing.call(aten.unbind.int, x.value, x.axis(axis)))


def _split(s: Scene, op: Operator, x: int, axis: int) -> tuple[Held, ...]:
    held = s.held(op, x)
    (at,) = axes_of(s, held, s.numbers(op, axis, "axis")[:1], op.kind)
    size, count = held.shape[at], len(op.outputs)
    if op.kind == "SPLIT":
        sizes = [size // max(count, 1)] * count
    else:
        sizes = s.numbers(op, 1, "sizes")
        sizes = [size - sum(n for n in sizes if n != -1) if n == -1 else n for n in sizes]
    if len(sizes) != count or sum(sizes) != size or any(n < 0 for n in sizes):
        s.refuse(f"a split of {size} into {sizes[:16]}", "check the file")
    place = held.axis(at)
    equal = all(n == sizes[0] for n in sizes) and sizes[0] > 0
    target = aten.split.Tensor if equal else aten.split_with_sizes.default
    parts = s.drawing.call(target, held.value, sizes[0] if equal else sizes, place)
    return tuple(replace(held, value=part) for part in parts)


def _broadcast(s: Scene, op: Operator) -> Held:
    x, (two, three) = s.held(op, 0), _targets(s, op, 1)
    x = s.widened(x, max(len(two), x.rank), x.hidden and (len(two) <= x.rank or two[0] != 1))
    sizes = [n if x.shape[axis] != n and axis != x.batch else -1 for axis, n in enumerate(two)]
    if x.batch is not None and two[x.batch] not in (1, SIZES[0]):
        s.refuse("copies along the batch axis", "samples must not depend on each other")
    if isinstance(x.value, Known):
        return Held(value=_copied(s, x.value, two, three), order=x.order)
    if two != three and any(a != b for axis, (a, b) in enumerate(zip(two, three, strict=True)) if axis != x.batch):
        s.refuse("copies as many as the batch has samples", "samples must not depend on each other")
    return x if all(n == -1 for n in sizes) else s.keep(x, aten.expand.default, x.laid(sizes, -1))


def _copied(s: Scene, known: Known, two: list[int], three: list[int]) -> Known:
    first = s.drawing.call(aten.expand.default, s.drawing.known(known.two), two)
    second = first if known.fixed and two == three else s.drawing.call(aten.expand.default, s.drawing.known(known.three), three)
    return Known(two=first.two, three=second.two, name=known.name)


def _tile(s: Scene, op: Operator) -> Held:
    x, counts = s.held(op, 0), s.numbers(op, 1, "multiples")
    if len(counts) != x.rank or any(n < 1 for n in counts):
        s.refuse(f"multiples {counts[:8]} of {x.rank} axes", "check the file")
    if x.batch is not None and counts[x.batch] != 1:
        s.refuse("copies along the batch axis", "samples must not depend on each other")
    return x if all(n == 1 for n in counts) else s.keep(x, aten.repeat.default, x.laid(counts))


# ── channels, space and batch ───────────────────────────────────────────────────────────────────────────────────────────────────


def _depth_to_space(s: Scene, op: Operator) -> Held:
    """Channels (row, column, channel) become pixels; torch's pixel_shuffle reads (channel, row, column), so they are shuffled first."""
    x, block = s.image(s.held(op, 0)), int(op.option("BlockSize", 0))
    if block < 1 or x.shape[3] % (block * block):
        s.refuse(f"{x.shape[3]} channels for blocks of {block} × {block}", "check the file")
    mixed = x if x.shape[3] == block * block or block == 1 else s.keep(x, aten.channel_shuffle.default, block * block)
    return s.keep(mixed, aten.pixel_shuffle.default, block)


def _space_to_depth(s: Scene, op: Operator) -> Held:
    x, block = s.image(s.held(op, 0)), int(op.option("BlockSize", 0))
    if block < 1 or any(n % block for n in x.shape[1:3]):
        s.refuse(f"an image of {x.shape[1:3]} for blocks of {block} × {block}", "check the file")
    mixed = s.keep(x, aten.pixel_unshuffle.default, block)
    return mixed if x.shape[3] == 1 or block == 1 else s.keep(mixed, aten.channel_shuffle.default, x.shape[3])


def _space_to_batch(s: Scene, op: Operator) -> Held:
    """Nothing yet: how the value is dealt out is remembered for the convolution behind it."""
    x = s.image(s.held(op, 0))
    block, flat = s.numbers(op, 1, "block"), s.numbers(op, 2, "paddings")
    pads = tuple(zip(flat[::2], flat[1::2], strict=True))
    fits = len(block) == len(pads) == 2 and min(block) >= 1 and min(flat) >= 0
    if not fits or any((n + sum(p)) % b for n, b, p in zip(x.shape[1:3], block, pads, strict=True)):
        s.refuse(f"blocks {block} of an image of {list(x.shape[1:3])}", "check the file")
    return replace(x, spread=Spread(block=tuple(block), padding=pads))


def _batch_to_space(s: Scene, op: Operator) -> Held:
    x, block, crops = s.dealt(op, 0), s.numbers(op, 1, "block"), s.numbers(op, 2, "crops")
    if x.spread is None or tuple(block) != x.spread.block or len(crops) != 4 or min(crops) < 0:
        s.refuse("BATCH_TO_SPACE_ND without its SPACE_TO_BATCH_ND", "only a convolution may stand between the two")
    pads = ((0, 0), (0, 0)) if not x.spread.padding else ((-crops[0], -crops[1]), (-crops[2], -crops[3]))
    return Held(value=padded(s, x.value, pads), order=CHANNELS_FIRST)


RULES: Mapping[str, Rule] = {
    "RESHAPE": _reshape,
    "TRANSPOSE": _transpose,
    "SQUEEZE": _squeeze,
    "EXPAND_DIMS": _expand_dims,
    "CONCATENATION": _concatenation,
    "PACK": _pack,
    "UNPACK": _unpack,
    "SPLIT": lambda s, op: _split(s, op, 1, 0),
    "SPLIT_V": lambda s, op: _split(s, op, 0, 2),
    "BROADCAST_TO": _broadcast,
    "TILE": _tile,
    "DEPTH_TO_SPACE": _depth_to_space,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "BATCH_TO_SPACE_ND": _batch_to_space,
}
