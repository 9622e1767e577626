"""Rules for what takes parts of a tensor, turns it round, or adds rows around it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from karui.graph.doors.drawing import LARGEST_CONSTANT, SIZES, Known, Live
from karui.graph.doors.tflite_axes import axes_of, hidden, inserted, without
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_layers import embedded
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import Held, Scene, plain_order

aten = torch.ops.aten

Cut = tuple[int, int, int]  # start, stop, step, as Python means them


def _cut(s: Scene, x: Held, cuts: Sequence[Cut]) -> Held:
    """One cut for each axis of the file."""
    for axis, (start, stop, step) in enumerate(cuts):
        size = x.shape[axis]
        places = range(start, stop, step)
        if len(places) == size and step == 1:
            continue
        s.batch_axis(x, axis, "a slice")
        if not places:
            s.refuse(f"an empty slice of axis {axis}", "check the file")
        if step < 0:
            x = s.keep(x, aten.flip.default, [x.axis(axis)])
            start, stop, step = size - 1 - start, size - 1 - places[-1] + 1, -step
        x = s.keep(x, aten.slice.Tensor, x.axis(axis), start, min(stop, size), step)
    return x


def _slice(s: Scene, op: Operator) -> Held:
    x, begin, size = s.held(op, 0), s.numbers(op, 1, "begin"), _sizes(s, op, 2)
    if len(begin) != x.rank or len(size) != x.rank:
        s.refuse(f"a slice of {x.rank} axes by {len(begin)} numbers", "check the file")
    cuts: list[Cut] = []
    for axis, (first, count, whole) in enumerate(zip(begin, size, x.shape, strict=True)):
        if axis == x.batch and first == 0 and count in (-1, 1, SIZES[0]):
            cuts.append((0, whole, 1))
            continue
        count = whole - first if count == -1 else count
        if first < 0 or count < 1 or first + count > whole:
            s.refuse(f"a slice of {count} from {first} of {whole}", "check the file")
        cuts.append((first, first + count, 1))
    return _cut(s, x, cuts)


def _sizes(s: Scene, op: Operator, i: int) -> list[int]:
    """Whole numbers, for the first batch size."""
    known = s.known(op, i)
    if known is None:
        s.refuse("a computed size", "make it a constant of the file")
    return [int(n) for n in known.two.reshape(-1).tolist()]


def _strided(s: Scene, op: Operator) -> Held:
    """NumPy's x[a:b:c, …, None, i]: masks say which numbers to leave out, and what is a single place or a new axis."""
    x, begin, end, step = s.held(op, 0), s.numbers(op, 1, "begin"), _sizes(s, op, 2), s.numbers(op, 3, "strides")
    if not len(begin) == len(end) == len(step) or 0 in step or len(begin) > 16:
        s.refuse("a slice whose numbers don't fit each other", "check the file")
    count = len(begin)
    starts, stops, ellipsis, news, singles = (_bits(op, name, count) for name in ("Begin", "End", "Ellipsis", "NewAxis", "ShrinkAxis"))
    spare = x.rank - sum(not (ellipsis[i] or news[i]) for i in range(count))
    cuts: list[Cut] = []
    single: list[int] = []  # the file's axes, before new ones come
    new: list[int] = []  # the result's axes
    for i in range(count):
        axis = len(cuts)
        if ellipsis[i]:
            cuts += [(0, n, 1) for n in x.shape[axis : axis + max(spare, 0)]]
        elif news[i]:
            new.append(axis - len(single) + len(new))
        elif axis >= x.rank:
            s.refuse(f"a slice of more than {x.rank} axes", "check the file")
        elif singles[i]:
            single.append(axis)
            cuts.append(_place(s, x, axis, 0 if starts[i] else begin[i]))
        else:
            cuts.append(_bounds(x, axis, None if starts[i] else begin[i], None if stops[i] else end[i], step[i]))
    cuts += [(0, n, 1) for n in x.shape[len(cuts) :]]
    return _renewed(s, _chosen(s, _cut(s, x, cuts), single), new)


def _bits(op: Operator, name: str, count: int) -> list[bool]:
    mask = int(op.option(f"{name}Mask", 0))
    return [bool(mask >> i & 1) for i in range(count)]


def _place(s: Scene, x: Held, axis: int, at: int) -> Cut:
    size = x.shape[axis]
    if axis == x.batch and s.single and at in (0, -1):
        return 0, size, 1  # of one sample: the batch goes out of sight
    s.batch_axis(x, axis, "a choice of one sample")
    at = at + size if at < 0 else at
    if not 0 <= at < size:
        s.refuse(f"place {at} of {size}", "check the file")
    return at, at + 1, 1


def _bounds(x: Held, axis: int, begin: int | None, end: int | None, step: int) -> Cut:
    size = x.shape[axis]
    if axis == x.batch and step == 1 and begin in (None, 0) and (end is None or end in (1, SIZES[0]) or end >= size):
        return 0, size, 1
    return slice(begin, end, step).indices(size)


def _chosen(s: Scene, x: Held, single: Sequence[int]) -> Held:
    if x.batch is not None and x.batch in single:
        x, single = hidden(s, x), [axis - 1 for axis in single if axis != x.batch]
    if not single:
        return x
    return Held(value=s.drawing.call(aten.squeeze.dims, x.value, sorted(x.axis(axis) for axis in single)), order=without(x, single))


def _renewed(s: Scene, x: Held, new: Sequence[int]) -> Held:
    for axis in new:
        x = inserted(s, x, axis)
    return x


# ── choices ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gather(s: Scene, op: Operator) -> Held:
    """Places along an axis; of a constant table by computed numbers, an embedding."""
    x, index = s.held(op, 0), s.plain(s.held(op, 1))
    axis = int(op.option("Axis", 0))
    if op.option("BatchDims", 0) != 0:
        s.refuse("GATHER with batch_dims", "choose the same places for all samples")
    if isinstance(index.value, Live):
        if not isinstance(x.value, Known) or axis % max(x.rank, 1) != 0 or x.rank != 2:
            s.refuse("GATHER by computed numbers from anything but the rows of a constant matrix", "choose known places")
        return embedded(s, op, 0, 1)
    return _picked(s, x, axis, index.value)


def _picked(s: Scene, x: Held, axis: int, index: Known) -> Held:
    """Known places along one axis of the file."""
    (axis,) = axes_of(s, x, [axis], "GATHER")
    places = s.drawing.numbers(index, "list of places")
    size = x.shape[axis]
    if any(not 0 <= place < size for place in places) or not places:
        s.refuse(f"places {places[:8]} of {size}", "check the file")
    shape = list(index.two.shape)
    if not shape:
        return Held(value=s.drawing.call(aten.select.int, x.value, x.axis(axis), places[0]), order=without(x, [axis]))
    chosen = s.keep(x, aten.index_select.default, x.axis(axis), s.drawing.known(torch.tensor(places), index.name))
    if len(shape) == 1:
        return chosen
    two, three = ([*sizes[:axis], *shape, *sizes[axis + 1 :]] for sizes in chosen.sizes())
    return s.reshaped(s.plain(chosen), two, three)


def _gather_nd(s: Scene, op: Operator) -> Held:
    """Known places of a constant, or along one axis."""
    x, index = s.plain(s.held(op, 0)), s.known(op, 1)
    if index is None or not index.fixed or not index.two.dim():
        s.refuse("GATHER_ND by computed places", "choose known places")
    depth = index.two.shape[-1]
    if isinstance(x.value, Known) and x.value.fixed and 1 <= depth <= x.rank:
        places = [index.two[..., i].long() for i in range(depth)]
        if any(bool((p < 0).any() or (p >= n).any()) for p, n in zip(places, x.shape, strict=False)):
            s.refuse("places outside of a constant", "check the file")
        value = s.drawing.known(x.value.two[tuple(places)])
        return Held(value=value, order=plain_order(value.two.dim()))
    if depth != 1:
        s.refuse(f"GATHER_ND of places of {depth} numbers in a computed tensor", "choose along one axis")
    return _picked(s, x, 0, s.drawing.known(index.two[..., 0]))


def _reverse(s: Scene, op: Operator) -> Held:
    x = s.held(op, 0)
    axes = axes_of(s, x, s.numbers(op, 1, "axes"), op.kind)
    return s.keep(x, aten.flip.default, sorted(x.axis(axis) for axis in axes)) if axes else x


# ── rows around ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _paddings(s: Scene, op: Operator, x: Held) -> list[tuple[int, int]]:
    """Before and after, for each axis of the file."""
    flat = s.numbers(op, 1, "paddings")
    if len(flat) != 2 * x.rank or min(flat, default=0) < 0:
        s.refuse(f"paddings {flat[:16]} of {x.rank} axes", "check the file")
    pads = list(zip(flat[::2], flat[1::2], strict=True))
    if x.batch is not None and any(pads[x.batch]):
        s.refuse("a padding of the batch axis", "samples must not depend on each other")
    return pads


def _pad(s: Scene, op: Operator) -> Held:
    x = s.held(op, 0)
    pads, value = _paddings(s, op, x), 0.0
    if op.kind == "PADV2" and s.has(op, 2):
        known = s.known(op, 2)
        number = None if known is None or known.two.numel() != 1 else float(known.two.item())
        value = number if number is not None else s.refuse("a computed padding value", "make it a constant of the file")
    laid = x.laid(pads, (0, 0))
    while laid and not any(laid[0]):
        laid.pop(0)
    return s.keep(x, aten.constant_pad_nd.default, [n for pair in laid[::-1] for n in pair], value) if laid else x


def _mirror(s: Scene, op: Operator) -> Held:
    """Rows from inside: without the edge row (reflect) as torch pads images, else, or on other axes, chosen one by one."""
    x = s.held(op, 0)
    pads, symmetric = _paddings(s, op, x), int(op.option("Mode", 0)) == 1
    fits = all(max(p) <= n - (0 if symmetric else 1) for p, n in zip(pads, x.shape, strict=True))
    if not fits or any(n > LARGEST_CONSTANT for n, p in zip(x.shape, pads, strict=True) if any(p)):
        s.refuse(f"mirrored paddings {pads} of {list(x.shape)}", "check the file")
    laid = x.laid(pads, (0, 0))
    if not symmetric and len(laid) == 4 and not any(laid[0]) and not any(laid[1]):
        return s.keep(x, aten.pad.default, [*laid[3], *laid[2]], "reflect")
    for axis, (before, after) in enumerate(pads):
        if before or after:
            places = np.pad(np.arange(x.shape[axis]), (before, after), mode="symmetric" if symmetric else "reflect")
            x = s.keep(x, aten.index_select.default, x.axis(axis), s.drawing.known(torch.from_numpy(places)))
    return x


# ── sizes of images ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _resized(s: Scene, op: Operator) -> tuple[Held, list[int], bool, bool]:
    x, size = s.image(s.held(op, 0)), s.numbers(op, 1, "size")
    if len(size) != 2 or not all(1 <= n <= 1 << 15 for n in size):
        s.refuse(f"a size of {size[:8]}", "check the file")
    return x, size, bool(op.option("AlignCorners", False)), bool(op.option("HalfPixelCenters", False))


def _bilinear(s: Scene, op: Operator) -> Held:
    """Torch's two ways, or as products with the shares that each new row has of the old ones."""
    x, size, corners, centres = _resized(s, op)
    if corners and centres:
        s.refuse("align_corners together with half_pixel_centers", "use one of them")
    if list(x.shape[1:3]) == size:
        return x
    if corners or centres:
        return s.keep(x, aten.upsample_bilinear2d.vec, size, corners, None)
    if any(old * new > LARGEST_CONSTANT for old, new in zip(x.shape[1:3], size, strict=True)):
        s.refuse(f"an image of {list(x.shape[1:3])}", "check the file's shapes")
    rows, columns = (s.drawing.known(_shares(old, new), "shares") for old, new in zip(x.shape[1:3], size, strict=True))
    wide = s.keep(x, aten.matmul.default, s.drawing.call(aten.t.default, columns))
    return replace(x, value=s.drawing.call(aten.matmul.default, rows, wide.value))


def _shares(old: int, new: int) -> torch.Tensor:
    """``[new, old]``: new row i lies at i · old / new, between two old ones."""
    at = torch.arange(new, dtype=torch.float32) * (old / new)
    low = at.floor().long().clamp(max=old - 1)
    high, share = (low + 1).clamp(max=old - 1), at - low
    matrix = torch.zeros(new, old)
    matrix.scatter_add_(1, low[:, None], (1 - share)[:, None])
    return matrix.scatter_add_(1, high[:, None], share[:, None])


def _nearest(s: Scene, op: Operator) -> Held:
    """Whole factors copy pixels; else pixels are chosen as the file rounds."""
    x, size, corners, centres = _resized(s, op)
    old = x.shape[1:3]
    if not corners and all(new % n == 0 for new, n in zip(size, old, strict=True)):
        return x if list(old) == size else s.keep(x, aten.upsample_nearest2d.vec, size, None)
    for axis, (n, new) in enumerate(zip(old, size, strict=True), 1):
        places = _rounded(n, new, corners, centres)
        if places != list(range(n)):
            x = s.keep(x, aten.index_select.default, x.axis(axis), s.drawing.known(torch.tensor(places)))
    return x


def _rounded(old: int, new: int, corners: bool, centres: bool) -> list[int]:
    """Which of ``old`` rows each of ``new`` takes, in single precision as the kernels count."""
    scale = np.float32((old - 1) / (new - 1)) if corners and new > 1 else np.float32(old) / np.float32(new)
    at = (np.arange(new, dtype=np.float32) + np.float32(0.5 if centres else 0)) * scale
    whole: Callable[[np.ndarray], np.ndarray] = (lambda v: np.floor(v + np.float32(0.5))) if corners else np.floor
    return [int(n) for n in np.clip(whole(at), 0, old - 1)]


RULES: Mapping[str, Rule] = {
    "SLICE": _slice,
    "STRIDED_SLICE": _strided,
    "GATHER": _gather,
    "GATHER_ND": _gather_nd,
    "REVERSE_V2": _reverse,
    "PAD": _pad,
    "PADV2": _pad,
    "MIRROR_PAD": _mirror,
    "RESIZE_BILINEAR": _bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
}
