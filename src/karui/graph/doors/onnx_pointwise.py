"""Rules for what acts element by element, with broadcasting."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch

from karui.graph.doors.drawing import Drawing, Known, Live, Value
from karui.graph.doors.onnx_file import dtype_of
from karui.graph.doors.onnx_layers import with_bias
from karui.graph.doors.onnx_node import Node, Rule

aten = torch.ops.aten
_LEARNED = ("weight", "bias", "gamma", "beta", "scale", "embed", "embedding", "embeddings", "token", "alpha")  # ends of names
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _one(op: Any) -> Rule:
    return lambda d, n: d.call(op, n.value(0))


# ── two values ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _operand(d: Drawing, value: Value, other: Value, learns: bool) -> Any:
    """A constant beside a live value: a number where it is one, a parameter where its name says that it was learned."""
    if not isinstance(value, Known) or not isinstance(other, Live):
        return value
    number = d.number(value)
    if number is not None and value.two.dim() <= other.rank:
        return number
    end = value.name.replace("_", ".").rsplit(".", 1)[-1].lower()
    if learns and value.two.is_floating_point() and value.two.numel() > 1 and value.fixed and end in _LEARNED:
        return d.parameter(value, f"{d.layer}.{end}")
    return value


def _pair(d: Drawing, n: Node, learns: bool) -> tuple[Any, Any]:
    left, right = n.value(0), n.value(1)
    if isinstance(left, Known) and isinstance(right, Known):
        return left, right
    return _operand(d, left, right, learns), _operand(d, right, left, learns)


def _add(d: Drawing, n: Node) -> Value:
    return with_bias(d, n, n.value(0), n.value(1)) or _swapped(d, aten.add.Tensor, *_pair(d, n, True))


def _mul(d: Drawing, n: Node) -> Value:
    return _swapped(d, aten.mul.Tensor, *_pair(d, n, True))


def _swapped(d: Drawing, op: Any, left: Any, right: Any) -> Value:
    """A number goes right."""
    return d.call(op, left, right) if isinstance(left, Known | Live) else d.call(op, right, left)


def _sub(d: Drawing, n: Node) -> Value:
    left, right = _pair(d, n, False)
    return d.call(aten.sub.Tensor, left, right) if isinstance(left, Known | Live) else d.call(aten.rsub.Scalar, right, left)


def _div(d: Drawing, n: Node) -> Value:
    """Whole numbers are divided towards zero."""
    if not n.value(0).two.is_floating_point():
        return d.call(aten.div.Tensor_mode, n.value(0), n.value(1), rounding_mode="trunc")
    left, right = _pair(d, n, False)
    if isinstance(left, Known | Live):
        return d.call(aten.div.Tensor, left, right)
    inverse = d.call(aten.reciprocal.default, right)
    return inverse if left == 1 else d.call(aten.mul.Tensor, inverse, left)


def _mod(d: Drawing, n: Node) -> Value:
    return d.call(aten.fmod.Tensor if n.whole("fmod") else aten.remainder.Tensor, n.value(0), n.value(1))


def _pow(d: Drawing, n: Node) -> Value:
    x, exponent = n.value(0), d.number(n.value(1))
    if exponent is None:
        return d.call(aten.pow.Tensor_Tensor, x, n.value(1))
    if x.two.is_floating_point():
        return d.call(aten.pow.Tensor_Scalar, x, int(exponent) if float(exponent).is_integer() else exponent)
    return d.call(aten.to.dtype, d.call(aten.pow.Tensor_Scalar, d.call(aten.to.dtype, x, torch.float64), exponent), x.two.dtype)


def _many(op: Any) -> Rule:
    """Max, Min, Sum of any number of values."""

    def rule(d: Drawing, n: Node) -> Value:
        total, *rest = n.values()
        for each in rest:
            total = _extreme(d, op, total, each) if op is not aten.add.Tensor else d.call(op, total, each)
        return total

    return rule


def _extreme(d: Drawing, op: Any, left: Value, right: Value) -> Value:
    x, other = (left, right) if isinstance(left, Live) else (right, left)
    number = d.number(other) if isinstance(x, Live) else None
    if number is None or not x.two.is_floating_point():
        return d.call(op, left, right)
    if number == 0 and op is aten.maximum.default:
        return d.call(aten.relu.default, x)
    return d.call(aten.clamp_min.default if op is aten.maximum.default else aten.clamp_max.default, x, number)


def _mean(d: Drawing, n: Node) -> Value:
    total = _many(aten.add.Tensor)(d, n)
    return total if len(n.inputs) == 1 else d.call(aten.mul.Tensor, total, 1 / len(n.inputs))


def _compare(op: Any) -> Rule:
    return lambda d, n: d.call(op, n.value(0), n.value(1))


def _where(d: Drawing, n: Node) -> Value:
    condition, yes, no = n.value(0), n.value(1), n.value(2)
    if isinstance(condition, Known) and condition.two.numel() and condition.fixed:
        first = bool(condition.two.reshape(-1)[0])
        chosen, other = (yes, no) if first else (no, yes)
        if bool((condition.two == first).all()) and _as_wide(chosen, condition, other):
            return chosen
    return d.call(aten.where.self, condition, yes, no)


def _as_wide(chosen: Value, *others: Value) -> bool:
    return all(
        torch.broadcast_shapes(getattr(chosen, size).shape, getattr(other, size).shape) == getattr(chosen, size).shape
        for other in others
        for size in ("two", "three")
    )


# ── clamps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _clip(d: Drawing, n: Node) -> Value:
    low, high = n.number("min", 1), n.number("max", 2)
    return clipped(d, n.value(0), low, high)


def clipped(d: Drawing, x: Value, low: float | None, high: float | None) -> Value:
    """Between two numbers, in the word that the graph has for it."""
    real = x.two.is_floating_point()
    low = None if low is None or (real and (not isfinite(low) or low <= -3.4e38)) else low
    high = None if high is None or (real and (not isfinite(high) or high >= 3.4e38)) else high
    if low is None and high is None:
        return x
    if low == 0 and high in (None, 6) and real:
        return d.call(aten.relu.default if high is None else aten.relu6.default, x)
    if high is None:
        return d.call(aten.clamp_min.default, x, low)
    return d.call(aten.clamp_max.default, x, high) if low is None else d.call(aten.clamp.default, x, low, high)


def _hard_sigmoid(d: Drawing, n: Node) -> Value:
    x, alpha, beta = n.value(0), n.real("alpha", 0.2), n.real("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return d.call(aten.hardsigmoid.default, x)
    line = d.call(aten.add.Tensor, d.call(aten.mul.Tensor, x, alpha), beta)
    return d.call(aten.clamp.default, line, 0.0, 1.0)


def _thresholded(d: Drawing, n: Node) -> Value:
    """x above the threshold, else 0."""
    alpha = n.real("alpha", 1.0)
    return d.call(aten.relu.default, n.value(0)) if alpha == 0 else d.call(aten.threshold.default, n.value(0), alpha, 0.0)


# ── activations ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _elu(d: Drawing, n: Node) -> Value:
    return d.call(aten.elu.default, n.value(0), n.real("alpha", 1.0))


def _selu(d: Drawing, n: Node) -> Value:
    alpha, gamma = n.real("alpha", _SELU[0]), n.real("gamma", _SELU[1])
    if abs(alpha - _SELU[0]) + abs(gamma - _SELU[1]) < 1e-6:
        return d.call(aten.selu.default, n.value(0))
    return d.call(aten.mul.Tensor, d.call(aten.elu.default, n.value(0), alpha), gamma)


def _softsign(d: Drawing, n: Node) -> Value:
    x = n.value(0)
    return d.call(aten.div.Tensor, x, d.call(aten.add.Tensor, d.call(aten.abs.default, x), 1.0))


def _gelu(d: Drawing, n: Node) -> Value:
    how = n.text("approximate", "none")
    return d.call(aten.gelu.default, n.value(0), approximate="tanh") if how == "tanh" else d.call(aten.gelu.default, n.value(0))


def _swish(d: Drawing, n: Node) -> Value:
    return swish(d, n.value(0), n.real("alpha", 1.0))


def swish(d: Drawing, x: Value, alpha: float) -> Value:
    """x · σ(α x)."""
    if alpha == 1:
        return d.call(aten.silu.default, x)
    return d.call(aten.mul.Tensor, x, d.call(aten.sigmoid.default, d.call(aten.mul.Tensor, x, alpha)))


def _shrink(d: Drawing, n: Node) -> Value:
    """x + bias below −λ, x − bias above λ, else 0."""
    if n.real("bias", 0.0) not in (0.0, n.real("lambd", 0.5)):
        n.refuse("a bias that isn't 0 or lambd", "use another activation")
    op = aten.hardshrink.default if n.real("bias", 0.0) == 0 else aten.softshrink.default
    return d.call(op, n.value(0), n.real("lambd", 0.5))


# ── kinds of numbers ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cast(d: Drawing, n: Node) -> Value:
    dtype = dtype_of(n.whole("to"))
    return (
        n.refuse(f"a cast to type {n.whole('to')}", "use floats, integers or truth values") if dtype is None else cast(d, n.value(0), dtype)
    )


def cast(d: Drawing, x: Value, dtype: torch.dtype) -> Value:
    """Nothing where the value is of this kind already: all floats are float32 here."""
    return x if x.two.dtype == dtype else d.call(aten.to.dtype, x, dtype)


def _cast_like(d: Drawing, n: Node) -> Value:
    return cast(d, n.value(0), n.value(1).two.dtype)


def _round(d: Drawing, n: Node) -> Value:
    return d.call(aten.round.default, n.value(0))


RULES: Mapping[str, Rule] = {
    **{
        kind: _one(getattr(aten, name).default)
        for kind, name in {
            "Abs": "abs",
            "Ceil": "ceil",
            "Cos": "cos",
            "Erf": "erf",
            "Exp": "exp",
            "Floor": "floor",
            "HardSwish": "hardswish",
            "Log": "log",
            "Mish": "mish",
            "Neg": "neg",
            "Not": "logical_not",
            "Reciprocal": "reciprocal",
            "Relu": "relu",
            "Sigmoid": "sigmoid",
            "Sign": "sign",
            "Sin": "sin",
            "Softplus": "softplus",
            "Sqrt": "sqrt",
            "Tanh": "tanh",
            "Tan": "tan",
            "Atan": "atan",
            "Asin": "asin",
            "Acos": "acos",
            "Sinh": "sinh",
            "Cosh": "cosh",
            "IsNaN": "isnan",
            "IsInf": "isinf",
        }.items()
    },
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Mod": _mod,
    "Pow": _pow,
    "Max": _many(aten.maximum.default),
    "Min": _many(aten.minimum.default),
    "Sum": _many(aten.add.Tensor),
    "Mean": _mean,
    "And": _compare(aten.logical_and.default),
    "Or": _compare(aten.logical_or.default),
    "Xor": _compare(aten.logical_xor.default),
    "Equal": _compare(aten.eq.Tensor),
    "Greater": _compare(aten.gt.Tensor),
    "GreaterOrEqual": _compare(aten.ge.Tensor),
    "Less": _compare(aten.lt.Tensor),
    "LessOrEqual": _compare(aten.le.Tensor),
    "Where": _where,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "ThresholdedRelu": _thresholded,
    "LeakyRelu": lambda d, n: d.call(aten.leaky_relu.default, n.value(0), n.real("alpha", 0.01)),
    "Elu": _elu,
    "Selu": _selu,
    "Celu": lambda d, n: d.call(aten.celu.default, n.value(0), n.real("alpha", 1.0)),
    "Softsign": _softsign,
    "Gelu": _gelu,
    "Swish": _swish,
    "Shrink": _shrink,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Round": _round,
    "Identity": lambda d, n: n.value(0),
}
