"""Rules for layers that hold weights: convolutions, linear layers and matrix products, PRelu."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from karui.graph.doors.drawing import Drawing, Known, Live, Value
from karui.graph.doors.onnx_node import Node, Rule, layer_name, own

aten = torch.ops.aten
_CONVOLUTIONS = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
_TRANSPOSED = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}
_LAYERS = (aten.linear.default, *_CONVOLUTIONS.values())


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pads_of(
    n: Node, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How much is added before and behind each axis: as the node says, or as its auto_pad asks for."""
    count, how = len(sizes), n.text("auto_pad", "NOTSET")
    if how in ("NOTSET", ""):
        pads = n.wholes("pads") or [0] * (2 * count)
        if len(pads) != 2 * count:
            n.refuse(f"pads {pads[:8]}", f"give {2 * count}")
        return pads[:count], pads[count:]
    if how == "VALID":
        return [0] * count, [0] * count
    if how not in ("SAME_UPPER", "SAME_LOWER"):
        n.refuse(f"auto_pad {how[:20]}", "use SAME_UPPER, SAME_LOWER or VALID")
    whole = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0) for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    less = [total // 2 for total in whole]
    more = [total - total // 2 for total in whole]
    return (less, more) if how == "SAME_UPPER" else (more, less)


def window(n: Node, name: str, count: int) -> list[int]:
    """Strides or dilations: ones where the node has none."""
    found = n.wholes(name) or [1] * count
    return found if len(found) == count and min(found) > 0 else n.refuse(f"{name} {found[:4]}", f"give {count}, from 1 on")


def padded(d: Drawing, x: Value, before: Sequence[int], after: Sequence[int], fill: float = 0.0) -> Value:
    """Constants around the last axes."""
    pads = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    return d.call(aten.constant_pad_nd.default, x, pads, fill) if any(pads) else x


# ── convolutions ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _conv(d: Drawing, n: Node) -> Value:
    return convolved(d, n, n.value(0), n.value(1), n.get(2))


def convolved(d: Drawing, n: Node, x: Value, weight: Value, bias: Value | None) -> Value:
    """A convolution of 1 to 3 axes."""
    count = n.images(x).two.dim() - 2
    if count not in _CONVOLUTIONS:
        n.refuse(f"a value with {x.two.dim()} axes", "1 to 3 spatial axes have a rule")
    kernel = list(weight.two.shape[2:])
    stride, dilation = window(n, "strides", count), window(n, "dilations", count)
    before, after = pads_of(n, x.two.shape[2:], kernel, stride, dilation)
    if before != after:
        x, before = padded(d, x, before, after), [0] * count
    parts = _weights(d, n, weight, bias)
    return d.call(_CONVOLUTIONS[count], x, *parts, stride, before, dilation, n.whole("group", 1))


def _weights(d: Drawing, n: Node, weight: Value, bias: Value | None) -> tuple[Any, Any]:
    if isinstance(weight, Known):
        d.layer = layer_name(d.layer, n.kind, weight.name)
    return (
        n.parameter(weight, "weight") if isinstance(weight, Known) else weight,
        n.parameter(own(bias), "bias") if isinstance(bias, Known) else bias,
    )


def _conv_transpose(d: Drawing, n: Node) -> Value:
    x, weight = n.images(n.value(0)), n.value(1)
    count = x.two.dim() - 2
    if count not in _TRANSPOSED:
        n.refuse(f"a value with {x.two.dim()} axes", "1 to 3 spatial axes have a rule")
    stride, dilation = window(n, "strides", count), window(n, "dilations", count)
    more = n.wholes("output_padding") or [0] * count
    kernel, sizes = list(weight.two.shape[2:]), list(x.two.shape[2:])
    spans = [(k - 1) * each + 1 for k, each in zip(kernel, dilation, strict=True)]
    whole = [(size - 1) * s + span for size, s, span in zip(sizes, stride, spans, strict=True)]
    before, after = _transposed_pads(n, whole, sizes, stride, more)
    groups = n.whole("group", 1)
    weight, bias = _weights(d, n, weight, n.get(2))
    if before == after and min(before) >= 0:
        return d.call(_TRANSPOSED[count], x, weight, bias, stride, before, more, groups, dilation)
    x = d.call(_TRANSPOSED[count], x, weight, bias, stride, [0] * count, more, groups, dilation)
    if min(*before, *after) < 0:
        n.refuse(f"pads {[*before, *after]}", "use pads from 0 on")
    for axis, (start, end) in enumerate(zip(before, after, strict=True), start=2):
        if start or end:
            x = d.call(aten.slice.Tensor, x, axis, start, x.two.shape[axis] - end, 1)
    return x


def _transposed_pads(
    n: Node, whole: Sequence[int], sizes: Sequence[int], stride: Sequence[int], more: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What is cut off before and behind; an output shape that the node asks for is shared out between the two."""
    shape, how, count = n.wholes("output_shape"), n.text("auto_pad", "NOTSET"), len(sizes)
    if shape is None and how in ("NOTSET", "", "VALID"):
        pads = n.wholes("pads") or [0] * (2 * count)
        return pads[:count], pads[count:]
    wanted = shape[-count:] if shape is not None else [size * s for size, s in zip(sizes, stride, strict=True)]
    total = [full + extra - out for full, extra, out in zip(whole, more, wanted, strict=True)]
    less, rest = [each // 2 for each in total], [each - each // 2 for each in total]
    return (less, rest) if how == "SAME_UPPER" else (rest, less)


# ── linear layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gemm(d: Drawing, n: Node) -> Value:
    a, b, c = n.value(0), n.value(1), n.get(2)
    alpha, beta = n.real("alpha", 1.0), n.real("beta", 1.0)
    if n.whole("transA"):
        a = d.call(aten.transpose.int, a, 0, 1)
    outputs = b.two.shape[0 if n.whole("transB") else -1]
    vector = _vector(d, c, outputs) if isinstance(c, Known) and beta == 1 and alpha == 1 else None
    y: Value
    if isinstance(b, Known) and isinstance(a, Live):
        y = linear(d, n, a, b, bool(n.whole("transB")), vector)
    else:
        y = product(d, n, a, d.call(aten.transpose.int, b, 0, 1) if n.whole("transB") else b)
        vector = None
    if alpha != 1:
        y = d.call(aten.mul.Tensor, y, alpha)
    if c is None or vector is not None:
        return y
    c = n.parameter(c, "bias") if isinstance(c, Known) else c
    return d.call(aten.add.Tensor, y, d.call(aten.mul.Tensor, c, beta) if beta != 1 else c)


def _vector(d: Drawing, value: Known, size: int) -> Known | None:
    """A constant as one number for each output, if it is that."""
    if not value.fixed or prod(value.two.shape[:-1]) != 1 or value.two.numel() not in (1, size):
        return None
    if tuple(value.two.shape) == (size,):
        return value
    flat = value.two.reshape(-1).expand(size).contiguous()
    return Known(two=flat, three=flat, name=value.name)


def linear(d: Drawing, n: Node, x: Live, matrix: Known, transposed: bool, bias: Known | None = None) -> Live:
    """``x @ matrix``, of which a linear layer holds the transpose; ``transposed``: the file has it so."""
    n.inner(x, -1)
    layer = d.layer = layer_name(d.layer, n.kind, matrix.name)
    change = None if transposed else _turned
    weight = d.parameter(matrix, f"{layer}.weight", change, "t" if change else "")
    return d.call(aten.linear.default, x, weight, None if bias is None else n.parameter(own(bias), "bias"))


def _turned(matrix: Tensor) -> Tensor:
    return matrix.t()


def _matmul(d: Drawing, n: Node) -> Value:
    return product(d, n, n.value(0), n.value(1))


def product(d: Drawing, n: Node, a: Value, b: Value) -> Value:
    """A matrix product; a linear layer where the right side is a constant matrix."""
    n.inner(a, -1)
    n.inner(b, -2 if b.two.dim() > 1 else -1)
    if isinstance(a, Live) and isinstance(b, Known) and b.two.dim() == 2 and b.fixed:
        return linear(d, n, a, b, False)
    if isinstance(a, Live) or isinstance(b, Live):
        layer = layer_name(d.layer, n.kind, "")
        a, b = (d.parameter(v, f"{layer}.weight") if isinstance(v, Known) and v.two.dim() > 1 else v for v in (a, b))
    if a.two.dim() == 1 and b.two.dim() == 1:
        return d.call(aten.sum.dim_IntList, d.call(aten.mul.Tensor, a, b), [0])
    return d.call(aten.matmul.default, a, b)


def with_bias(d: Drawing, n: Node, left: Value, right: Value) -> Live | None:
    """The bias that a file adds in a node of its own, as the layer's; None where that isn't what is added."""
    for place, (x, other) in enumerate(((left, right), (right, left))):
        if not isinstance(x, Live) or not isinstance(other, Known) or not n.alone[place] or x.node.target not in _LAYERS:
            continue
        if len(x.node.args) < 2 or (len(x.node.args) > 2 and x.node.args[2] is not None):
            continue
        behind = x.rank - 2 if x.node.target is not aten.linear.default else 0
        channels = x.shape[1 if behind else -1]
        shape = tuple(other.two.shape)
        tail = shape[len(shape) - behind :] if behind else ()
        if other.two.is_floating_point() and other.fixed and other.two.numel() == channels and prod(tail) == 1 and len(shape) > behind:
            flat = other.two.reshape(-1) if other.two.dim() != 1 else other.two
            if len(shape) - behind > 0 and shape[len(shape) - behind - 1] == channels:
                return _biased(d, n, x, Known(two=flat, three=flat, name=other.name))
    return None


def _biased(d: Drawing, n: Node, x: Live, bias: Known) -> Live:
    d.layer = str(x.node.meta["karui_layer"])
    return d.again(x, 2, n.parameter(own(bias), "bias"))


# ── PRelu ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _prelu(d: Drawing, n: Node) -> Value:
    """torch has one slope, or one for each index of axis 1; other slopes are spelled out."""
    x, slope = n.value(0), n.value(1)
    rank, shape = x.two.dim(), tuple(slope.two.shape)
    if isinstance(slope, Known) and isinstance(x, Live):
        d.layer = layer_name(d.layer, n.kind, slope.name)
        full = (1,) * (rank - len(shape)) + shape
        if slope.two.numel() == 1 or (rank > 1 and full == tuple(x.two.shape[1] if axis == 1 else 1 for axis in range(rank))):
            return d.call(aten.prelu.default, x, d.parameter(slope, f"{d.layer}.weight", _flat, "flat"))
        slope = d.parameter(slope, f"{d.layer}.weight")
    above, below = d.call(aten.clamp_min.default, x, 0.0), d.call(aten.clamp_max.default, x, 0.0)
    return d.call(aten.add.Tensor, above, d.call(aten.mul.Tensor, below, slope))


def _flat(slope: Tensor) -> Tensor:
    return slope.reshape(-1)


RULES: Mapping[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "PRelu": _prelu,
}
