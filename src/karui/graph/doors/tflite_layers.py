"""Rules for what holds weights: convolutions, fully connected layers, products, tables of vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from karui.graph.doors.drawing import Known, Live, Value
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import CHANNELS_FIRST, Held, Scene, Spread, plain_order
from karui.graph.doors.tflite_windows import Pads, padded, same, split

aten = torch.ops.aten


def _weight(s: Scene, op: Operator, i: int, axes: Sequence[int]) -> Live:
    """A constant as the parameter ``weight``, its axes put in this order."""
    known = s.known(op, i)
    if known is None:
        s.refuse("computed weights", "make them a constant of the file")
    return s.drawing.parameter(replace(known, name=""), f"{s.drawing.layer}.weight", lambda w: w.permute(*axes), str(tuple(axes)))


def _bias(s: Scene, op: Operator, i: int, x: int, weight: int) -> Live | None:
    """A constant as the parameter ``bias``: codes times the scales of input and weight, whatever scale the file names."""
    if not s.has(op, i):
        return None
    known, tensor = s.known(op, i), s.tensor(op, i)
    if known is None or known.two.dim() != 1:
        s.refuse("a computed bias, or one that isn't a vector", "make it a constant of the file")
    real = known.two
    if tensor.dtype in ("INT32", "INT64"):
        left, right = s.tensor(op, x).quant, s.tensor(op, weight).quant
        if left is None or right is None:
            s.refuse("a bias in codes where input or weights have no scale", "convert the file again")
        step = torch.from_numpy(right.scale.copy()).double() * float(left.scale[0])
        if len(step) not in (1, len(real)):
            s.refuse(f"a bias of {len(real)} for {len(step)} channels", "check the file")
        real = real.double() * step
    return s.drawing.parameter(s.drawing.known(real.float()), f"{s.drawing.layer}.bias")


def _convolution(s: Scene, op: Operator, depthwise: bool) -> Held:
    given = s.dealt(op, 0)
    x = s.image(replace(given, spread=None))
    shape = s.held(op, 1).shape
    if len(shape) != 4:
        s.refuse(f"weights of shape {list(shape)}", "expected four axes")
    weight = _weight(s, op, 1, (3, 0, 1, 2) if depthwise else CHANNELS_FIRST)
    channels = x.shape[3]
    per_group = weight.shape[1]
    if per_group < 1 or channels % per_group:
        s.refuse(f"{channels} channels for weights of shape {list(shape)}", "check the file")
    stride = [int(op.option("StrideH", 0)), int(op.option("StrideW", 0))]
    dilation = [int(op.option("DilationHFactor", 1)), int(op.option("DilationWFactor", 1))]
    if min(*stride, *dilation) < 1:
        s.refuse(f"strides {stride} and dilations {dilation}", "check the file")
    pads = same(s, op, x.shape[1:3], weight.shape[2:], stride, dilation)
    crops, spread = ((0, 0), (0, 0)), given.spread
    if spread is not None:
        pads, dilation, crops, spread = _undealt(s, op, spread, pads, stride, dilation)
    ahead, inside = split(pads)
    value = padded(s, x.value, ahead)
    groups = channels if depthwise else channels // per_group
    if depthwise and per_group != 1:
        s.refuse("depthwise weights of several input channels", "check the file")
    out = s.drawing.call(aten.conv2d.default, value, weight, _bias(s, op, 2, 0, 1), stride, inside, dilation, groups)
    return Held(value=padded(s, out, tuple((-a, -b) for a, b in crops)), order=CHANNELS_FIRST, spread=spread)


def _undealt(s: Scene, op: Operator, spread: Spread, pads: Pads, stride: list[int], dilation: list[int]) -> tuple[Any, ...]:
    """SPACE_TO_BATCH_ND → convolution → BATCH_TO_SPACE_ND is one dilated convolution: pads, dilation, what to crop, what is left to do.

    Each sample that was dealt out has every ``block``-th row; a step between its rows is ``block`` rows of the picture. What the last op
    crops is not padded first, where it can be helped.
    """
    if stride != [1, 1] or dilation != [1, 1]:
        s.refuse("a convolution with a stride between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND", "use stride 1")
    whole = tuple((a + b * p, c + b * q) for (a, c), b, (p, q) in zip(spread.padding, spread.block, pads, strict=True))
    after = s.reader(op.outputs[0])
    if after is not None and after.kind == "BATCH_TO_SPACE_ND" and s.has(after, 2):
        flat = s.numbers(after, 2, "crops")
        crops = tuple(zip(flat[::2], flat[1::2], strict=True))
        if len(crops) == 2 and all(0 <= c <= p for pair, crop in zip(whole, crops, strict=True) for p, c in zip(pair, crop, strict=True)):
            whole = tuple((p - c, q - d) for (p, q), (c, d) in zip(whole, crops, strict=True))
            return whole, list(spread.block), ((0, 0), (0, 0)), replace(spread, padding=())
    return whole, list(spread.block), ((0, 0), (0, 0)), replace(spread, padding=((0, 0), (0, 0)))


def _transposed(s: Scene, op: Operator) -> Held:
    """TRANSPOSE_CONV, which is told the size of its result: what the padding of that size doesn't cover is cut off at the end."""
    x = s.image(s.held(op, 2))
    size = s.numbers(op, 0, "output shape")
    weight = _weight(s, op, 1, (3, 0, 1, 2))
    kernel, stride = weight.shape[2:], [int(op.option("StrideH", 0)), int(op.option("StrideW", 0))]
    if len(size) != 4 or min(stride) < 1 or min(size) < 1:
        s.refuse(f"an output of {size} with strides {stride}", "check the file")
    pads = same(s, op, size[1:3], kernel, stride, [1, 1])
    before = [a for a, _ in pads]
    raw = [(n - 1) * d - 2 * p + k for n, d, p, k in zip(x.shape[1:3], stride, before, kernel, strict=True)]
    more = [max(0, wanted - n) for wanted, n in zip(size[1:3], raw, strict=True)]
    if any(m >= d for m, d in zip(more, stride, strict=True)):
        s.refuse(f"an output of {size[1:3]} for an input of {list(x.shape[1:3])}", "check the file")
    out = s.drawing.call(aten.conv_transpose2d.input, x.value, weight, _bias(s, op, 3, 2, 1), stride, before, more)
    for axis, wanted in ((2, size[1]), (3, size[2])):
        if out.shape[axis] > wanted:
            out = s.drawing.call(aten.slice.Tensor, out, axis, 0, wanted)
    return Held(value=out, order=CHANNELS_FIRST)


def _fully_connected(s: Scene, op: Operator) -> Held:
    """Rows of features; the file merges all axes before the features unless it keeps them."""
    if op.option("WeightsFormat", 0) != 0 or len(s.held(op, 1).shape) != 2:
        s.refuse("weights that are shuffled, or not a matrix", "convert the file again")
    outputs, inputs = s.held(op, 1).shape
    x, keeps = s.held(op, 0), bool(op.option("KeepNumDims", False))
    if x.rank < 1 or inputs < 1:
        s.refuse(f"weights of shape {[outputs, inputs]} for an input of {x.rank} axes", "check the file")
    if x.shape[-1] != inputs:
        if keeps:
            s.refuse(f"{x.shape[-1]} features for {inputs}", "check the file")
        x = s.reshaped(x, [-1, inputs], [-1, inputs])
    if x.order == CHANNELS_FIRST and x.rank == 4 and keeps and s.known(op, 1) is not None and isinstance(x.value, Live):
        return _pixels(s, op, x)
    x = s.flat(x)
    value = _product(s, op, x.value, outputs)
    held = s.seal(op, Held(value=value, order=x.order))
    if not keeps and x.rank > 2:
        held = s.reshaped(held, [-1, outputs], [-1, outputs])
    return replace(held, sealed=True)


def _pixels(s: Scene, op: Operator, x: Held) -> Held:
    """A layer on each pixel of an image is a convolution of one pixel."""
    known = s.known(op, 1)
    assert known is not None
    name = f"{s.drawing.layer}.weight"
    weight = s.drawing.parameter(replace(known, name=""), name, lambda w: w[:, :, None, None], "pixels")
    return s.keep(x, aten.conv2d.default, weight, _bias(s, op, 2, 0, 1), [1, 1], [0, 0], [1, 1], 1)


def _product(s: Scene, op: Operator, x: Value, outputs: int) -> Value:
    if s.known(op, 1) is None:
        turned = s.drawing.call(aten.permute.default, s.plain(s.held(op, 1)).value, [1, 0])
        out = s.drawing.call(aten.matmul.default, x, turned)
        return s.drawing.call(aten.add.Tensor, out, s.held(op, 2).value) if s.has(op, 2) else out
    if isinstance(x, Known):
        out = s.drawing.call(aten.linear.default, x, s.drawing.known(s.held(op, 1).value.two))
        return s.drawing.call(aten.add.Tensor, out, s.held(op, 2).value) if s.has(op, 2) else out
    return s.drawing.call(aten.linear.default, x, _weight(s, op, 1, (0, 1)), _bias(s, op, 2, 0, 1))


def _batch_matmul(s: Scene, op: Operator) -> Held:
    """A product with a constant matrix is a linear layer."""
    adj_x, adj_y = bool(op.option("AdjX", False)), bool(op.option("AdjY", False))
    x, y = s.held(op, 0), s.held(op, 1)
    if isinstance(x.value, Live) and isinstance(y.value, Live):
        rank, out_of_sight = max(x.rank, y.rank), (x if x.rank >= y.rank else y).hidden
        x, y = s.widened(x, rank, out_of_sight), s.widened(y, rank, out_of_sight)
    x, y = s.plain(x), s.plain(y)
    if min(x.rank, y.rank) < 2:
        s.refuse("a matrix product of vectors", "give both operands two axes at least")
    left = _adjoint(s, x, adj_x)
    if isinstance(y.value, Known) and isinstance(left, Live) and y.value.two.dim() == 2 and y.value.fixed:
        weight = _weight(s, op, 1, (0, 1) if adj_y else (1, 0))
        out = s.drawing.call(aten.linear.default, left, weight, _added(s, op, weight.shape[0]))
    else:
        out = s.drawing.call(aten.matmul.default, left, _adjoint(s, y, adj_y))
    lacks = x.hidden or y.hidden
    return Held(value=out, order=plain_order(out.two.dim() - lacks, lacks))


def _added(s: Scene, op: Operator, outputs: int) -> Live | None:
    """A constant vector that the only reader adds: the layer's bias, and the reader adds nothing any more."""
    after = s.reader(op.outputs[0])
    if after is None or after.kind != "ADD" or len(after.inputs) != 2 or s.file.tensors[op.outputs[0]].quant is not None:
        return None
    index = after.inputs[1 - after.inputs.index(op.outputs[0])]
    if index < 0 or s.file.tensors[index].data is None or s.file.tensors[index].quant is not None:
        return None
    known = s.at(index).value
    if not isinstance(known, Known) or known.two.shape != (outputs,):
        return None
    s.absorbed.add(id(after))
    return s.drawing.parameter(s.drawing.known(known.two), f"{s.drawing.layer}.bias")


def _adjoint(s: Scene, x: Held, swapped: bool) -> Value:
    return s.drawing.call(aten.transpose.int, x.value, -2, -1) if swapped else x.value


def embedded(s: Scene, op: Operator, table: int, ids: int) -> Held:
    """Rows of a constant table."""
    index = s.plain(s.held(op, ids))
    axes = plain_order(len(s.tensor(op, table).shape))
    value = s.drawing.call(aten.embedding.default, _weight(s, op, table, axes), index.value)
    return Held(value=value, order=plain_order(index.rank + 1, index.hidden))


RULES: Mapping[str, Rule] = {
    "CONV_2D": lambda s, op: _convolution(s, op, False),
    "DEPTHWISE_CONV_2D": lambda s, op: _convolution(s, op, True),
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "EMBEDDING_LOOKUP": lambda s, op: embedded(s, op, 1, 0),
}
