"""Parameters and the forms on them → Weights in the program's axis order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from karui.lower.builder import Builder
from karui.program.program import AffineValues, Array, CodebookValues, Dense, Element, FloatValues, SignValues, Support, Values, Weight

OPS = torch.ops.karui


def weight_of(builder: Builder, node: torch.fx.Node, axes: Callable[[torch.Tensor], torch.Tensor], channel: int = 0) -> str:
    """The weight that ``node`` (a parameter, or the last form on it) stands for.

    ``axes`` brings a tensor of the parameter's shape into the program's order (output channels first); ``channel`` is the parameter's
    axis of output channels, the only one along which a form may have scales. Forms are read from the parameter outwards: masks give the
    support, the last form of the others gives the values, applied to what stands before it.
    """
    parameter, forms = chain(node)
    network = builder.network
    value = network.get(parameter).detach()
    name = parameter
    support: Support = Dense()
    values: Values | None = None
    for form in forms:
        arguments: list[Any] = [network.get(str(a.target)).detach() if isinstance(a, torch.fx.Node) else a for a in form.args[1:]]
        if form.target is OPS.mask.default:
            mask = arguments[0].bool()
            kept = mask if isinstance(support, Dense) else mask & torch.from_numpy(support.mask)
            support, value = Element(mask=kept.numpy()), value * mask
            continue
        if values is not None:
            builder.refuse(f"two number formats on '{parameter}'", "keep one quantizer a parameter")
        if form.target is OPS.fake_quantize.default:
            values, value = _affine(builder, parameter, value, arguments, channel)
        elif form.target is OPS.binarize.default:
            values, value = _sign(builder, parameter, value, arguments, channel)
        elif form.target is OPS.palette.default:
            codebook, index = (each.cpu() for each in arguments)
            values = CodebookValues(index=index.numpy(), codebook=codebook.float().numpy(), scale=np.ones((), np.float32))
            value = codebook[index.long()]
        else:
            builder.refuse(f"the form {form.target} on '{parameter}'", "this version has no rule for it")
    values = values or FloatValues(data=value.float().numpy())
    return builder.weight(_arranged(name, support, values, axes))


def chain(node: torch.fx.Node) -> tuple[str, list[torch.fx.Node]]:
    """The parameter at the root of a node and the forms from it to the node, in the order in which they act."""
    forms: list[torch.fx.Node] = []
    while node.op == "call_function" and isinstance(node.args[0], torch.fx.Node):
        forms.append(node)
        node = node.args[0]
    return str(node.target), forms[::-1]


def _affine(builder: Builder, parameter: str, value: torch.Tensor, arguments: list[Any], channel: int) -> tuple[Values, torch.Tensor]:
    scale, zero_point, qmin, qmax, axis = arguments
    if axis is not None and axis % value.dim() != channel:
        builder.refuse(f"scales along axis {axis} of '{parameter}'", f"scales go along output channels (axis {channel})")
    spread = [1] * value.dim()
    if axis is not None:
        spread[axis] = -1
    s, z = (t.reshape(spread) if axis is not None else t.reshape(()) for t in (scale, zero_point))
    quantized = OPS.fake_quantize(value, scale, zero_point, qmin, qmax, axis)  # the form itself decides how a tie is rounded
    codes = torch.clamp(torch.round(quantized / s) + z, qmin, qmax)
    bits = max(int(qmax).bit_length(), int(-qmin - 1).bit_length()) + 1
    flat = (-1,) if axis is not None else ()
    values = AffineValues(
        bits=bits,
        codes=codes.to(torch.int8).numpy(),
        scale=scale.reshape(flat).float().numpy(),
        zero_point=zero_point.reshape(flat).to(torch.int32).numpy(),
    )
    return values, quantized


def _sign(builder: Builder, parameter: str, value: torch.Tensor, arguments: list[Any], channel: int) -> tuple[Values, torch.Tensor]:
    codes = torch.where(value >= 0, 1, -1).to(torch.int8)
    scale = arguments[0] if arguments and isinstance(arguments[0], torch.Tensor) else torch.ones(())
    if scale.dim() == 1 and channel != 0:
        builder.refuse(f"scales along another axis of '{parameter}'", "scales go along output channels")
    shaped = scale.reshape(-1, *[1] * (value.dim() - 1)) if scale.dim() == 1 else scale
    return SignValues(codes=codes.numpy(), scale=scale.float().numpy()), codes * shaped


def _arranged(name: str, support: Support, values: Values, axes: Callable[[torch.Tensor], torch.Tensor]) -> Weight:
    """Support and values in the program's axis order, with zeros where nothing is stored."""

    def move(a: Array) -> Array:
        return np.ascontiguousarray(axes(torch.from_numpy(np.ascontiguousarray(a))).numpy())

    mask = None
    if isinstance(support, Element):
        mask = move(support.mask)
        support = Element(mask=mask)
    if isinstance(values, FloatValues):
        data = move(values.data)
        return Weight(name=name, shape=data.shape, support=support, values=FloatValues(data=data))
    if isinstance(values, CodebookValues):
        index = move(values.index)
        index = index if mask is None else np.where(mask, index, 0).astype(np.uint8)
        return Weight(name=name, shape=index.shape, support=support, values=replace(values, index=index))
    assert isinstance(values, AffineValues | SignValues)
    codes = move(values.codes)
    if mask is not None:
        empty = values.zero_point if isinstance(values, AffineValues) else np.int8(0)
        empty = np.asarray(empty).reshape((-1,) + (1,) * (codes.ndim - 1)) if np.ndim(empty) == 1 else empty
        codes = np.where(mask, codes, empty).astype(np.int8)
    if isinstance(values, AffineValues):
        values = AffineValues(bits=values.bits, codes=codes, scale=values.scale, zero_point=values.zero_point)
    else:
        values = SignValues(codes=codes, scale=values.scale)
    return Weight(name=name, shape=codes.shape, support=support, values=values)
