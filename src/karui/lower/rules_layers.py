"""Rules for the layers that hold weights: convolutions, linear, norms, recurrence, embedding; and for the forms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from karui.graph.forms import is_form
from karui.lower.builder import Builder, Constant, Value
from karui.lower.rule import Arguments, Rule
from karui.lower.weights import weight_of
from karui.program.passes.integerize import affine_of
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


def _conv_transpose2d(builder: Builder, a: Arguments) -> Value:
    x = builder.channels_last(a.value("input"))
    groups = int(a.get("groups"))
    padding = _pair(a.get("padding"), 2)

    def axes(w: torch.Tensor) -> torch.Tensor:  # [I, O/g, kh, kw] → [O, kh, kw, I/g]
        i, o, kh, kw = w.shape
        return w.reshape(groups, i // groups, o, kh, kw).permute(0, 2, 3, 4, 1).reshape(groups * o, kh, kw, i // groups)

    attributes = {
        "stride": _pair(a.get("stride"), 2),
        "padding": [*padding, *padding],
        "output_padding": _pair(a.get("output_padding"), 2),
        "dilation": _pair(a.get("dilation"), 2),
        "groups": groups,
        "clamp": None,
    }
    weights = {"weight": _weight(builder, a, axes, 1), **_bias(builder, a)}
    return builder.emit("conv_transpose2d", [x], a.name, a.shape, x.order, weights=weights, attributes=attributes)


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
        return _instance_like(builder, a, x)
    gamma, beta = a.constant("weight"), a.constant("bias")
    factor = (torch.ones_like(mean) if gamma is None else gamma).double() / torch.sqrt(var.double() + float(a.get("eps")))
    offset = (torch.zeros_like(mean) if beta is None else beta).double() - mean.double() * factor
    weights = {"scale": builder.floats(f"{a.name}.scale", factor.float()), "bias": builder.floats(f"{a.name}.bias", offset.float())}
    return builder.emit("affine", [x], a.name, a.shape, x.order, weights=weights, attributes={"clamp": None})


def _instance_like(builder: Builder, a: Arguments, x: Value) -> Value:
    builder.refuse("batch_norm without running statistics", "set track_running_stats=True")
    raise AssertionError(x)


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


def _recurrent(builder: Builder, a: Arguments, kind: str) -> tuple[Any, ...]:
    """A stack of (bidirectional) layers as one op a layer and direction; the initial state must be zero."""
    if not a.get("batch_first"):
        builder.refuse(f"a {kind} whose batch is the second axis", "build it with batch_first=True")
    states = a.get("hx")
    for state in states if isinstance(states, list | tuple) else [states]:
        if not isinstance(state, Constant) or bool(state.data.any()):
            builder.refuse(f"a {kind} with an initial state of its own", "start it from zero")
    x = builder.plain(a.value("input"))
    directions = 2 if a.get("bidirectional") else 1
    params = [p.target for p in a.raw("params")]
    each = 4 if a.get("has_biases") else 2
    hidden: list[Value] = []
    cells: list[Value] = []
    for layer in range(int(a.get("num_layers"))):
        sides = []
        for direction in range(directions):
            at = (layer * directions + direction) * each
            roles = dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), params[at : at + each], strict=False))
            weights = {role: builder.floats(str(p), builder.network.get(str(p))) for role, p in roles.items()}
            outs = _recurrence(builder, kind, x, f"{a.name}_{layer}_{direction}", weights, bool(direction))
            sides.append(outs[0])
            hidden.append(outs[1])
            cells += outs[2:]
        x = sides[0]
        if directions == 2:
            length, width = x.shape
            x = builder.emit("concat", sides, f"{a.name}_{layer}_both", (length, 2 * width), attributes={"axis": 1})
    return (x, [*hidden]) if kind == "gru" else (x, [*hidden], [*cells])


def _recurrence(builder: Builder, kind: str, x: Value, name: str, weights: dict[str, str], reverse: bool) -> list[Value]:
    width = builder.weights[weights["weight_hh"]].shape[1]
    out = builder.emit(kind, [x], name, (x.shape[0], width), weights=weights, attributes={"reverse": reverse})
    states = [builder.tensor(f"{name}_{state}", (width,), (0,)) for state in ("h", "c")[: 1 if kind == "gru" else 2]]
    op = builder.ops[-1]
    builder.ops[-1] = type(op)(
        kind=op.kind,
        name=op.name,
        inputs=op.inputs,
        outputs=(*op.outputs, *(s.name for s in states)),
        weights=op.weights,
        attributes=op.attributes,
    )
    return [out, *states]


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
    tensor = builder.tensors[codes.name]
    builder.tensors[codes.name] = type(tensor)(name=tensor.name, shape=tensor.shape, dtype="int8", quant=quant, layout=tensor.layout)
    assert affine_of(builder.tensors[codes.name]) == quant
    return builder.emit("dequantize", [codes], a.name, x.shape, x.order, like=x)


RULES: Mapping[Any, Rule] = {
    ATEN.conv1d.default: lambda b, a: _conv(b, a, 1),
    ATEN.conv1d.padding: lambda b, a: _conv(b, a, 1),
    ATEN.conv2d.default: lambda b, a: _conv(b, a, 2),
    ATEN.conv2d.padding: lambda b, a: _conv(b, a, 2),
    ATEN.conv_transpose2d.input: _conv_transpose2d,
    ATEN.linear.default: _linear,
    ATEN.batch_norm.default: _batch_norm,
    ATEN.layer_norm.default: _layer_norm,
    ATEN.group_norm.default: _group_norm,
    ATEN.instance_norm.default: _instance_norm,
    ATEN.gru.input: lambda b, a: _recurrent(b, a, "gru"),
    ATEN.lstm.input: lambda b, a: _recurrent(b, a, "lstm"),
    ATEN.embedding.default: _embedding,
    KARUI.fake_quantize.default: _fake_quantize,
}
