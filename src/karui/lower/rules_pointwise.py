"""Rules for what acts element by element: they keep whatever order the elements lie in."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from karui.graph import forms as forms  # registers the op fake_quantize
from karui.lower.builder import Builder, Constant, Value
from karui.lower.rule import Arguments, Rule

ATEN = torch.ops.aten


def _unary(function: str, alpha: str | float | None = None) -> Rule:
    """A rule for one function of ``program/unary.py``; ``alpha`` is a number, or the argument that holds it."""

    def rule(builder: Builder, a: Arguments) -> Value:
        x = _first(a)
        value = a.get(alpha) if isinstance(alpha, str) else alpha
        return builder.emit("unary", [x], a.name, x.shape, x.order, like=x, attributes={"function": function, "alpha": value})

    return rule


def _first(a: Arguments) -> Value:
    name = a.node.target._schema.arguments[0].name  # type: ignore[union-attr]
    return a.anywhere(name)


def _gelu(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    function = "gelu_tanh" if a.get("approximate") == "tanh" else "gelu"
    return builder.emit("unary", [x], a.name, x.shape, x.order, like=x, attributes={"function": function, "alpha": None})


def _clamp(low: Any, high: Any) -> Rule:
    """A rule for a clamp whose bounds are numbers, or arguments of these names."""

    def rule(builder: Builder, a: Arguments) -> Value:
        x = _first(a)
        bounds = [a.get(v) if isinstance(v, str) else v for v in (low, high)]
        clamp = [None if v is None else float(v) for v in bounds]
        return builder.emit("clamp", [x], a.name, x.shape, x.order, like=x, attributes={"clamp": clamp})

    return rule


def binary(kind: str, *, swapped: bool = False) -> Rule:
    """add, sub, mul, div of two values, of a value and a constant, or of a value and a number; swapped: the operands' places."""

    def rule(builder: Builder, a: Arguments) -> Value:
        left, right = (a.get("other"), a.get("self")) if swapped else (a.get("self"), a.get("other"))
        if kind in ("add", "sub") and any(alpha != 1 for alpha in (*a.node.args[2:], *a.node.kwargs.values())):
            builder.refuse(f"{kind} with alpha", "multiply first")
        folded = _by_number(builder, a, kind, left, right)
        if folded is not None:
            return folded
        values = [v for v in (left, right) if isinstance(v, Value)]
        if len({(v.batch, v.left, v.right) for v in values}) > 1:
            builder.refuse(f"{kind} of tensors whose batches stand in different axes", "bring the batch to the front in both")
        like = max(values, key=lambda v: (len(v.shape), v.order != tuple(range(len(v.shape)))))
        if not like.ordinary and len(values) < 2:
            builder.refuse(f"{kind} of a constant with a tensor whose batch is not its first axis", "move the batch to the front before it")
        shape = like.shape if not like.ordinary else a.shape
        if len(like.shape) != len(shape):
            builder.refuse(f"{kind} that widens both operands", "reshape them to one rank")
        operands = [operand(builder, v, a.name, like.order) for v in (left, right)]
        return builder.emit(kind, operands, a.name, shape, like.order, like=like, attributes={"clamp": None})

    return rule


def operand(builder: Builder, value: Any, name: str, order: tuple[int, ...]) -> Value:
    """A value, constant or number as a value that lies in ``order``."""
    rank = len(order)
    if isinstance(value, int | float):
        value = Constant(data=torch.tensor(float(value)))
    if isinstance(value, Constant):
        value = builder.constant(value, f"{name}_constant", rank)
    if len(value.shape) < rank:  # the network broadcasts from the right, the batch stays in front
        builder.refuse("an operand with fewer axes than its partner", "unsqueeze it to the partner's rank")
    return builder.laid(value, order)


def _by_number(builder: Builder, a: Arguments, kind: str, left: Any, right: Any) -> Value | None:
    """A value with one number, or with one per channel: an affine, which folds into the layer before it."""
    value, other = (left, right) if isinstance(left, Value) else (right, left)
    if isinstance(other, Value) or (kind == "div" and value is right):
        return None
    if not value.shape or (value.ordinary and value.shape != a.shape):
        return None
    constant = torch.tensor(float(other)) if isinstance(other, int | float) else other.data.detach().double()
    if not value.ordinary and constant.dim() > 1:
        return None
    if constant.dim() == len(value.shape) + 1 and constant.shape[0] == 1:
        constant = constant[0]
    channel = value.order[-1]  # the network's axis that lies last
    full = (1,) * (len(value.shape) - constant.dim()) + tuple(constant.shape)
    if len(full) != len(value.shape) or any(size != 1 for axis, size in enumerate(full) if axis != channel):
        return None
    channels = value.shape[channel]
    vector = constant.double().reshape(-1).expand(channels)
    ones, zeros = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    scale, bias = {
        "add": (ones, vector),
        "sub": (ones, -vector) if value is left else (-ones, vector),
        "mul": (vector, zeros),
        "div": (1 / vector, zeros),
    }[kind]
    weights = {"scale": builder.floats(f"{a.name}.scale", scale.float()), "bias": builder.floats(f"{a.name}.bias", bias.float())}
    return builder.emit("affine", [value], a.name, value.shape, value.order, like=value, weights=weights, attributes={"clamp": None})


def _pow(builder: Builder, a: Arguments) -> Value:
    x, exponent = a.anywhere("self"), a.get("exponent")
    function = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(exponent, "pow")
    attributes = {"function": function, "alpha": float(exponent) if function == "pow" else None}
    return builder.emit("unary", [x], a.name, x.shape, x.order, like=x, attributes=attributes)


def _same(builder: Builder, a: Arguments) -> Value:
    """Nothing happens to the value in evaluation mode."""
    return _first(a)


def _to(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    given = builder.shapes[a.raw("self")]
    whole = not given.dtype.is_floating_point  # between integers nothing is lost
    if not a.shaped.dtype.is_floating_point and not whole:
        builder.refuse(f"a cast of floats to {a.shaped.dtype}", "keep floats as floats, or round them with torch.floor")
    return x


_FUNCTIONS: Mapping[Any, Rule] = {
    ATEN.sigmoid.default: _unary("sigmoid"),
    ATEN.tanh.default: _unary("tanh"),
    ATEN.silu.default: _unary("silu"),
    ATEN.hardswish.default: _unary("hardswish"),
    ATEN.hardsigmoid.default: _unary("hardsigmoid"),
    ATEN.exp.default: _unary("exp"),
    ATEN.log.default: _unary("log"),
    ATEN.sqrt.default: _unary("sqrt"),
    ATEN.rsqrt.default: _unary("rsqrt"),
    ATEN.reciprocal.default: _unary("reciprocal"),
    ATEN.abs.default: _unary("abs"),
    ATEN.neg.default: _unary("neg"),
    ATEN.erf.default: _unary("erf"),
    ATEN.mish.default: _unary("mish"),
    ATEN.selu.default: _unary("selu"),
    ATEN.celu.default: _unary("celu", "alpha"),
    ATEN.log_sigmoid.default: _unary("log_sigmoid"),
    ATEN.square.default: _unary("square"),
    ATEN.expm1.default: _unary("expm1"),
    ATEN.log1p.default: _unary("log1p"),
    ATEN.sin.default: _unary("sin"),
    ATEN.cos.default: _unary("cos"),
    ATEN.sign.default: _unary("sign"),
    ATEN.floor.default: _unary("floor"),
    ATEN.ceil.default: _unary("ceil"),
    ATEN.round.default: _unary("round"),
    ATEN.elu.default: _unary("elu", "alpha"),
    ATEN.leaky_relu.default: _unary("leaky_relu", "negative_slope"),
    ATEN.gelu.default: _gelu,
    ATEN.pow.Tensor_Scalar: _pow,
}
_CLAMPS: Mapping[Any, Rule] = {
    ATEN.relu.default: _clamp(0.0, None),
    ATEN.relu6.default: _clamp(0.0, 6.0),
    ATEN.hardtanh.default: _clamp("min_val", "max_val"),
    ATEN.clamp.default: _clamp("min", "max"),
    ATEN.clamp_min.default: _clamp("min", None),
    ATEN.clamp_max.default: _clamp(None, "max"),
}
_NOTHING: Mapping[Any, Rule] = {
    op: _same
    for op in (
        ATEN.dropout.default,
        ATEN.feature_dropout.default,
        ATEN.alpha_dropout.default,
        ATEN.contiguous.default,
        ATEN.clone.default,
        ATEN.detach.default,
        ATEN.alias.default,
        ATEN.lift_fresh_copy.default,
    )
}
_CASTS: Mapping[Any, Rule] = {ATEN.to.dtype: _to, ATEN.to.device: _to, ATEN.to.dtype_layout: _to, ATEN.type_as.default: _to}
_BINARY: Mapping[Any, Rule] = {
    getattr(getattr(ATEN, kind), overload): binary(kind) for kind in ("add", "sub", "mul", "div") for overload in ("Tensor", "Scalar")
}
_SWAPPED: Mapping[Any, Rule] = {op: binary("sub", swapped=True) for op in (ATEN.rsub.Tensor, ATEN.rsub.Scalar)}
KEEPS_AXES: frozenset[Callable[..., Any]] = frozenset(
    {*_FUNCTIONS, *_CLAMPS, *_NOTHING, torch.ops.karui.fake_quantize.default, ATEN.batch_norm.default}
)

RULES: Mapping[Any, Rule] = {**_FUNCTIONS, **_CLAMPS, **_NOTHING, **_CASTS, **_BINARY, **_SWAPPED}
