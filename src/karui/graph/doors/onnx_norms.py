"""Rules for normalisations and dropout."""

from collections.abc import Mapping
from typing import Any

import torch

from karui.graph.doors.drawing import Drawing, Known, Live, Value
from karui.graph.doors.onnx_node import Node, Rule, layer_name, own

aten = torch.ops.aten
_MOMENTUM = 0.1  # torch's own; a file that doesn't train says 0.9, which means the same
_WIDEST = 8192  # channels that an LRN may have: its sums are a matrix


def _vectors(d: Drawing, n: Node, places: Mapping[int, str]) -> list[Any]:
    """Scale and bias as parameters."""
    found = [n.get(place) for place in places]
    if isinstance(found[0], Known):
        d.layer = layer_name(d.layer, n.kind, found[0].name)
    return [n.parameter(own(v), role) if isinstance(v, Known) else v for v, role in zip(found, places.values(), strict=True)]


def _only_first(n: Node) -> None:
    if any(n.wanted[1:]):
        n.refuse("a second output that is read", "only its first output has a rule")


def _batch_norm(d: Drawing, n: Node) -> Value:
    """In its training form; the drawing's end switches it to evaluation."""
    _only_first(n)
    x, mean, var = n.images(n.value(0)), n.known(3), n.known(4)
    if mean is None or var is None:
        n.refuse("no statistics", "export the network in evaluation")
    scale, bias = _vectors(d, n, {1: "weight", 2: "bias"})
    momentum = n.real("momentum", 0.9)
    momentum = round(1 - momentum, 6) if 0 < momentum < 1 else _MOMENTUM
    return d.call(
        aten.batch_norm.default, x, scale, bias, n.buffer(mean), n.buffer(var), isinstance(x, Live), momentum, n.real("epsilon", 1e-5), True
    )


def _instance_norm(d: Drawing, n: Node) -> Value:
    scale, bias = _vectors(d, n, {1: "weight", 2: "bias"})
    return d.call(aten.instance_norm.default, n.images(n.value(0)), scale, bias, None, None, True, _MOMENTUM, n.real("epsilon", 1e-5), True)


def _layer_norm(d: Drawing, n: Node) -> Value:
    _only_first(n)
    return layer_normed(d, n, n.value(0), n.axis(n.value(0), n.whole("axis", -1)), n.real("epsilon", 1e-5))


def layer_normed(d: Drawing, n: Node, x: Value, axis: int, eps: float, places: tuple[int, int] = (1, 2)) -> Value:
    """Over the axes from ``axis`` on; scale and bias are the inputs ``places``."""
    for each in range(axis, x.two.dim()):
        n.inner(x, each)
    shape = list(x.two.shape[axis:])
    scale, bias = _vectors(d, n, dict(zip(places, ("weight", "bias"), strict=True)))
    if any(v is not None and list(v.two.shape) != shape for v in (scale, bias)):
        normed = d.call(aten.layer_norm.default, x, shape, None, None, eps, False)
        normed = normed if scale is None else d.call(aten.mul.Tensor, normed, scale)
        return normed if bias is None else d.call(aten.add.Tensor, normed, bias)
    return d.call(aten.layer_norm.default, x, shape, scale, bias, eps, False)


def _rms_norm(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    axis = n.axis(x, n.whole("axis", -1))
    for each in range(axis, x.two.dim()):
        n.inner(x, each)
    shape = list(x.two.shape[axis:])
    (scale,) = _vectors(d, n, {1: "weight"})
    fits = scale is None or list(scale.two.shape) == shape
    normed = d.call(aten.rms_norm.default, x, shape, scale if fits else None, n.real("epsilon", 1e-5))
    return normed if fits else d.call(aten.mul.Tensor, normed, scale)


def _group_norm(d: Drawing, n: Node) -> Value:
    """Scales are per group until opset 20, per channel from 21 on."""
    x, groups = n.images(n.value(0)), n.whole("num_groups", 1)
    parts: list[Any] = [n.value(1), n.value(2)]
    channels = x.two.shape[1]
    if groups < 1 or channels % groups:
        n.refuse(f"{groups} groups of {channels} channels", "check the file")
    each = channels // groups
    for i, (part, role) in enumerate(zip(parts, ("weight", "bias"), strict=True)):
        if isinstance(part, Known):
            d.layer = layer_name(d.layer, n.kind, part.name) if i == 0 else d.layer
            spread = part.two.numel() == groups != channels
            part = own(part)
            parts[i] = d.parameter(
                part, f"{d.layer}.{role}", (lambda v: v.repeat_interleave(each)) if spread else None, f"g{each}" if spread else ""
            )
    return d.call(aten.group_norm.default, x, groups, *parts, n.real("epsilon", 1e-5), True)


def _lp_norm(d: Drawing, n: Node) -> Value:
    x, order = n.value(0), n.whole("p", 2)
    if order not in (1, 2):
        n.refuse(f"p = {order}", "p 1 and 2 have a rule")
    axis = n.inner(x, n.whole("axis", -1))
    return d.call(aten.div.Tensor, x, d.call(aten.linalg_vector_norm.default, x, float(order), [axis], True))


def _lrn(d: Drawing, n: Node) -> Value:
    """x / (k + α/size · Σ x²)^β, the sum over neighbouring channels as a 1 × 1 convolution with ones and zeros."""
    x, size = n.images(n.value(0)), n.whole("size", 1)
    if x.two.dim() != 4 or not 1 <= size <= _WIDEST or x.two.shape[1] > _WIDEST:
        n.refuse(f"size {size} over {x.two.dim()} axes", "images of up to 8192 channels have a rule")
    places = torch.arange(x.two.shape[1])
    gap = places[None, :] - places[:, None]
    band = ((gap >= -((size - 1) // 2)) & (gap <= size // 2)).float()[:, :, None, None]
    squares = d.call(aten.mul.Tensor, x, x)
    total = d.call(aten.conv2d.default, squares, d.known(band, f"{d.layer}.neighbours"), None, [1, 1], [0, 0], [1, 1], 1)
    floor = d.call(aten.add.Tensor, d.call(aten.mul.Tensor, total, n.real("alpha", 1e-4) / size), n.real("bias", 1.0))
    return d.call(aten.mul.Tensor, x, d.call(aten.pow.Tensor_Scalar, floor, -n.real("beta", 0.75)))


def _dropout(d: Drawing, n: Node) -> Value:
    """Off in evaluation, on again in training."""
    _only_first(n)
    x, ratio = n.value(0), n.number("ratio", 1)
    ratio = 0.5 if ratio is None else float(ratio)
    if not isinstance(x, Live) or not x.two.is_floating_point() or not 0 < ratio < 1:
        return x
    return d.call(aten.dropout.default, x, ratio, True)


RULES: Mapping[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": _lp_norm,
    "LRN": _lrn,
    "Dropout": _dropout,
}
