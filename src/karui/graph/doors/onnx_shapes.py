"""Rules for shapes: what asks for one, makes one, moves axes, makes constants."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from karui.graph.doors.drawing import LARGEST_CONSTANT, Drawing, Form, Known, Live, Value
from karui.graph.doors.onnx_node import Node, Rule

aten = torch.ops.aten


def lists(d: Drawing, value: Value | None, what: str) -> tuple[list[int], list[int]]:
    """A known list of whole numbers for each batch size."""
    if not isinstance(value, Known) or value.two.is_floating_point():
        d.refuse(f"a computed {what}", f"make {what} a constant of the file")
    return [int(v) for v in value.two.reshape(-1).tolist()], [int(v) for v in value.three.reshape(-1).tolist()]


def _shape(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    rank = x.two.dim()
    start, end, _ = slice(n.whole("start"), n.whole("end", rank)).indices(rank)
    two, three = (torch.tensor(tuple(t.shape)[start:end], dtype=torch.int64) for t in (x.two, x.three))
    return Known(two=two, three=two if torch.equal(two, three) else three)


def _size(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    two, three = torch.tensor(x.two.numel()), torch.tensor(x.three.numel())
    return Known(two=two, three=two if torch.equal(two, three) else three)


# ── the same elements ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reshape(d: Drawing, n: Node) -> Value:
    """0 stands for the size as it is, −1 for the rest. What a file of batch 1 leaves open is for the drawing to find out."""
    x, wanted = n.value(0), n.attributes.get("shape")
    two, three = (n.wholes("shape") or [], n.wholes("shape") or []) if wanted is not None else lists(d, n.get(1), "shape")
    constant = two == three
    if not n.whole("allowzero"):
        two, three = ([t.shape[i] if v == 0 else v for i, v in enumerate(sizes)] for sizes, t in ((two, x.two), (three, x.three)))
    if min(two, default=0) < -1 or two.count(-1) > 1 or 0 in two:
        n.refuse(f"the shape {two[:8]}", "check the file")
    if not (n.fixed and constant and two == three and isinstance(x, Live)):
        two, three = _rest(two, x.two), _rest(three, x.three)
    return reshaped(d, n, x, two, three)


def _rest(sizes: Sequence[int], tensor: Tensor) -> list[int]:
    rest = -prod(sizes)
    return [tensor.numel() // rest if v == -1 and rest and tensor.numel() % rest == 0 else v for v in sizes]


def reshaped(d: Drawing, n: Node, x: Value, two: Sequence[int], three: Sequence[int]) -> Value:
    """A reshape; scales along an axis go where it goes, or are spelled out no longer."""
    if isinstance(x, Known) and x.form is not None:
        return Known(two=x.two.reshape(tuple(two)), three=x.two.reshape(tuple(two)), name=x.name, form=_reshaped_form(n, x, x.form, two))
    return d.reshape(x, two, three)


def _reshaped_form(n: Node, x: Known, form: Form, shape: Sequence[int]) -> Form:
    if form.axis is None:
        return form
    before, size = prod(x.two.shape[: form.axis]), x.two.shape[form.axis]
    axis = next((i for i, v in enumerate(shape) if v == size and prod(shape[:i]) == before), None)
    if axis is None:
        n.refuse("a reshape across the scales of a constant", "dequantize after it")
    return Form(scale=form.scale, zero_point=form.zero_point, qmin=form.qmin, qmax=form.qmax, axis=axis)


def _flatten(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    axis = n.whole("axis", 1)
    axis = axis + x.two.dim() if axis < 0 else axis
    if axis > 1 or x.two.dim() < 2 or not isinstance(x, Live) or x.batch != 0:
        return d.reshape(x, *([prod(t.shape[:axis]), prod(t.shape[axis:])] for t in (x.two, x.three)))
    return x if x.two.dim() == 2 and axis == 1 else d.reshape(x, *([prod(t.shape[:axis]), prod(t.shape[axis:])] for t in (x.two, x.three)))


def _transpose(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    rank = x.two.dim()
    perm = n.wholes("perm") or list(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        n.refuse(f"perm {perm[:8]} for {rank} axes", "check the file")
    if perm == sorted(perm):
        return x
    if isinstance(x, Known):
        form = x.form
        if form is not None and form.axis is not None:
            form = Form(scale=form.scale, zero_point=form.zero_point, qmin=form.qmin, qmax=form.qmax, axis=perm.index(form.axis))
        two = x.two.permute(perm)
        return Known(two=two, three=two if x.two is x.three else x.three.permute(perm), name=x.name, form=form)
    return d.call(aten.permute.default, x, perm)


def _squeeze(d: Drawing, n: Node) -> Value:
    x, axes = n.value(0), n.listed("axes", 1)
    if axes is None:
        if n.fixed and isinstance(x, Live):
            n.refuse("no axes, in a file for one sample", "name the axes")
        axes = [i for i, (a, b) in enumerate(zip(x.two.shape, x.three.shape, strict=True)) if a == 1 and b == 1]
    axes = sorted({n.axis(x, each) for each in axes})
    if any(x.two.shape[axis] != 1 or x.three.shape[axis] != 1 for axis in axes):
        n.refuse(f"axes {axes} of a value of shape {['N' if i == getattr(x, 'batch', None) else s for i, s in enumerate(x.two.shape)]}", "")
    if isinstance(x, Known):
        return reshaped(d, n, x, *([s for i, s in enumerate(t.shape) if i not in axes] for t in (x.two, x.three)))
    if not axes:
        return x
    return d.call(aten.squeeze.dim, x, axes[0]) if len(axes) == 1 else d.call(aten.squeeze.dims, x, axes)


def _unsqueeze(d: Drawing, n: Node) -> Value:
    x, axes = n.value(0), n.listed("axes", 1) or []
    rank = x.two.dim() + len(axes)
    if any(not -rank <= axis < rank for axis in axes) or rank > 64:
        n.refuse(f"axes {axes[:8]} for {rank} axes", "check the file")
    places = sorted(axis % rank for axis in axes)
    if isinstance(x, Known):
        shapes = []
        for tensor in (x.two, x.three):
            sizes = iter(tensor.shape)
            shapes.append([1 if i in places else next(sizes) for i in range(rank)])
        return reshaped(d, n, x, *shapes)
    for place in places:
        x = d.call(aten.unsqueeze.default, x, place)
    return x


# ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _expand(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    two, three = lists(d, n.get(1), "shape")
    return spread(d, x, *(list(torch.broadcast_shapes(tuple(t.shape), tuple(s))) for t, s in ((x.two, two), (x.three, three))))


def spread(d: Drawing, x: Value, two: Sequence[int], three: Sequence[int]) -> Value:
    """Copies along axes of size one."""
    if list(two) == list(x.two.shape) and list(three) == list(x.three.shape):
        return x
    if isinstance(x, Live):
        return d.spread(x, two, three)
    first = d.call(aten.expand.default, d.known(x.two), list(two)).two
    if x.two is x.three and list(two) == list(three):
        return Known(two=first, three=first, name=x.name)
    return Known(two=first, three=d.call(aten.expand.default, d.known(x.three), list(three)).two, name=x.name)


def _tile(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    two, three = lists(d, n.get(1), "repeats")
    if len(two) != x.two.dim() or min(two, default=1) < 1:
        n.refuse(f"repeats {two[:8]} of a value with {x.two.dim()} axes", "check the file")
    if all(count == 1 for count in (*two, *three)):
        return x
    if isinstance(x, Known):
        first, second = (d.call(aten.repeat.default, d.known(t), r).two for t, r in ((x.two, two), (x.three, three)))
        return Known(two=first, three=second)
    if two != three or two[x.batch or 0] != 1:
        n.refuse("copies along the batch axis", "samples must not depend on each other")
    return d.call(aten.repeat.default, x, two)


# ── constants ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _constant(d: Drawing, n: Node) -> Value:
    kinds: Mapping[str, Any] = {
        "value_int": torch.int64,
        "value_ints": torch.int64,
        "value_float": torch.float32,
        "value_floats": torch.float32,
    }
    value = n.attributes.get("value")
    if isinstance(value, Tensor):
        return d.known(value)
    for name, dtype in kinds.items():
        if name in n.attributes:
            return d.known(torch.tensor(n.attributes[name], dtype=dtype))
    return n.refuse("a constant that is no tensor of numbers", "export the file without it")


def _filled(d: Drawing, n: Node) -> Value:
    value = n.attributes.get("value")
    fill = value.reshape(-1)[:1] if isinstance(value, Tensor) and value.numel() else torch.zeros(1)
    one = d.known(fill)
    two, three = lists(d, n.get(0), "shape")
    if min(two, default=0) < 0:
        n.refuse(f"the shape {two[:8]}", "check the file")
    first = d.call(aten.expand.default, one, two).two if 0 not in two else fill.new_zeros(two)
    return Known(two=first, three=first if two == three else d.call(aten.expand.default, one, three).two)


def _range(d: Drawing, n: Node) -> Value:
    known = [n.known(i) for i in range(3)]

    def counted(which: str) -> Tensor:
        start, limit, step = (getattr(each, which).reshape(-1)[0].item() for each in known)
        if step == 0 or abs((limit - start) / step) > LARGEST_CONSTANT:
            n.refuse(f"a range from {start} to {limit} in steps of {step}", "check the file")
        return torch.arange(start, max(limit, start) if step > 0 else min(limit, start), step, dtype=getattr(known[0], which).dtype)

    two, three = counted("two"), counted("three")
    return Known(two=two, three=two if torch.equal(two, three) else three)


def _eye_like(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    rows, columns = x.two.shape
    if x.two.shape != x.three.shape or rows * columns > LARGEST_CONSTANT:
        n.refuse(f"the shape {list(x.two.shape)}", "use a matrix that doesn't depend on the batch")
    kept = torch.arange(columns)[None, :] - torch.arange(rows)[:, None] == n.whole("k")
    return d.known(kept.to(x.two.dtype if "dtype" not in n.attributes else torch.float32))


def _trilu(d: Drawing, n: Node) -> Value:
    """The part of a matrix on one side of a diagonal; of a live one by a constant mask."""
    x, k = n.value(0), n.number("k", 1)
    op = aten.triu.default if n.whole("upper", 1) else aten.tril.default
    shift = int(k or 0)
    if isinstance(x, Known):
        return d.call(op, x, shift)
    rows, columns = n.inner(x, -2), n.inner(x, -1)
    size = (x.shape[rows], x.shape[columns])
    if prod(size) > LARGEST_CONSTANT:
        n.refuse(f"a matrix of {size}", "check the file")
    return d.call(aten.mul.Tensor, x, d.known(op(torch.ones(size), shift)))


RULES: Mapping[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": _tile,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Range": _range,
    "EyeLike": _eye_like,
    "Trilu": _trilu,
}
