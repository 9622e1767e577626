"""Rules for integers that stand for reals: the network computes in the reals, rounded to the grids of the file.

Codes are signed here whatever they are in the file; what was taken off them is taken off their zero points. Weights of codes become
parameters of reals that are seen through their grid, so they train; int32 biases become plain ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from karui.graph.doors.drawing import Drawing, Form, Known, Live, Value
from karui.graph.doors.onnx_layers import convolved, product
from karui.graph.doors.onnx_node import Coded, Node, Rule, Whole
from karui.graph.doors.onnx_pointwise import cast
from karui.graph.doors.onnx_pools import global_average, pooled
from karui.graph.network import InputSpec

aten = torch.ops.aten
_RANGES = {"INT8": (8, 0), "UINT8": (8, 128), "INT16": (16, 0), "UINT16": (16, 32768), "INT4": (4, 0), "UINT4": (4, 8)}  # bits, shift
_BY_DTYPE = {torch.int8: "INT8", torch.uint8: "UINT8", torch.int16: "INT16"}
# What moves numbers, or chooses among them, does the same to codes and to the reals that they stand for.
_MOVES = frozenset(
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Split Gather Concat Pad MaxPool GlobalMaxPool DepthToSpace SpaceToDepth"
    " Tile Expand Resize Upsample Dropout Shape Size Clip Max Min".split()
)
_ALL = ("Concat", "Max", "Min")  # all of their inputs are of one kind


# ── grids ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kind(zero: Value | None, default: str) -> str:
    if isinstance(zero, Whole):
        return zero.kind
    return default if zero is None else _BY_DTYPE.get(zero.two.dtype, "")


def _grid(n: Node, scale: Value | None, zero: Value | None, kind: str, axis: int | None) -> tuple[Form, int]:
    """The grid of codes of this kind, and its shift."""
    if not isinstance(scale, Known) or not isinstance(zero, Known | None) or kind not in _RANGES:
        n.refuse(f"a computed scale, or codes of type {kind or 'unknown'}", "quantize by constants, to 4, 8 or 16 bits")
    if not bool(torch.isfinite(scale.two).all()) or not bool((scale.two > 0).all()):
        n.refuse("a scale that isn't above zero", "check the file")
    bits, shift = _RANGES[kind]
    step = scale.two.float().reshape(-1)
    offset = torch.zeros_like(step) if zero is None else zero.two.float().reshape(-1) - shift
    offset = offset - shift if zero is None else offset
    if len(offset) != len(step):
        n.refuse(f"{len(step)} scales and {len(offset)} zero points", "check the file")
    single = len(step) == 1
    shape: tuple[int, ...] = () if single else (-1,)
    half = 1 << (bits - 1)
    form = Form(scale=step.reshape(shape), zero_point=offset.reshape(shape), qmin=-half, qmax=half - 1, axis=None if single else axis)
    return form, shift


def _equal(a: Form, b: Form) -> bool:
    return (a.axis, a.qmin, a.qmax) == (b.axis, b.qmin, b.qmax) and all(
        bool(torch.equal(x, y)) for x, y in ((a.scale, b.scale), (a.zero_point, b.zero_point))
    )


def _spread(numbers: Tensor, rank: int, axis: int | None) -> Tensor:
    return numbers if axis is None else numbers.reshape([-1 if i == axis else 1 for i in range(rank)])


def entry(d: Drawing, spec: InputSpec, coding: Sequence[Any]) -> Value | Coded:
    """An input; one of codes that everybody dequantizes takes the reals, and rounds them to its grid."""
    dtype = getattr(torch, spec.dtype)
    scale = coding[0] if coding else None
    if not isinstance(scale, Known) or scale.two.numel() != 1 or dtype not in _BY_DTYPE:
        return d.input(spec.name, spec.shape, dtype)
    x = d.input(spec.name, spec.shape, torch.float32)
    n = Node(drawing=d, kind="DequantizeLinear", opset=0, inputs=(), attributes={}, wanted=(), alone=(), fixed=False)
    form, shift = _grid(n, scale, coding[1] if len(coding) > 1 else None, _BY_DTYPE[dtype], None)
    return Coded(value=d.fake_quantize(x, form, spec.name), form=form, shift=shift)


# ── there and back ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _quantize(d: Drawing, n: Node) -> Value | Coded:
    types = {2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 21: "UINT4", 22: "INT4"}
    zero = n.get(2)
    kind = _kind(zero, types.get(n.whole("output_dtype"), "UINT8"))
    return quantized(d, n, n.value(0), n.get(1), zero, kind)


def quantized(d: Drawing, n: Node, x: Value, scale: Value | None, zero: Value | None, kind: str) -> Value | Coded:
    """Reals as codes."""
    axis = n.axis(x, n.whole("axis", 1)) if scale is not None and scale.two.numel() > 1 else None
    form, shift = _grid(n, scale, zero, kind, axis)
    if isinstance(x, Live):
        return Coded(value=d.fake_quantize(x, form, d.layer), form=form, shift=shift)
    rank = x.two.dim()
    codes = torch.round(x.two / _spread(form.scale, rank, axis)) + _spread(form.zero_point, rank, axis)
    codes = codes.clamp(form.qmin, form.qmax) + shift
    whole = codes.to(torch.int32)
    return Whole(two=whole, three=whole, name=x.name, kind=kind)


def _dequantize(d: Drawing, n: Node) -> Value:
    if n.whole("block_size"):
        return _blocks(d, n)
    return dequantized(d, n, n.raw(0), n.get(1), n.get(2), n.whole("axis", 1))


def dequantized(d: Drawing, n: Node, x: Value | Coded | None, scale: Value | None, zero: Value | None, axis: int) -> Value:
    """Codes as reals."""
    if x is None or scale is None:
        return n.refuse("no input", "check the file")
    many = scale.two.numel() > 1
    if isinstance(x, Coded):
        kind = next(k for k, (bits, shift) in _RANGES.items() if (1 << (bits - 1), shift) == (-x.form.qmin, x.shift))
        form, _ = _grid(n, scale, zero, kind, n.axis(x.value, axis) if many else None)
        return x.value if _equal(form, x.form) else _other_grid(d, n, x, form)
    if isinstance(x, Live):
        real = cast(d, x, torch.float32)
        real = real if zero is None else d.call(aten.sub.Tensor, real, _across(d, zero, x.rank, axis))
        return d.call(aten.mul.Tensor, real, _across(d, scale, x.rank, axis))
    kind = x.kind if isinstance(x, Whole) else _BY_DTYPE.get(x.two.dtype, "")
    at = n.axis(x, axis) if many else None
    name = _plain(x.name)
    if kind not in _RANGES:  # a bias: its grid is that of the sums
        if not isinstance(scale, Known):
            n.refuse("a computed scale", "make it a constant of the file")
        plain = x.two.float() * _spread(scale.two.float().reshape(-1), x.two.dim(), at if many else None)
        plain = plain.reshape(x.two.shape)
        return Known(two=plain, three=plain, name=name)
    form, shift = _grid(n, scale, zero, kind, at)
    rank = x.two.dim()
    codes = x.two.float() - shift - _spread(form.zero_point, rank, at)
    weight = codes * _spread(form.scale, rank, at)
    return Known(two=weight, three=weight, name=name, form=form)


def _across(d: Drawing, numbers: Value, rank: int, axis: int) -> Any:
    single = d.number(numbers)
    if single is not None:
        return single
    if not isinstance(numbers, Known):
        return numbers
    return d.known(_spread(numbers.two.float().reshape(-1), rank, axis % rank), numbers.name)


def _other_grid(d: Drawing, n: Node, x: Coded, form: Form) -> Value:
    """Codes that are read with another scale than they were written with."""
    if x.form.axis is not None or form.axis is not None:
        n.refuse("other scales per channel than it was quantized with", "use the same")
    ratio = float(form.scale / x.form.scale)
    gap = float((x.form.zero_point - form.zero_point) * form.scale)
    y = d.call(aten.mul.Tensor, x.value, ratio) if ratio != 1 else x.value
    return d.call(aten.add.Tensor, y, gap) if gap else y


def _blocks(d: Drawing, n: Node) -> Value:
    """Scales for blocks along an axis: plain reals, for no grid of ours is so fine."""
    x, scale, zero = n.known(0), n.known(1), n.known(2)
    if x is None or scale is None:
        n.refuse("a computed input", "dequantize constants by blocks")
    axis, size = n.axis(x, n.whole("axis", 1)), n.whole("block_size")

    def each(t: Tensor) -> Tensor:
        places = torch.arange(x.two.shape[axis]) // size
        return d.call(aten.index_select.default, d.known(t.float()), axis, d.known(places)).two

    real = (x.two.float() - (each(zero.two) if zero is not None else 0)) * each(scale.two)
    return Known(two=real, three=real, name=_plain(x.name))


def _plain(name: str) -> str:
    """A weight's name without what quantizers hang on to it."""
    for end in ("_quantized", "_dequantized", ".codes", "_q"):
        name = name.removesuffix(end)
    return name


# ── moves of codes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def uncoded(node: Node) -> Node:
    """For ops that only move numbers: the reals in place of their codes, in the node's numbers too."""
    coded = [v for v in node.inputs if isinstance(v, Coded)]
    if not coded or node.kind not in _MOVES:
        return node
    form = coded[0].form
    if not all(_equal(each.form, form) for each in coded) or form.axis is not None:
        node.refuse("codes of different scales, or with scales per channel", "dequantize before it")
    inputs = list(node.inputs)
    for i, value in enumerate(inputs):
        if isinstance(value, Coded):
            inputs[i] = value.value
        elif isinstance(value, Known) and (node.kind in _ALL or (node.kind in ("Clip", "Pad") and i in _NUMBERS[node.kind])):
            real = (value.two.float() - coded[0].shift - form.zero_point) * form.scale
            inputs[i] = Known(two=real, three=real)
    if node.kind == "Pad" and len(inputs) == 2 and bool(form.zero_point != -coded[0].shift):
        fill = (-coded[0].shift - form.zero_point) * form.scale
        inputs.append(Known(two=fill, three=fill))
    return replace(node, inputs=tuple(inputs))


_NUMBERS = {"Clip": (1, 2), "Pad": (2,)}  # inputs that are codes


def recoded(node: Node, made: Sequence[Any]) -> list[Any]:
    """What ``uncoded`` took off goes back on."""
    first = next((v for v in node.inputs if isinstance(v, Coded)), None)
    if first is None or node.kind not in _MOVES:
        return list(made)
    return [Coded(value=v, form=first.form, shift=first.shift) if isinstance(v, Live) else v for v in made]


# ── layers in integers ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _real(d: Drawing, n: Node, place: int, axis: int = 1) -> Value:
    """Input ``place`` with the scale and zero point that follow it."""
    return dequantized(d, n, n.raw(place), n.get(place + 1), n.get(place + 2), axis)


def _coded(d: Drawing, n: Node, y: Value, place: int) -> Value | Coded:
    zero = n.get(place + 1)
    return quantized(d, n, y, n.get(place), zero, _kind(zero, "UINT8"))


def _conv(d: Drawing, n: Node) -> Value | Coded:
    x, weight, bias = _real(d, n, 0), _real(d, n, 3, 0), n.known(8)
    if bias is not None:
        steps = [n.known(place) for place in (1, 4)]
        real = bias.two.float()
        for step in steps:
            real = real * (step.two.float().reshape(-1) if step is not None else 1)
        bias = Known(two=real, three=real, name=_plain(bias.name))
    return _coded(d, n, convolved(d, n, x, weight, bias), 6)


def _matmul(d: Drawing, n: Node) -> Value | Coded:
    return _coded(d, n, product(d, n, _real(d, n, 0, -2), _real(d, n, 3, -1)), 6)


def _dynamic(d: Drawing, n: Node) -> tuple[Any, ...]:
    """Scales that follow each batch: the reals as they are, on a grid of step one, so that scaling back changes nothing."""
    x = n.value(0)
    if not isinstance(x, Live):
        n.refuse("a constant", "quantize it by a constant scale")
    one, zero = torch.ones(()), torch.zeros(())
    form = Form(scale=one, zero_point=zero - 128, qmin=-128, qmax=127, axis=None)
    return Coded(value=x, form=form, shift=128), d.known(one), d.known(torch.zeros((), dtype=torch.uint8))


def _sums(d: Drawing, n: Node, layer: Any) -> Value:
    """Products of codes, whose scales are multiplied in later."""
    x, weight = n.raw(0), n.known(1)
    if not isinstance(x, Coded) or weight is None:
        return n.refuse("operands that aren't an activation and a constant", "quantize it another way")
    zero = n.get(3)
    kind = weight.kind if isinstance(weight, Whole) else _BY_DTYPE.get(weight.two.dtype, "")
    ones = torch.ones(zero.two.numel() if zero is not None else 1)
    form, shift = _grid(n, d.known(ones), zero, kind, weight.two.dim() - 1 if n.kind == "MatMulInteger" else 0)
    offset = _spread(form.zero_point, weight.two.dim(), form.axis)
    real = weight.two.float() - shift - offset
    y: Value = layer(x.value, Known(two=real, three=real, name=_plain(weight.name), form=form))
    step = float(x.form.scale)
    return y if step == 1 else d.call(aten.mul.Tensor, y, 1 / step)


def _matmul_integer(d: Drawing, n: Node) -> Value:
    return _sums(d, n, lambda x, w: product(d, n, x, w))


def _conv_integer(d: Drawing, n: Node) -> Value:
    return _sums(d, n, lambda x, w: convolved(d, n, x, w, None))


def _binary(op: Any) -> Rule:
    return lambda d, n: _coded(d, n, d.call(op, _real(d, n, 0), _real(d, n, 3)), 6)


def _global_average(d: Drawing, n: Node) -> Value | Coded:
    if n.whole("channels_last"):
        n.refuse("channels_last", "use channels first")
    return _coded(d, n, global_average(d, n.images(_real(d, n, 0))), 3)


def _average(d: Drawing, n: Node) -> Value | Coded:
    if n.whole("channels_last"):
        n.refuse("channels_last", "use channels first")
    return _coded(d, n, pooled(d, n, _real(d, n, 0), "average"), 3)


def _function(op: Any) -> Rule:
    return lambda d, n: _coded(d, n, d.call(op, _real(d, n, 0)), 3)


def _leaky(d: Drawing, n: Node) -> Value | Coded:
    return _coded(d, n, d.call(aten.leaky_relu.default, _real(d, n, 0), n.real("alpha", 0.01)), 3)


def _concat(d: Drawing, n: Node) -> Value | Coded:
    parts = [_real(d, n, place) for place in range(2, len(n.inputs), 3)]
    return _coded(d, n, d.call(aten.cat.default, parts, n.inner(parts[0], n.whole("axis"))), 0)


RULES: Mapping[str, Rule] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "MatMulInteger": _matmul_integer,
    "ConvInteger": _conv_integer,
}
MICROSOFT: Mapping[str, Rule] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "QLinearAdd": _binary(aten.add.Tensor),
    "QLinearMul": _binary(aten.mul.Tensor),
    "QLinearGlobalAveragePool": _global_average,
    "QLinearAveragePool": _average,
    "QLinearSigmoid": _function(aten.sigmoid.default),
    "QLinearLeakyRelu": _leaky,
    "QLinearConcat": _concat,
}
