"""Rules for how numbers are written, and for constants: scales come and go, casts, shapes, fills."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch

from karui.graph.doors.drawing import LARGEST_CONSTANT, Known, Live
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import Held, Scene, plain_order

aten = torch.ops.aten

_DTYPES: Mapping[str, torch.dtype] = {
    "FLOAT32": torch.float32,
    "FLOAT16": torch.float32,
    "FLOAT64": torch.float64,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}


def _same(s: Scene, op: Operator) -> Held:
    """Real numbers stay what they are; where the output has a scale, it rounds them."""
    return s.held(op, 0)


def _cast(s: Scene, op: Operator) -> Held:
    x, wanted = s.held(op, 0), s.file.tensors[op.outputs[0]].dtype
    if wanted not in _DTYPES:
        s.refuse(f"a cast to {wanted}", "use floats, integers or booleans")
    dtype = _DTYPES[wanted]
    if x.value.two.dtype == dtype or (isinstance(x.value, Live) and x.value.two.is_floating_point() and dtype.is_floating_point):
        return x
    return s.keep(x, aten.to.dtype, dtype)


def _shape(s: Scene, op: Operator) -> Held:
    """The file's shape, for either batch size."""
    dtype = torch.int64 if s.file.tensors[op.outputs[0]].dtype == "INT64" else torch.int32
    two, three = (torch.tensor(sizes, dtype=dtype) for sizes in s.held(op, 0).sizes())
    return Held(value=Known(two=two, three=two if torch.equal(two, three) else three), order=(0,))


def _rank(s: Scene, op: Operator) -> Held:
    return Held(value=s.drawing.known(torch.tensor(s.held(op, 0).rank, dtype=torch.int32)), order=())


def _filled(s: Scene, op: Operator) -> Held:
    sizes, value = s.known(op, 0), s.known(op, 1)
    if sizes is None or value is None or value.two.numel() != 1 or sizes.two.dim() != 1:
        s.refuse("a computed fill", "make its shape and value constants of the file")
    shapes = [[int(n) for n in each.tolist()] for each in (sizes.two, sizes.three)]
    if any(n < 0 for shape in shapes for n in shape) or max(prod(shape) for shape in shapes) > LARGEST_CONSTANT or len(shapes[0]) > 8:
        s.refuse(f"a fill of shape {shapes[0][:8]}", "check the file")
    two, three = (torch.full(shape, value.two.item(), dtype=value.two.dtype) for shape in shapes)
    return Held(value=Known(two=two, three=two if shapes[0] == shapes[1] else three), order=plain_order(two.dim()))


def _zeros(s: Scene, op: Operator) -> Held:
    x = s.held(op, 0)
    return s.keep(x, aten.zeros_like.default)


def _range(s: Scene, op: Operator) -> Held:
    known = [s.known(op, i) for i in range(3)]
    numbers = [k.two.item() for k in known if k is not None and k.fixed and k.two.numel() == 1]
    if len(numbers) != 3 or numbers[2] == 0 or not abs((numbers[1] - numbers[0]) / numbers[2]) < LARGEST_CONSTANT:
        s.refuse("a computed range, or one without end", "make its bounds constants of the file")
    start, stop, step = numbers
    return Held(value=s.drawing.known(torch.arange(start, max(stop, start) if step > 0 else min(stop, start), step)), order=(0,))


def _where(s: Scene, op: Operator) -> Held:
    """The indices of what isn't zero: their count must be known."""
    known = s.known(op, 0)
    if known is None or not known.fixed:
        s.refuse("WHERE of a computed value", "how many there are must be known; use SELECT")
    return Held(value=s.drawing.known(torch.nonzero(known.two)), order=(0, 1))


def _one_hot(s: Scene, op: Operator) -> Held:
    """Equal to 0, 1, 2 …, along a new last axis."""
    x, depth = s.plain(s.held(op, 0)), s.numbers(op, 1, "depth")[0]
    on, off = (None if (k := s.known(op, i)) is None else s.drawing.number(k) for i in (2, 3))
    if on != 1 or off != 0 or op.option("Axis", -1) not in (-1, x.rank) or not 0 < depth < LARGEST_CONSTANT:
        s.refuse("ONE_HOT of other values than 1 and 0, or along another axis than a new last one", "use 1, 0 and axis −1")
    places = s.drawing.known(torch.arange(depth, dtype=x.value.two.dtype))
    equal = s.drawing.call(aten.eq.Tensor, s.drawing.call(aten.unsqueeze.default, x.value, -1), places)
    return Held(value=s.drawing.call(aten.to.dtype, equal, torch.float32), order=plain_order(x.rank + 1, x.hidden))


def _rounded(s: Scene, op: Operator) -> Held:
    """QUANTIZE: of a constant, its codes' numbers at once."""
    x, tensor = s.held(op, 0), s.file.tensors[op.outputs[0]]
    if tensor.quant is None:
        s.refuse("QUANTIZE to a tensor without a scale", "convert the file again")
    return replace(x, value=replace(x.value, form=None)) if isinstance(x.value, Known) else x


RULES: Mapping[str, Rule] = {
    "QUANTIZE": _rounded,
    "DEQUANTIZE": _same,
    "DENSIFY": _same,
    "CAST": _cast,
    "SHAPE": _shape,
    "RANK": _rank,
    "FILL": _filled,
    "ZEROS_LIKE": _zeros,
    "RANGE": _range,
    "WHERE": _where,
    "ONE_HOT": _one_hot,
}
