"""Rules for attention: matrix products, softmax, scaled dot-product attention."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from karui.lower.builder import Builder, Constant, Value
from karui.lower.rule import Arguments, Rule
from karui.lower.rules_shape import graph_axis

ATEN = torch.ops.aten


def _matmul(builder: Builder, a: Arguments) -> Value:
    names = [argument.name for argument in a.node.target._schema.arguments[:2]]  # type: ignore[union-attr]
    left, right = (a.get(name) for name in names)
    if isinstance(right, Constant) and right.data.dim() == 2 and isinstance(left, Value):  # a linear layer spelled out
        x = builder.plain(left)
        weight = builder.floats(f"{a.name}.weight", right.data.t().contiguous())
        return builder.emit("linear", [x], a.name, a.shape, weights={"weight": weight}, attributes={"clamp": None})
    rank = len(next(v for v in (left, right) if isinstance(v, Value)).shape)
    operands = [builder.constant(v, f"{a.name}_operand", rank) if isinstance(v, Constant) else v for v in (left, right)]
    return product(builder, operands[0], operands[1], a.name)


def product(builder: Builder, left: Value, right: Value, name: str, scale: float = 1.0) -> Value:
    """``scale · left @ right``; a right operand that lies transposed is used as it lies."""
    if (left.batch, left.left, left.right) != (right.batch, right.left, right.right) or any(-1 in axis for axis in left.axes()[-2:]):
        builder.refuse("a matrix product along the batch axis, or of two batches that stand differently", "keep the batch in front")
    left = builder.plain(left)
    rank = len(right.shape)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    transpose = right.order == swapped
    right = right if transpose else builder.plain(right)
    leading = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = (*leading, left.shape[-2], right.shape[-1])
    return builder.emit("matmul", [left, right], name, shape, like=left, attributes={"transpose_b": transpose, "scale": scale})


def _softmax(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    axis = graph_axis(builder, int(a.get("dim")), x)
    return builder.emit("softmax", [x], a.name, x.shape, x.order, like=x, attributes={"axis": x.axis(axis)})


def _attention(builder: Builder, a: Arguments) -> Value:
    """softmax(q kᵀ / √d + mask) v (Vaswani et al. 2017, equation 1)."""
    q, k, v = (a.value(name) for name in ("query", "key", "value"))
    scale = a.get("scale") or 1 / math.sqrt(q.shape[-1])
    length, past = q.shape[-2], k.shape[-2]
    keys = Value(name=k.name, shape=(*k.shape[:-2], k.shape[-1], past), order=_adjoint(k.order))
    scores_shape = (*q.shape[:-1], past)
    if k.shape[:-2] != q.shape[:-2]:
        builder.refuse("attention with fewer key heads than query heads", "repeat the keys")
    scores = product(builder, q, keys, f"{a.name}_scores", scale)
    mask = a.get("attn_mask")
    if a.get("is_causal"):
        mask = Constant(data=torch.ones(length, past, dtype=torch.bool).tril())
    if mask is not None:
        if not isinstance(mask, Constant):
            builder.refuse("attention with a computed mask", "use a constant mask, or none")
        data = mask.data
        if data.dtype == torch.bool:
            data = torch.zeros(data.shape).masked_fill(~data, -1e9)  # finite, so that a program needs no infinities
        bias = builder.constant(Constant(data=data), f"{a.name}_mask", len(scores_shape))
        scores = builder.emit("add", [scores, bias], f"{a.name}_masked", scores_shape, attributes={"clamp": None})
    weights = builder.emit("softmax", [scores], f"{a.name}_weights", scores_shape, attributes={"axis": len(scores_shape) - 1})
    return product(builder, weights, v, a.name)


def _adjoint(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order after the network's last two axes have changed names."""
    last = len(order) - 1
    names = {last: last - 1, last - 1: last}
    return tuple(names.get(axis, axis) for axis in order)


RULES: Mapping[Any, Rule] = {
    ATEN.matmul.default: _matmul,
    ATEN.bmm.default: _matmul,
    ATEN.softmax.int: _softmax,
    ATEN._softmax.default: _softmax,
    ATEN.scaled_dot_product_attention.default: _attention,
}
