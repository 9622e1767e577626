"""Rules for ops that are written as several of the program's: gates, norms of vectors, spreads, losses' last layers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from karui.lower.builder import Builder, Constant, Value
from karui.lower.rule import Arguments, Rule
from karui.lower.rules_pointwise import binary, operand
from karui.lower.rules_pools import reduced
from karui.lower.rules_shape import cut, graph_axis

ATEN = torch.ops.aten


def _unary(builder: Builder, x: Value, function: str, name: str, alpha: float | None = None) -> Value:
    return builder.emit("unary", [x], name, x.shape, x.order, like=x, attributes={"function": function, "alpha": alpha})


def _clamp(builder: Builder, x: Value, low: float | None, high: float | None, name: str) -> Value:
    return builder.emit("clamp", [x], name, x.shape, x.order, like=x, attributes={"clamp": [low, high]})


def _pair(builder: Builder, kind: str, left: Value, right: Value, name: str) -> Value:
    """add, sub, mul or div of two values of one rank; the result is as ``left``, which the other may be spread over."""
    right = builder.laid(right, left.order)
    return builder.emit(kind, [left, right], name, left.shape, left.order, like=left, attributes={"clamp": None})


def _affine(builder: Builder, x: Value, factor: float | torch.Tensor, offset: float, name: str) -> Value:
    """factor · x + offset; a tensor of factors goes along the network's axis that lies last."""
    flat = x if x.shape else builder.emit("reshape", [x], f"{name}_flat", (1,))
    channels = flat.shape[flat.order[-1]]
    factors = torch.as_tensor(factor, dtype=torch.float64).reshape(-1).expand(channels)
    weights = {
        "scale": builder.floats(f"{name}.scale", factors.float()),
        "bias": builder.floats(f"{name}.bias", torch.full((channels,), offset)),
    }
    out = builder.emit("affine", [flat], name, flat.shape, flat.order, like=x, weights=weights, attributes={"clamp": None})
    return out if x.shape else builder.emit("reshape", [out], f"{name}_one", ())


def _axes(builder: Builder, a: Arguments, x: Value, argument: str = "dim") -> list[int]:
    dims = a.get(argument)
    if dims is None:
        builder.refuse(f"{a.node.target} over all axes", "name the axes, without the batch")
    return sorted(graph_axis(builder, int(d), x) for d in (dims if isinstance(dims, Sequence) else [dims]))


# ── functions of one value ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _softplus(builder: Builder, a: Arguments) -> Value:
    """log(1 + exp(βx)) / β."""
    x, beta = a.anywhere("self"), float(a.get("beta"))
    if beta == 1:
        return _unary(builder, x, "softplus", a.name)
    inner = _unary(builder, _affine(builder, x, beta, 0.0, f"{a.name}_in"), "softplus", f"{a.name}_softplus")
    return _affine(builder, inner, 1 / beta, 0.0, a.name)


def _prelu(builder: Builder, a: Arguments) -> Value:
    """max(x, 0) + slope · min(x, 0): a leaky ReLU where all channels share the slope."""
    x, slope = a.value("self"), a.constant("weight")
    assert slope is not None
    if slope.numel() == 1:
        return _unary(builder, x, "leaky_relu", a.name, float(slope))
    x = builder.channels_last(x) if x.shape else x
    below = _affine(builder, _clamp(builder, x, None, 0.0, f"{a.name}_below"), slope, 0.0, f"{a.name}_sloped")
    return _pair(builder, "add", _clamp(builder, x, 0.0, None, f"{a.name}_above"), below, a.name)


def _glu(builder: Builder, a: Arguments) -> Value:
    """The first half times the sigmoid of the second (Dauphin et al. 2017, equation 1)."""
    x = a.anywhere("self")
    axis = graph_axis(builder, int(a.get("dim")), x)
    half = x.shape[axis] // 2
    linear, gate = (cut(builder, x, f"{a.name}_{i}", axis, i * half, (i + 1) * half) for i in (0, 1))
    return _pair(builder, "mul", linear, _unary(builder, gate, "sigmoid", f"{a.name}_gate"), a.name)


def _log_softmax(builder: Builder, a: Arguments) -> Value:
    """x − max − log Σ exp(x − max), which loses nothing where a probability is zero."""
    x = a.anywhere("self")
    axes = _axes(builder, a, x)
    shifted = _pair(builder, "sub", x, reduced(builder, x, axes, "max", f"{a.name}_max"), f"{a.name}_shifted")
    total = reduced(builder, _unary(builder, shifted, "exp", f"{a.name}_exp"), axes, "sum", f"{a.name}_sum")
    return _pair(builder, "sub", shifted, _unary(builder, total, "log", f"{a.name}_log"), a.name)


def _log_sum_exp(builder: Builder, a: Arguments) -> Value:
    """max + log Σ exp(x − max)."""
    x = a.anywhere("self")
    axes, keepdims = _axes(builder, a, x), bool(a.get("keepdim"))
    greatest = reduced(builder, x, axes, "max", f"{a.name}_max")
    shifted = _unary(builder, _pair(builder, "sub", x, greatest, f"{a.name}_shifted"), "exp", f"{a.name}_exp")
    total = _unary(builder, reduced(builder, shifted, axes, "sum", f"{a.name}_sum", keepdims=keepdims), "log", f"{a.name}_log")
    return _pair(builder, "add", total, reduced(builder, x, axes, "max", f"{a.name}_top", keepdims=keepdims), a.name)


def _threshold(builder: Builder, a: Arguments) -> Value:
    """x where it is above the threshold, else a value: a clamp where the two are one number."""
    low, value = float(a.get("threshold")), float(a.get("value"))
    if low != value:
        builder.refuse(f"a threshold of {low} with the value {value}", "only a threshold that is its own value has a rule")
    return _clamp(builder, a.anywhere("self"), low, None, a.name)


# ── choices and constants ───────────────────────────────────────────────────────────────────────────────────────────────────────

_FAR = 1e9  # stands for infinity, which no program needs


def _masked(mask: str, chosen: str, other: str) -> Rule:
    """``chosen`` where a constant mask is set, ``other`` elsewhere; one of the two is a number."""

    def rule(builder: Builder, a: Arguments) -> Value:
        where = a.get(mask)
        yes, no = (_number(a.get(name)) for name in (chosen, other))
        if not isinstance(where, Constant) or isinstance(yes, Value) == isinstance(no, Value):
            builder.refuse(f"{a.node.target} with a computed mask, or of two computed values", "use a constant mask, or multiply by one")
        x, number = (yes, no) if isinstance(yes, Value) else (no, yes)
        if not isinstance(x, Value) or not x.ordinary or x.shape != a.shape or not isinstance(number, int | float):
            builder.refuse(f"{a.node.target} that widens its operand, or fills in a tensor", "fill in a number, in the operand's own shape")
        keep = where.data.bool() if isinstance(yes, Value) else ~where.data.bool()
        kept = operand(builder, Constant(data=keep.float()), f"{a.name}_keep", x.order)
        filled = operand(builder, Constant(data=(~keep).float() * min(max(number, -_FAR), _FAR)), f"{a.name}_fill", x.order)
        return _pair(builder, "add", _pair(builder, "mul", x, kept, f"{a.name}_kept"), filled, a.name)

    return rule


def _number(value: Any) -> Any:
    """A constant of one element as a number."""
    return float(value.data) if isinstance(value, Constant) and value.data.numel() == 1 else value


def _filled(value: float | str) -> Rule:
    """zeros_like, new_zeros and their kin: only the shape of a value matters."""

    def rule(builder: Builder, a: Arguments) -> Constant:
        known = builder.shapes[a.node]
        if isinstance(known, Constant):
            return known
        if a.shaped.before or a.shaped.factor > 1:
            builder.refuse(f"{a.node.target} whose batch is not its first axis", "make it with the batch in front")
        number = float(a.get(value)) if isinstance(value, str) else value
        return Constant(data=torch.full((1, *a.shape), number))

    return rule


# ── two values ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _greater(sign: int) -> Rule:
    """maximum (1): b + max(a − b, 0); minimum (−1): b + min(a − b, 0)."""

    def rule(builder: Builder, a: Arguments) -> Value:
        gap = binary("sub")(builder, a)
        low, high = (0.0, None) if sign > 0 else (None, 0.0)
        gap = _clamp(builder, gap, low, high, f"{a.name}_gap")
        return _pair(builder, "add", gap, operand(builder, a.get("other"), a.name, gap.order), a.name)

    return rule


def _cosine_similarity(builder: Builder, a: Arguments) -> Value:
    """a · b / (max(‖a‖, ε) · max(‖b‖, ε))."""
    left, right = a.value("x1"), a.value("x2")
    if left.shape != right.shape:
        builder.refuse("cosine_similarity of tensors of two shapes", "expand them to one shape")
    axes, eps = _axes(builder, a, left), float(a.get("eps"))

    def dot(x: Value, y: Value, name: str) -> Value:
        return reduced(builder, _pair(builder, "mul", x, y, f"{name}_products"), axes, "sum", name, keepdims=False)

    def length(x: Value, name: str) -> Value:
        return _clamp(builder, _unary(builder, dot(x, x, name), "sqrt", f"{name}_length"), eps, None, f"{name}_floor")

    lengths = _pair(builder, "mul", length(left, f"{a.name}_left"), length(right, f"{a.name}_right"), f"{a.name}_lengths")
    return _pair(builder, "div", dot(left, right, f"{a.name}_dot"), lengths, a.name)


# ── norms and spreads ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _vector_norm(builder: Builder, a: Arguments) -> Value:
    """(Σ |x|^p)^(1/p) with p 1, 2 or ∞."""
    x, order = a.anywhere("self"), float(a.get("ord"))
    axes, keepdims = _axes(builder, a, x), bool(a.get("keepdim"))
    if order == 2:
        squares = _pair(builder, "mul", x, x, f"{a.name}_squares")
        return _unary(builder, reduced(builder, squares, axes, "sum", f"{a.name}_sum", keepdims=keepdims), "sqrt", a.name)
    if order not in (1, math.inf):
        builder.refuse(f"a norm of order {order}", "only 1, 2 and infinity have a rule")
    sizes = _unary(builder, x, "abs", f"{a.name}_abs")
    return reduced(builder, sizes, axes, "sum" if order == 1 else "max", a.name, keepdims=keepdims)


def _rms_norm(builder: Builder, a: Arguments) -> Value:
    """x / √(mean(x²) + ε) · weight over the last axes (Zhang & Sennrich 2019, equation 4)."""
    x, weight = builder.plain(a.anywhere("input")), a.constant("weight")
    dims = len(a.get("normalized_shape"))
    if any(-1 in axis for axis in x.axes()[-dims:]):
        builder.refuse("an rms_norm over the batch axis", "keep the features the last axes")
    eps = a.get("eps")
    eps = torch.finfo(torch.float32).eps if eps is None else float(eps)
    axes = list(range(len(x.shape) - dims, len(x.shape)))
    power = reduced(builder, _pair(builder, "mul", x, x, f"{a.name}_squares"), axes, "mean", f"{a.name}_power")
    factor = _unary(builder, _affine(builder, power, 1.0, eps, f"{a.name}_floor"), "rsqrt", f"{a.name}_factor")
    normed = _pair(builder, "mul", x, factor, a.name)
    if weight is None:
        return normed
    if dims == 1:
        return _affine(builder, normed, weight, 0.0, f"{a.name}_scaled")
    scale = builder.constant(Constant(data=weight), f"{a.name}_weight", len(x.shape))
    return _pair(builder, "mul", normed, scale, f"{a.name}_scaled")


def _spread(root: bool) -> Rule:
    """std (root) or var over axes, with the correction of the divisor that the op names: n − 1 where it names none."""

    def rule(builder: Builder, a: Arguments) -> Value:
        x = a.anywhere("self")
        axes, keepdims = _axes(builder, a, x), bool(a.get("keepdim"))
        correction = float(a.get("unbiased")) if a.node.target._overloadname == "dim" else a.get("correction")  # type: ignore[union-attr]
        correction = 1.0 if correction is None else float(correction)
        count = math.prod(x.shape[axis] for axis in axes)
        if count <= correction:
            builder.refuse(f"the spread of {count} values with a correction of {correction}", "give it more values, or correction=0")
        centred = _pair(builder, "sub", x, reduced(builder, x, axes, "mean", f"{a.name}_mean"), f"{a.name}_centred")
        squares = _pair(builder, "mul", centred, centred, f"{a.name}_squares")
        power = reduced(builder, squares, axes, "sum", f"{a.name}_sum", keepdims=keepdims)
        variance = _affine(builder, power, 1 / (count - correction), 0.0, f"{a.name}_var" if root else a.name)
        return _unary(builder, variance, "sqrt", a.name) if root else variance

    return rule


def _extreme(function: str) -> Rule:
    """max and min along an axis, which give the indices too; nothing may read those."""

    def rule(builder: Builder, a: Arguments) -> tuple[Value, None]:
        x = a.anywhere("self")
        return reduced(builder, x, _axes(builder, a, x), function, a.name, keepdims=bool(a.get("keepdim"))), None

    return rule


# ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_MOST = 64  # parts that a concat may have
_BROADCASTING = frozenset(getattr(ATEN, kind).Tensor for kind in ("add", "sub", "mul", "div"))


def _expand(builder: Builder, a: Arguments) -> Value:
    """Nothing where the readers broadcast anyway; else copies side by side."""
    x = a.anywhere("self")
    if not x.ordinary or len(x.shape) != len(a.shape):
        builder.refuse("expand of a computed value to more axes", "unsqueeze it first, with the batch in front")
    if all(user.target in _BROADCASTING for user in a.node.users):
        return x
    return _copies(builder, x, [new // old for old, new in zip(x.shape, a.shape, strict=True)], a.name)


def _repeat(builder: Builder, a: Arguments) -> Value:
    x = a.value("self")
    counts = a.get("repeats")
    if len(counts) != len(x.shape) + 1 or counts[0] != 1:
        builder.refuse("repeat of a computed value along the batch, or to more axes", "unsqueeze it first, and leave the batch alone")
    return _copies(builder, x, [int(n) for n in counts[1:]], a.name)


def _copies(builder: Builder, x: Value, counts: Sequence[int], name: str) -> Value:
    for axis, count in enumerate(counts):
        if count == 1:
            continue
        if count > _MOST:
            builder.refuse(f"{count} copies of a value side by side", "let the next op broadcast it")
        shape = (*x.shape[:axis], x.shape[axis] * count, *x.shape[axis + 1 :])
        x = builder.emit("concat", [x] * count, name, shape, x.order, like=x, attributes={"axis": x.axis(axis)})
    return x


def _narrow(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    axis, start = graph_axis(builder, int(a.get("dim")), x), int(a.get("start"))
    return cut(builder, x, a.name, axis, start % x.shape[axis], start % x.shape[axis] + int(a.get("length")))


RULES: Mapping[Any, Rule] = {
    ATEN.softplus.default: _softplus,
    ATEN.prelu.default: _prelu,
    ATEN.glu.default: _glu,
    ATEN.log_softmax.int: _log_softmax,
    ATEN._log_softmax.default: _log_softmax,
    ATEN.maximum.default: _greater(1),
    ATEN.minimum.default: _greater(-1),
    ATEN.cosine_similarity.default: _cosine_similarity,
    ATEN.linalg_vector_norm.default: _vector_norm,
    ATEN.rms_norm.default: _rms_norm,
    ATEN.std.dim: _spread(True),
    ATEN.std.correction: _spread(True),
    ATEN.var.dim: _spread(False),
    ATEN.var.correction: _spread(False),
    ATEN.max.dim: _extreme("max"),
    ATEN.min.dim: _extreme("min"),
    ATEN.logsumexp.default: _log_sum_exp,
    ATEN.threshold.default: _threshold,
    ATEN.masked_fill.Scalar: _masked("mask", "value", "self"),
    ATEN.masked_fill.Tensor: _masked("mask", "value", "self"),
    ATEN.where.self: _masked("condition", "self", "other"),
    ATEN.where.ScalarOther: _masked("condition", "self", "other"),
    ATEN.where.ScalarSelf: _masked("condition", "self", "other"),
    ATEN.zeros_like.default: _filled(0.0),
    ATEN.ones_like.default: _filled(1.0),
    ATEN.full_like.default: _filled("fill_value"),
    ATEN.new_zeros.default: _filled(0.0),
    ATEN.new_ones.default: _filled(1.0),
    ATEN.new_full.default: _filled("fill_value"),
    ATEN.expand.default: _expand,
    ATEN.expand_as.default: _expand,
    ATEN.repeat.default: _repeat,
    ATEN.narrow.default: _narrow,
}
