"""The integer arithmetic ``karui``: how real scales become multipliers and shifts, and what is computed with them.

The formulas, with the reasons, are docs/adr/0001-three-integer-arithmetics.md. They are written down once, here: the interpreter
computes with them and every exporter asks for the same numbers, so a target that follows them is exact. In short, for a layer

    y = clamp((Σ_t acc_t · multiplier_t + bias) >> shift)        acc in 32 bits, the rest in 64, >> rounds down

where ``bias`` holds the network's unrounded bias, the output's zero point and one half (the rounding), all times 2^shift.
"""

from dataclasses import dataclass
from math import frexp, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.errors import UnsupportedOp
from karui.program.program import Affine, Array, Op, Program, Sign, Tensor, TernaryValues, Weight

# Everything outside ±SATURATED codes ends at the clamp whatever the zero point is (|zero point| ≤ 128).
SATURATED = 1024.0
ADD_BITS = 21  # multipliers of an addition are below 2^21, so that it fits in 32 bits
ADD_SHIFT = 22

WEIGHTED = ("conv2d", "conv1d", "linear")
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Requant:
    """``y = (Σ_t acc[o, t] · multiplier[o, t] + bias[o]) >> shift[o]``, then the clamp; T = 1 is written without its axis.

    For convolutions and ``linear`` o is the output channel and the terms are those of ``terms``. For ``mean``, ``mul`` and pools there is
    one entry; a pool that leaves its padding out of the count has one entry per count of pixels under the window (entry count − 1).
    """

    multiplier: NDArray[np.int32]  # [O] or [O, T]
    bias: NDArray[np.int64]  # [O]
    shift: NDArray[np.uint8]  # [O], 1 … 61


@dataclass(frozen=True, kw_only=True)
class Addition:
    """``y = (a · multipliers[0] + b · multipliers[1] + bias) >> shift`` on the raw codes, then the clamp; every step fits in int32."""

    multipliers: tuple[int, int]
    bias: int
    shift: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """A part of a weight that has one multiplier per output channel: real part = scale[o] · codes."""

    codes: NDArray[np.int32]  # the weight's shape
    scale: NDArray[np.float32]  # [O]; negative only for the −1 codes of a ternary weight


# ── Between reals and codes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def quantization(tensor: Tensor) -> tuple[np.float32, int]:
    """Scale and zero point of an integer tensor (a ``Sign`` activation has zero point 0)."""
    if isinstance(tensor.quant, Affine):
        return np.float32(tensor.quant.scale), tensor.quant.zero_point
    if isinstance(tensor.quant, Sign):
        return np.float32(tensor.quant.scale), 0
    raise UnsupportedOp(f"'{tensor.name}' has no quantization, so no integer op can use it: put a quantize before it")


def code_range(tensor: Tensor) -> tuple[int, int]:
    """The lowest and highest code that the tensor can hold."""
    if isinstance(tensor.quant, Sign):
        return -1, 1
    low, high = _LIMITS.get(tensor.dtype, (-128, 127))
    if isinstance(tensor.quant, Affine) and tensor.quant.bits < 8:
        return low >> (8 - tensor.quant.bits), high >> (8 - tensor.quant.bits)
    return low, high


def bounds(op: Op, output: Tensor) -> tuple[int, int]:
    """The codes between which an integer op's result is clamped."""
    low, high = code_range(output)
    given = op.attributes.get("clamp") or (None, None)
    return max(low, low if given[0] is None else int(given[0])), min(high, high if given[1] is None else int(given[1]))


def quantize(x: Array, scale: float | np.float32, zero_point: int, low: int = -128, high: int = 127) -> NDArray[np.int8]:
    """Float to code: ``rint(clamp(x / scale, low − zero_point, high − zero_point)) + zero_point`` in float32; ties to even, NaN to ``low``.

    One float32 division, correctly rounded, as in ONNX's QuantizeLinear. C gets the same by the same operations; because the clamp's bounds
    are integers it may come before the rounding, which keeps the conversion to an integer defined for every input.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        v = np.asarray(x, np.float32) / np.float32(scale)
    v = np.where(v > np.float32(low - zero_point), v, np.float32(low - zero_point))
    v = np.where(v < np.float32(high - zero_point), v, np.float32(high - zero_point))
    return (np.rint(v).astype(np.int32) + zero_point).astype(np.uint8 if low >= 0 else np.int8)


def dequantize(codes: Array, scale: float | np.float32, zero_point: int) -> NDArray[np.float32]:
    """Code to float: ``float32(code − zero_point) · scale``, one float32 product."""
    return (codes.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)


# ── Multipliers ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def terms(weight: Weight) -> tuple[Term, ...]:
    """The weight as a sum of parts with one multiplier per output channel each: what an integer kernel accumulates separately.

    Most weights are one part. A ternary weight of two scales is two: its +1 codes with ``positive`` and its −1 codes (as ones) with
    ``−negative``. A weight with grouped scales has one part per group.
    """
    v = weight.values
    channels = weight.shape[0]
    if isinstance(v, TernaryValues):
        positive, negative = (np.broadcast_to(np.asarray(s, np.float32), (channels,)) for s in (v.positive, v.negative))
        codes = weight.codes()
        if not np.array_equal(positive, negative):
            plus, minus = (codes > 0).astype(np.int32), (codes < 0).astype(np.int32)
            return Term(codes=plus, scale=positive), Term(codes=minus, scale=-negative)
        return (Term(codes=codes, scale=positive),)
    group = getattr(v, "group", 0)
    if not group or v.scale.ndim < 2:  # type: ignore[union-attr]
        return (Term(codes=weight.codes(), scale=weight.multiplier()),)
    matrix = weight.codes().reshape(channels, -1)
    parts = []
    for g in range(v.scale.shape[1]):  # type: ignore[union-attr]
        part = np.zeros_like(matrix)
        part[:, g * group : (g + 1) * group] = matrix[:, g * group : (g + 1) * group]
        parts.append(Term(codes=part.reshape(weight.shape), scale=v.scale[:, g]))  # type: ignore[union-attr]
    return tuple(parts)


def real_multipliers(program: Program, op: Op) -> NDArray[np.float64]:
    """``sx · sw / sy`` per output channel and term, [O, T]: the scales are float32, product (exact) and quotient float64."""
    sx, sy = _scales(program, op)
    return np.stack([sx * t.scale.astype(np.float64) / sy for t in terms(_weight(program, op))], axis=1)


def requantization(program: Program, op: Op) -> Requant:
    """The multipliers, biases and shifts of an integer conv, linear, mean, mul or average pool, checked for their ranges.

    Raises:
        UnsupportedOp: a scale that is not finite and positive, an accumulator that could overflow 32 bits, a multiplier of 2^30 or more.
    """
    output = program.tensor(op.outputs[0])
    sx, sy = _scales(program, op)
    reach = _reach(program.tensor(op.inputs[0]))
    if op.kind in WEIGHTED:
        weight = _weight(program, op)
        real = real_multipliers(program, op)
        limit: NDArray[np.int64] = np.stack(
            [np.abs(t.codes.astype(np.int64)).reshape(weight.shape[0], -1).sum(1) * reach for t in terms(weight)], axis=1
        )
        beta = bias_values(program, op).astype(np.float64) / sy
    elif op.kind == "mul":
        second = program.tensor(op.inputs[1])
        real = np.array([[sx * float(quantization(second)[0]) / sy]])
        limit, beta = np.array([[reach * _reach(second)]]), np.zeros(1)
    else:
        counts = window_counts(program, op)
        real = np.asarray(sx / (sy * counts), np.float64)[:, None]
        limit, beta = (counts * reach)[:, None], np.zeros(len(counts))
    return _fixed_point(op, real, beta, limit, quantization(output)[1])


def addition(program: Program, op: Op) -> Addition:
    """The two multipliers of an integer ``add``, with their common shift; the bias holds all three zero points and the rounding."""
    (s1, z1), (s2, z2) = (quantization(program.tensor(name)) for name in op.inputs)
    sy, zy = quantization(program.tensor(op.outputs[0]))
    m1, m2 = float(s1) / float(sy), float(s2) / float(sy)
    if not (np.isfinite([m1, m2]).all() and min(m1, m2) > 0):
        raise UnsupportedOp(f"'{op.name}' ({op.kind}): its scales {s1}, {s2} → {sy} must be finite and positive; calibrate again")
    shift = min(ADD_SHIFT, ADD_BITS - frexp(max(m1, m2))[1])
    if shift < 1:
        raise UnsupportedOp(f"'{op.name}' ({op.kind}): the output's scale {sy} is 2^20 times finer than an input's; calibrate again")
    k1, k2 = round(m1 * 2.0**shift), round(m2 * 2.0**shift)
    return Addition(multipliers=(k1, k2), bias=(zy << shift) + (1 << (shift - 1)) - z1 * k1 - z2 * k2, shift=shift)


def requantize(accumulators: NDArray[np.int64], requant: Requant, low: int, high: int) -> NDArray[np.int8]:
    """Accumulators [..., O] (or [..., O, T] where there are terms) to codes [..., O]; one entry of ``requant`` serves all channels."""
    product = accumulators * requant.multiplier.astype(np.int64)
    if requant.multiplier.ndim == 2:
        product = product.sum(-1)
    return np.clip((product + requant.bias) >> requant.shift.astype(np.int64), low, high).astype(np.int8)


def add(a: Array, b: Array, numbers: Addition, low: int, high: int) -> NDArray[np.int8]:
    """Codes plus codes, by the numbers of ``addition``."""
    total = a.astype(np.int64) * numbers.multipliers[0] + b.astype(np.int64) * numbers.multipliers[1] + numbers.bias
    return np.clip(total >> numbers.shift, low, high).astype(np.int8)


def bias_values(program: Program, op: Op) -> NDArray[np.float32]:
    """The bias of a layer, float32 [O]; zeros where it has none."""
    bias = program.operand(op, "bias")
    return np.zeros(_weight(program, op).shape[0], np.float32) if bias is None else bias.real().reshape(-1).astype(np.float32)


def window_counts(program: Program, op: Op) -> NDArray[np.int64]:
    """By how many values a mean or an average pool divides: one number, or 1 … kernel where the padding is left out of the count."""
    shape, a = program.tensor(op.inputs[0]).shape, op.attributes
    if op.kind == "mean":
        return np.array([prod(shape[axis] for axis in a["axes"])])
    kernel = int(np.prod(a["kernel"]))
    return np.arange(1, kernel + 1) if np.any(a["padding"]) and not a["count_include_pad"] else np.array([kernel])


def _weight(program: Program, op: Op) -> Weight:
    return program.weights[op.weights["weight"]]


def _scales(program: Program, op: Op) -> tuple[float, float]:
    """Scales of the first input and of the output as float64, checked."""
    sx, sy = (float(quantization(program.tensor(name))[0]) for name in (op.inputs[0], op.outputs[0]))
    if not (np.isfinite([sx, sy]).all() and min(sx, sy) > 0):
        raise UnsupportedOp(f"'{op.name}' ({op.kind}): its scales {sx} → {sy} must be finite and positive; calibrate again")
    return sx, sy


def _reach(tensor: Tensor) -> int:
    """The largest |code − zero point|."""
    low, high = code_range(tensor)
    zero_point = quantization(tensor)[1]
    return max(abs(low - zero_point), abs(high - zero_point))


def _fixed_point(op: Op, real: NDArray[np.float64], beta: NDArray[np.float64], limit: NDArray[Any], zero_point: int) -> Requant:
    """Real multipliers [O, T], bias in output codes [O] and the largest |accumulators| [O, T] to a ``Requant``."""
    _check_layer(op, real, beta, limit)
    # An accumulator that is always 0 needs no multiplier, and a bias far outside the codes makes the channel constant.
    real = real * (limit > 0)
    constant = np.abs(beta) > (np.abs(real) * limit).sum(1) + SATURATED
    real, beta = real * ~constant[:, None], np.where(constant, np.clip(beta, -SATURATED, SATURATED), beta)

    largest = np.abs(real).max(1)
    fraction, exponent = np.frexp(largest)
    shift = 31 - exponent - (np.rint(np.ldexp(fraction, 31)) == 2.0**31)
    room = 62 - np.frexp(np.abs(beta) + abs(zero_point) + 1)[1]
    shift = np.where(largest == 0, 31, np.minimum(shift, room)).astype(np.int64)
    if (shift < 1).any():
        channel = int(np.argmin(shift))
        raise UnsupportedOp(
            f"'{op.name}' ({op.kind}): channel {channel} multiplies by {largest[channel]:.3g}, more than integers can follow (2^30); "
            "its output scale is far too small, calibrate again"
        )
    multiplier = np.rint(np.ldexp(real, shift[:, None])).astype(np.int32)
    half = np.int64(1) << (shift - 1)
    bias = np.rint(np.ldexp(beta, shift)).astype(np.int64) + (np.int64(zero_point) << shift) + half
    return Requant(multiplier=multiplier[:, 0] if multiplier.shape[1] == 1 else multiplier, bias=bias, shift=shift.astype(np.uint8))


def _check_layer(op: Op, real: NDArray[np.float64], beta: NDArray[np.float64], limit: NDArray[Any]) -> None:
    where = f"'{op.name}' ({op.kind})"
    if not np.isfinite(real).all():
        raise UnsupportedOp(f"{where}: channel {int(np.argmax(~np.isfinite(real).all(1)))} has a weight scale that is not finite")
    if not np.isfinite(beta).all():
        raise UnsupportedOp(f"{where}: channel {int(np.argmax(~np.isfinite(beta)))} has a bias that is not finite")
    total = limit.sum(1)
    if (total >= 2**31).any():
        raise UnsupportedOp(
            f"{where}: channel {int(np.argmax(total))} can sum up to {int(total.max())}, more than 32 bits hold; split the layer"
        )
