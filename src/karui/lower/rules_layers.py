"""Rules for the layers that hold weights: convolutions, linear, norms, embedding; and for the forms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from karui.graph.forms import is_form
from karui.lower.builder import Builder, Value
from karui.lower.rule import Arguments, Rule
from karui.lower.weights import weight_of
from karui.program.program import Affine

ATEN = torch.ops.aten
KARUI = torch.ops.karui


def _pair(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def _bias(builder: Builder, arguments: Arguments) -> dict[str, str]:
    bias = arguments.constant("bias")
    if bias is None:
        return {}
    node = arguments.raw("bias")
    return {"bias": builder.floats(str(node.target) if node.op == "get_attr" else f"{arguments.name}.bias", bias)}


def _weight(builder: Builder, arguments: Arguments, axes: Any, channel: int = 0) -> str:
    node = arguments.raw("weight")
    root = node
    while is_form(root):
        root = root.args[0]
    if root.op == "get_attr":
        return weight_of(builder, node, axes, channel)
    data = arguments.constant("weight")  # a weight computed from parameters (weight norm, a slice): its value is what counts
    assert data is not None
    return builder.floats(f"{arguments.name}.weight", axes(data.detach()).contiguous())


def _same_padding(kernel: list[int], dilation: list[int]) -> tuple[list[int], list[int]]:
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [t // 2 for t in total], [t - t // 2 for t in total]


def _conv(builder: Builder, a: Arguments, n: int) -> Value:
    x = builder.channels_last(a.value("input"))
    weight = a.raw("weight").meta.get("val")
    data = a.constant("weight") if weight is None else weight
    assert data is not None
    kernel = [int(k) for k in data.shape[2:]]
    dilation = _pair(a.get("dilation"), n)
    padding = a.get("padding")
    if padding == "same":
        before, after = _same_padding(kernel, dilation)
    else:
        before = after = [0] * n if padding == "valid" else _pair(padding, n)
    one = n == 1
    attributes = {
        "stride": _pair(a.get("stride"), n)[0] if one else _pair(a.get("stride"), n),
        "padding": [*before, *after],
        "dilation": dilation[0] if one else dilation,
        "groups": int(a.get("groups")),
        "clamp": None,
    }
    weights = {"weight": _weight(builder, a, lambda w: w.movedim(1, -1)), **_bias(builder, a)}
    return builder.emit(f"conv{n}d", [x], a.name, a.shape, x.order, weights=weights, attributes=attributes)


def _conv_transpose(builder: Builder, a: Arguments, n: int) -> Value:
    """A sequence is an image of one row."""
    x = builder.channels_last(a.value("input"))
    groups, row = int(a.get("groups")), n == 1
    if row:
        x = builder.emit("reshape", [x], f"{a.name}_row", (x.shape[0], 1, x.shape[1]), (1, 2, 0))

    def axes(w: torch.Tensor) -> torch.Tensor:  # [I, O/g, kh, kw] → [O, kh, kw, I/g]
        w = w[:, :, None] if row else w
        i, o, kh, kw = w.shape
        return w.reshape(groups, i // groups, o, kh, kw).permute(0, 2, 3, 4, 1).reshape(groups * o, kh, kw, i // groups)

    def pair(name: str, ahead: int) -> list[int]:
        return [*([ahead] if row else []), *_pair(a.get(name), n)]

    attributes = {
        "stride": pair("stride", 1),
        "padding": [*pair("padding", 0), *pair("padding", 0)],
        "output_padding": pair("output_padding", 0),
        "dilation": pair("dilation", 1),
        "groups": groups,
        "clamp": None,
    }
    weights = {"weight": _weight(builder, a, axes, 1), **_bias(builder, a)}
    shape = (a.shape[0], 1, a.shape[1]) if row else a.shape
    name = f"{a.name}_wide" if row else a.name
    out = builder.emit("conv_transpose2d", [x], name, shape, x.order, weights=weights, attributes=attributes)
    return builder.emit("reshape", [out], a.name, a.shape, (1, 0)) if row else out


def _linear(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("input")
    if x.axes()[-1] != (len(x.shape) - 1,):
        builder.refuse("a linear layer over the batch axis", "keep the features the last axis")
    if x.order[-1] != len(x.shape) - 1:
        x = builder.plain(x)
    weights = {"weight": _weight(builder, a, lambda w: w), **_bias(builder, a)}
    shape = (*x.shape[:-1], builder.weights[weights["weight"]].shape[0])
    return builder.emit("linear", [x], a.name, shape, x.order, like=x, weights=weights, attributes={"clamp": None})


def _batch_norm(builder: Builder, a: Arguments) -> Value:
    """γ (x − μ)/√(σ² + ε) + β as one multiply and add a channel (Ioffe & Szegedy 2015, algorithm 2)."""
    x = a.value("input")
    if len(x.shape) > 1:
        x = builder.channels_last(x)
    mean, var = a.constant("running_mean"), a.constant("running_var")
    if mean is None or var is None:
        builder.refuse("batch_norm without running statistics", "set track_running_stats=True")
    gamma, beta = a.constant("weight"), a.constant("bias")
    factor = (torch.ones_like(mean) if gamma is None else gamma).double() / torch.sqrt(var.double() + float(a.get("eps")))
    offset = (torch.zeros_like(mean) if beta is None else beta).double() - mean.double() * factor
    weights = {"scale": builder.floats(f"{a.name}.scale", factor.float()), "bias": builder.floats(f"{a.name}.bias", offset.float())}
    return builder.emit("affine", [x], a.name, a.shape, x.order, weights=weights, attributes={"clamp": None})


def _norm_weights(builder: Builder, a: Arguments) -> dict[str, str]:
    given = {"scale": a.constant("weight"), "bias": a.constant("bias")}
    return {role: builder.floats(f"{a.name}.{role}", data) for role, data in given.items() if data is not None}


def _layer_norm(builder: Builder, a: Arguments) -> Value:
    x = builder.plain(a.anywhere("input"))
    dims = len(a.get("normalized_shape"))
    attributes = {"dims": dims, "eps": float(a.get("eps"))}
    if any(-1 in axis for axis in x.axes()[-dims:]):
        builder.refuse("a layer_norm over the batch axis", "keep the features the last axes")
    return builder.emit("layer_norm", [x], a.name, x.shape, like=x, weights=_norm_weights(builder, a), attributes=attributes)


def _group_norm(builder: Builder, a: Arguments) -> Value:
    x = builder.channels_last(a.value("input"))
    attributes = {"groups": int(a.get("num_groups")), "eps": float(a.get("eps"))}
    return builder.emit("group_norm", [x], a.name, a.shape, x.order, weights=_norm_weights(builder, a), attributes=attributes)


def _instance_norm(builder: Builder, a: Arguments) -> Value:
    x = builder.channels_last(a.value("input"))
    if not a.get("use_input_stats"):
        return _batch_norm(builder, a)
    attributes = {"groups": x.shape[0], "eps": float(a.get("eps"))}
    return builder.emit("group_norm", [x], a.name, a.shape, x.order, weights=_norm_weights(builder, a), attributes=attributes)


def _embedding(builder: Builder, a: Arguments) -> Value:
    x = builder.plain(a.value("indices"))
    return builder.emit("embedding", [x], a.name, a.shape, weights={"weight": _weight(builder, a, lambda w: w)})


def _fake_quantize(builder: Builder, a: Arguments) -> Value:
    """An activation quantizer: codes, and back."""
    x = a.anywhere("x")
    scale, zero_point = a.constant("scale"), a.constant("zero_point")
    assert scale is not None and zero_point is not None
    if a.get("axis") is not None or scale.numel() != 1:
        builder.refuse("an activation quantizer with a scale per channel", "activations have one scale per tensor")
    bits = int(a.get("qmax")).bit_length() + 1
    if (int(a.get("qmin")), int(a.get("qmax"))) != (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) or bits > 8:
        builder.refuse(f"an activation quantizer of codes {a.get('qmin')} … {a.get('qmax')}", "use −2^(b−1) … 2^(b−1)−1 with b ≤ 8")
    quant = Affine(bits=bits, scale=float(np.float32(scale.item())), zero_point=round(zero_point.item()))
    codes = builder.emit("quantize", [x], f"{a.name}_codes", x.shape, x.order, like=x)
    builder.tensors[codes.name] = replace(builder.tensors[codes.name], dtype="int8", quant=quant)
    return builder.emit("dequantize", [codes], a.name, x.shape, x.order, like=x)


RULES: Mapping[Any, Rule] = {
    ATEN.conv1d.default: lambda b, a: _conv(b, a, 1),
    ATEN.conv1d.padding: lambda b, a: _conv(b, a, 1),
    ATEN.conv2d.default: lambda b, a: _conv(b, a, 2),
    ATEN.conv2d.padding: lambda b, a: _conv(b, a, 2),
    ATEN.conv_transpose1d.default: lambda b, a: _conv_transpose(b, a, 1),
    ATEN.conv_transpose2d.input: lambda b, a: _conv_transpose(b, a, 2),
    ATEN.linear.default: _linear,
    ATEN.batch_norm.default: _batch_norm,
    ATEN.layer_norm.default: _layer_norm,
    ATEN.group_norm.default: _group_norm,
    ATEN.instance_norm.default: _instance_norm,
    ATEN.embedding.default: _embedding,
    KARUI.fake_quantize.default: _fake_quantize,
}
