"""Rules for ops of the domain com.microsoft, which onnxruntime's optimisers write."""

from collections.abc import Mapping
from typing import Any

import torch

from karui.graph.doors.drawing import Drawing, Known, Live, Value
from karui.graph.doors.onnx_layers import convolved, product
from karui.graph.doors.onnx_node import Node, Rule, own
from karui.graph.doors.onnx_norms import layer_normed
from karui.graph.doors.onnx_pointwise import clipped, swish

aten = torch.ops.aten


def _added(d: Drawing, n: Node, x: Value, place: int) -> Value:
    """With the bias that input ``place`` is, if it is there."""
    bias = n.get(place)
    if bias is None:
        return x
    return d.call(aten.add.Tensor, x, n.parameter(own(bias), "bias") if isinstance(bias, Known) and isinstance(x, Live) else bias)


def _bias_gelu(d: Drawing, n: Node) -> Value:
    return d.call(aten.gelu.default, _added(d, n, n.value(0), 1))


def _fast_gelu(d: Drawing, n: Node) -> Value:
    return d.call(aten.gelu.default, _added(d, n, n.value(0), 1), approximate="tanh")


def _fused_conv(d: Drawing, n: Node) -> Value:
    """A convolution, maybe plus another value, then an activation."""
    y = convolved(d, n, n.value(0), n.value(1), n.get(2))
    y = y if n.get(3) is None else d.call(aten.add.Tensor, y, n.value(3))
    return _activated(d, n, y, n.text("activation"), n.attributes.get("activation_params") or [])


def _activated(d: Drawing, n: Node, y: Value, name: str, numbers: Any) -> Value:
    plain = {"Relu": aten.relu.default, "Sigmoid": aten.sigmoid.default, "Tanh": aten.tanh.default, "": None}
    if name in plain:
        return y if plain[name] is None else d.call(plain[name], y)
    if name == "LeakyRelu":
        return d.call(aten.leaky_relu.default, y, float(numbers[0]) if numbers else 0.01)
    if name == "Clip" and len(numbers) == 2:
        return clipped(d, y, float(numbers[0]), float(numbers[1]))
    return n.refuse(f"the activation {name[:20]}", "run the file without onnxruntime's optimisations")


def _fused_matmul(d: Drawing, n: Node) -> Value:
    a, b = n.value(0), n.value(1)
    if n.whole("transBatchA") or n.whole("transBatchB"):
        n.refuse("transBatchA or transBatchB", "run the file without onnxruntime's optimisations")
    a = d.call(aten.transpose.int, a, -1, -2) if n.whole("transA") else a
    b = d.call(aten.transpose.int, b, -1, -2) if n.whole("transB") else b
    y, alpha = product(d, n, a, b), n.real("alpha", 1.0)
    return d.call(aten.mul.Tensor, y, alpha) if alpha != 1 else y


def _skip_layer_norm(d: Drawing, n: Node) -> Any:
    """The sum of two values, and of a bias, normalised; the sum itself is the last output."""
    if any(n.wanted[1:3]):
        n.refuse("a mean or variance that is read", "only the norm and the sum have a rule")
    total = _added(d, n, d.call(aten.add.Tensor, n.value(0), n.value(1)), 4)
    return layer_normed(d, n, total, total.two.dim() - 1, n.real("epsilon", 1e-12), (2, 3)), None, None, total


def _layer_norm(d: Drawing, n: Node) -> Value:
    return layer_normed(d, n, n.value(0), n.axis(n.value(0), n.whole("axis", -1)), n.real("epsilon", 1e-5))


RULES: Mapping[str, Rule] = {
    "Gelu": lambda d, n: d.call(aten.gelu.default, n.value(0)),
    "BiasGelu": _bias_gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": lambda d, n: swish(d, n.value(0), n.real("alpha", 1.702)),
    "FusedConv": _fused_conv,
    "FusedMatMul": _fused_matmul,
    "LayerNormalization": _layer_norm,
    "SkipLayerNormalization": _skip_layer_norm,
}
