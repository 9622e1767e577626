"""Rules for what acts element by element, and for the norms along one axis: they keep whatever order the elements lie in."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from karui.graph.doors.drawing import Known, Live
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import Held, Scene

aten = torch.ops.aten


def _unary(target: Any, *args: Any) -> Rule:
    return lambda s, op: s.keep(s.held(op, 0), target, *args)


def binary(target: Any, *, scalar: Any = None, swapped: Any = None) -> Rule:
    """An op of two operands that broadcast as in NumPy. scalar: its form for a number on the right; swapped: for one on the left."""

    def rule(s: Scene, op: Operator) -> Held:
        return combined(s, s.held(op, 0), s.held(op, 1), target, scalar, swapped)

    return rule


def combined(s: Scene, a: Held, b: Held, target: Any, scalar: Any = None, swapped: Any = None) -> Held:
    """``target`` of two values; a constant of one element becomes a number."""
    left, right = _number(s, a, b), _number(s, b, a)
    if right is not None and scalar is not None:
        return s.keep(a, scalar, right)
    if left is not None and swapped is not None:
        return s.keep(b, swapped, left)
    a, b = s.aligned(a, b)
    return Held(value=s.drawing.call(target, a.value, b.value), order=(a if isinstance(a.value, Live) else b).order)


def _number(s: Scene, held: Held, other: Held) -> float | int | bool | None:
    """A constant of one element as a number, where it adds no axes to its partner."""
    if not isinstance(held.value, Known) or not isinstance(other.value, Live) or held.rank > other.rank or not held.value.fixed:
        return None
    return held.value.two.item() if held.value.two.numel() == 1 else None


def _sum(s: Scene, op: Operator) -> Held:
    a, b = s.held(op, 0), s.held(op, 1)
    if id(op) in s.absorbed:
        return a if isinstance(a.value, Live) else b
    return combined(s, a, b, aten.add.Tensor, aten.add.Tensor, aten.add.Tensor)


def _divided(s: Scene, op: Operator) -> Held:
    """Whole numbers divide towards zero."""
    a, b = s.held(op, 0), s.held(op, 1)
    if not (a.value.two.is_floating_point() or b.value.two.is_floating_point()):
        a, b = s.aligned(a, b)
        return Held(
            value=s.drawing.call(aten.div.Tensor_mode, a.value, b.value, rounding_mode="trunc"),
            order=(a if isinstance(a.value, Live) else b).order,
        )
    number = _number(s, b, a)
    if number is not None and number != 0:
        return s.keep(a, aten.div.Tensor, number)
    number = _number(s, a, b)
    if number is not None:
        turned = s.keep(b, aten.reciprocal.default)
        return turned if number == 1 else s.keep(turned, aten.mul.Tensor, number)
    return combined(s, a, b, aten.div.Tensor)


def _squared_difference(s: Scene, op: Operator) -> Held:
    return s.keep(combined(s, s.held(op, 0), s.held(op, 1), aten.sub.Tensor, aten.sub.Tensor), aten.square.default)


def _sum_of_all(s: Scene, op: Operator) -> Held:
    out = s.held(op, 0)
    for i in range(1, len(op.inputs)):
        out = combined(s, out, s.held(op, i), aten.add.Tensor)
    return out


def _selected(s: Scene, op: Operator) -> Held:
    """Element by element, one of two by a condition."""
    parts = s.aligned(*(s.held(op, i) for i in range(3)))
    order = next((p.order for p in parts if isinstance(p.value, Live)), parts[0].order)
    return Held(value=s.drawing.call(aten.where.self, *(p.value for p in parts)), order=order)


def _prelu(s: Scene, op: Operator) -> Held:
    """A slope per channel is torch's own op; other slopes are max(x, 0) + slope · min(x, 0)."""
    x, slope = s.held(op, 0), s.known(op, 1)
    if slope is None:
        s.refuse("a computed slope", "make it a constant of the file")
    channels = slope.two.shape[-1] if slope.two.dim() else 1
    if slope.two.numel() == channels and (channels == 1 or (x.rank in (2, 4) and not x.hidden)):
        x = s.image(x) if x.rank == 4 else x
        name = f"{s.drawing.layer}.weight"
        weight = s.drawing.parameter(replace(slope, name="", form=None), name, lambda w: w.reshape(-1), "flat")
        return s.keep(x, aten.prelu.default, weight)
    above, below = s.keep(x, aten.relu.default), s.keep(x, aten.clamp_max.default, 0.0)
    return combined(s, above, combined(s, below, s.held(op, 1), aten.mul.Tensor), aten.add.Tensor)


def _softmax(s: Scene, op: Operator) -> Held:
    x, beta = s.held(op, 0), float(op.option("Beta", 1.0))
    s.batch_axis(x, -1, "a softmax")
    x = x if beta == 1 else s.keep(x, aten.mul.Tensor, beta)
    return s.keep(x, aten.softmax.int, x.axis(-1))


def _log_softmax(s: Scene, op: Operator) -> Held:
    x = s.held(op, 0)
    s.batch_axis(x, -1, "a softmax")
    return s.keep(x, aten.log_softmax.int, x.axis(-1))


def _l2_normalized(s: Scene, op: Operator) -> Held:
    """x / max(‖x‖, 1e-6) along the last axis."""
    x = s.held(op, 0)
    s.batch_axis(x, -1, "a norm")
    norm = s.keep(x, aten.linalg_vector_norm.default, 2, [x.axis(-1)], True)
    return combined(s, x, s.keep(norm, aten.clamp_min.default, 1e-6), aten.div.Tensor)


def _gelu(s: Scene, op: Operator) -> Held:
    return s.keep(s.held(op, 0), aten.gelu.default, approximate="tanh" if op.option("Approximate", False) else "none")


def _leaky(s: Scene, op: Operator) -> Held:
    return s.keep(s.held(op, 0), aten.leaky_relu.default, float(op.option("Alpha", 0.0)))


_UNARY: Mapping[str, Rule] = {
    "LOGISTIC": _unary(aten.sigmoid.default),
    "TANH": _unary(aten.tanh.default),
    "RELU": _unary(aten.relu.default),
    "RELU6": _unary(aten.relu6.default),
    "RELU_N1_TO_1": _unary(aten.hardtanh.default, -1.0, 1.0),
    "RELU_0_TO_1": _unary(aten.hardtanh.default, 0.0, 1.0),
    "HARD_SWISH": _unary(aten.hardswish.default),
    "ELU": _unary(aten.elu.default, 1.0),
    "ABS": _unary(aten.abs.default),
    "EXP": _unary(aten.exp.default),
    "LOG": _unary(aten.log.default),
    "SQRT": _unary(aten.sqrt.default),
    "RSQRT": _unary(aten.rsqrt.default),
    "SQUARE": _unary(aten.square.default),
    "NEG": _unary(aten.neg.default),
    "FLOOR": _unary(aten.floor.default),
    "CEIL": _unary(aten.ceil.default),
    "ROUND": _unary(aten.round.default),
    "SIN": _unary(aten.sin.default),
    "COS": _unary(aten.cos.default),
    "SIGN": _unary(aten.sign.default),
    "LOGICAL_NOT": _unary(aten.logical_not.default),
    "GELU": _gelu,
    "LEAKY_RELU": _leaky,
    "SOFTMAX": _softmax,
    "LOG_SOFTMAX": _log_softmax,
    "L2_NORMALIZATION": _l2_normalized,
    "PRELU": _prelu,
}
_BINARY: Mapping[str, Rule] = {
    "ADD": _sum,
    "SUB": binary(aten.sub.Tensor, scalar=aten.sub.Tensor, swapped=aten.rsub.Scalar),
    "MUL": binary(aten.mul.Tensor, scalar=aten.mul.Tensor, swapped=aten.mul.Tensor),
    "DIV": _divided,
    "POW": binary(aten.pow.Tensor_Tensor, scalar=aten.pow.Tensor_Scalar),
    "MAXIMUM": binary(aten.maximum.default, scalar=aten.clamp_min.default, swapped=aten.clamp_min.default),
    "MINIMUM": binary(aten.minimum.default, scalar=aten.clamp_max.default, swapped=aten.clamp_max.default),
    "FLOOR_DIV": binary(aten.floor_divide.default),
    "FLOOR_MOD": binary(aten.remainder.Tensor),
    "EQUAL": binary(aten.eq.Tensor),
    "NOT_EQUAL": binary(aten.ne.Tensor),
    "GREATER": binary(aten.gt.Tensor),
    "GREATER_EQUAL": binary(aten.ge.Tensor),
    "LESS": binary(aten.lt.Tensor),
    "LESS_EQUAL": binary(aten.le.Tensor),
    "LOGICAL_AND": binary(aten.logical_and.default),
    "LOGICAL_OR": binary(aten.logical_or.default),
    "SQUARED_DIFFERENCE": _squared_difference,
    "ADD_N": _sum_of_all,
    "SELECT": _selected,
    "SELECT_V2": _selected,
}
RULES: Mapping[str, Rule] = {**_UNARY, **_BINARY}
