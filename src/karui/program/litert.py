"""LiteRT's two integer arithmetics, restated: the reference kernels (``litert_ref``) and XNNPACK's (``xnnpack``).

The formulas are in docs/adr/0001-three-integer-arithmetics.md; tests/program/test_litert_match.py holds them against the real kernels.
A ``.tflite`` carries the bias in 32 bits (``layer_numbers``), one scale per output channel and nothing else of what ``karui`` uses.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from karui.errors import UnsupportedOp
from karui.program.arithmetic import Term, bias_values, quantization, terms
from karui.program.program import Array, Op, Program

Integers = NDArray[np.int64]
MOST_BIAS = 2**30  # of 32 bits with a sign: the other half is for the sum of products


def single_term(program: Program, op: Op) -> Term:
    """The weight's only part; refuses weights that LiteRT has no form for."""
    first, *more = terms(program.weights[op.weights["weight"]])
    if more:
        raise UnsupportedOp(f"'{op.name}' ({op.kind}): LiteRT has one scale per output channel, this weight has several; use 'karui'")
    if first.codes.min(initial=0) < -128 or first.codes.max(initial=0) > 127:
        raise UnsupportedOp(f"'{op.name}' ({op.kind}): LiteRT has weights of 8 bits, these need 9 with their zero points; use 'karui'")
    return first


def layer_numbers(program: Program, op: Op) -> tuple[Term, NDArray[np.int32]]:
    """The weight and the bias as LiteRT stores them; the bias is ``rint(bias / (sx · sw))`` per output channel, float64 inside.

    A channel whose bias would be beyond 2^30, because its weights are next to nothing, gets a wider step: the weights lose places that the
    output couldn't show, and the accumulator stays within 32 bits.
    """
    term = single_term(program, op)
    sx = np.float64(quantization(program.tensor(op.inputs[0]))[0])
    real = bias_values(program, op).astype(np.float64)
    least = (np.abs(real) / (sx * MOST_BIAS)).astype(np.float32)
    if (least > term.scale).any():
        scale = np.maximum(term.scale, np.nextafter(least, np.float32(np.inf)))
        share = (term.scale.astype(np.float64) / scale).reshape(-1, *(1,) * (term.codes.ndim - 1))
        term = Term(codes=np.rint(term.codes * share).astype(np.int32), scale=scale)
    step = sx * term.scale.astype(np.float64)
    return term, np.rint(np.divide(real, step, out=np.zeros_like(real), where=step != 0)).astype(np.int32)


def quantize_multiplier(real: float | np.float64) -> tuple[int, int]:
    """``real ≈ multiplier · 2^(exponent − 31)`` with multiplier in [2^30, 2^31); 0 below 2^-32."""
    fraction, exponent = np.frexp(np.float64(real))
    multiplier = int(np.floor(float(fraction) * 2**31 + 0.5))
    if multiplier == 2**31:
        multiplier, exponent = 2**30, exponent + 1
    return (0, 0) if exponent < -31 else (multiplier, int(exponent))


def _pairs(real: Array | float) -> tuple[Integers, Integers]:
    pairs = np.array([quantize_multiplier(value) for value in np.atleast_1d(real)], np.int64)
    return pairs[:, 0], pairs[:, 1]


def single_rounding(x: Integers, real: Array | float) -> Integers:
    """``(x · multiplier + half) >> shift``: rounds once, ties up."""
    multiplier, exponent = _pairs(real)
    shift = 31 - exponent
    return (x * multiplier + (np.int64(1) << (shift - 1))) >> shift


def double_rounding(x: Integers, real: Array | float) -> Integers:
    """A rounding doubling high product (ties away from zero) and then a rounding shift to the right (ties away): two roundings."""
    return _double_rounding(x, *_pairs(real))


def _double_rounding(x: Integers, multiplier: Integers | int, exponent: Integers | int) -> Integers:
    left, right = np.maximum(exponent, 0), np.maximum(-np.asarray(exponent), 0)
    product = (x << left) * multiplier
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(nudged >= 0, nudged >> 31, -((-nudged) >> 31))  # C's division: towards zero
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > ((mask >> 1) + (high < 0)))


def layer(program: Program, op: Op, sums: Callable[[NDArray[np.int32]], Integers], *, xnnpack: bool) -> Integers:
    """A conv or linear to codes without zero point. sums: its accumulators (without bias) for weight codes."""
    term, bias = layer_numbers(program, op)
    scale = term.scale
    sx, sy = (quantization(program.tensor(name))[0] for name in (op.inputs[0], op.outputs[0]))
    total = sums(term.codes) + bias
    if xnnpack:
        return _float_product(total, sx * scale / sy)
    real = np.float64(sx) * scale.astype(np.float64) / np.float64(sy)
    return single_rounding(total, real) if op.kind == "linear" else double_rounding(total, real)


def mean(program: Program, op: Op, total: Integers, count: int, *, xnnpack: bool) -> Integers:
    """Sums of ``code − zero point`` over ``count`` values to codes without zero point."""
    (sx, zx), (sy, zy) = (quantization(program.tensor(name)) for name in (op.inputs[0], op.outputs[0]))
    if not xnnpack:
        return _double_rounding(total, *_shared(*quantize_multiplier(np.float64(sx) / np.float64(sy)), count))
    k = sx / sy * (np.float32(1) / np.float32(count))
    offset = np.float32(zy) - np.float32(zx * count) * k
    return np.rint((total + count * zx).astype(np.float32) * k + offset).astype(np.int64) - zy


def _shared(multiplier: int, exponent: int, count: int) -> tuple[int, int]:
    """A multiplier divided by a count: with as many bits more as the count has behind its first, rounded down."""
    more = min(count.bit_length() - 1, 32, 31 + exponent)
    return (multiplier << more) // count, exponent - more


def add(program: Program, op: Op, centred: Sequence[Integers], *, xnnpack: bool) -> Integers:
    """Two arrays of ``code − zero point`` to the codes of their sum, without zero point."""
    s1, s2 = (quantization(program.tensor(name))[0] for name in op.inputs)
    sy = quantization(program.tensor(op.outputs[0]))[0]
    a, b = centred
    if xnnpack:
        m1, m2 = s1 / sy, s2 / sy
        shift = 21 - int(np.frexp(max(m1, m2))[1])
        k1, k2 = (int(np.rint(np.ldexp(np.float64(m), shift))) for m in (m1, m2))
        return (a * k1 + b * k2 + (1 << (shift - 1))) >> shift
    twice = 2 * max(np.float64(s1), np.float64(s2))
    scaled = double_rounding(a << 20, np.float64(s1) / twice) + double_rounding(b << 20, np.float64(s2) / twice)
    return double_rounding(scaled, twice / ((1 << 20) * np.float64(sy)))


def mul(program: Program, op: Op, centred: Sequence[Integers], *, xnnpack: bool) -> Integers:
    """Two arrays of ``code − zero point`` to the codes of their product, without zero point."""
    s1, s2 = (quantization(program.tensor(name))[0] for name in op.inputs)
    sy = quantization(program.tensor(op.outputs[0]))[0]
    product = centred[0] * centred[1]
    if xnnpack:
        return _float_product(product, s1 * s2 / sy)
    return double_rounding(product, np.float64(s1) * np.float64(s2) / np.float64(sy))


def average(program: Program, op: Op, total: Integers, counts: Integers, *, xnnpack: bool) -> Integers:
    """Sums of ``code − zero point`` over each window's ``counts`` real pixels to codes.

    LiteRT's pool works on raw codes, ties away from zero, and never counts padding. Where the scale changes or padding counts, the file has
    a depthwise layer of ones instead. Padding that isn't counted under a scale that changes has no form in its integers.
    """
    source, target = (program.tensor(name) for name in (op.inputs[0], op.outputs[0]))
    (sx, zx), (sy, zy) = quantization(source), quantization(target)
    counted = bool(op.attributes["count_include_pad"])
    if source.quant == target.quant and not (counted and any(op.attributes["padding"])):
        raw = total + counts * zx
        return np.sign(raw) * ((np.abs(raw) + counts // 2) // counts)
    if not counted and any(op.attributes["padding"]):
        raise UnsupportedOp(
            f"'{op.name}' ({op.kind}): LiteRT's average pool without its padding needs one scale and zero point on both sides; use 'karui'"
        )
    share = np.float32(1 / np.prod(op.attributes["kernel"]))
    if xnnpack:
        return _float_product(total, sx * share / sy) + zy
    return double_rounding(total, np.float64(sx) * np.float64(share) / np.float64(sy)) + zy


def _float_product(x: Integers, scale: Array | np.float32) -> Integers:
    """``rint(float32(x) · scale)``, ties to even, everything in float32."""
    return np.rint(x.astype(np.float32) * np.asarray(scale, np.float32)).astype(np.int64)
