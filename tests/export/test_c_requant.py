"""Sums to codes in float32: the same integers as 64 bits, by exact arithmetic, where the exporter says so."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from karui.export.c_requant import in_reals
from karui.program.arithmetic import Requant, requantize


def layer(seed: int, channels: int = 4) -> tuple[Requant, np.ndarray, tuple[int, int]]:
    """Numbers as layers have them: 31 bits to a multiplier, results that reach past the codes."""
    rng = np.random.default_rng(seed)
    multiplier, shift = rng.integers(2**30, 2**31, channels), rng.integers(33, 44, channels)
    bias = (rng.normal(0, 60, channels) * 2.0**shift).astype(np.int64)
    most = rng.integers(1, 2**23, channels)
    requant = Requant(multiplier=multiplier.astype(np.int32), bias=bias, shift=shift.astype(np.uint8))
    return requant, most, (int(rng.integers(-128, 0)), int(rng.integers(0, 128)))


def rounded(value: Fraction, *, down: bool) -> Fraction:
    """To float32: down, or to the nearest, ties to even."""
    if value == 0:
        return value
    exponent = 0
    while abs(value) * Fraction(2) ** exponent < 2**23:
        exponent += 1
    while abs(value) * Fraction(2) ** exponent >= 2**24:
        exponent -= 1
    scaled = value * Fraction(2) ** exponent
    return Fraction(floor(scaled) if down else round(scaled)) / Fraction(2) ** exponent


def code(s: int, numbers: np.ndarray, bounds: tuple[int, int]) -> int:
    """What a vector computes for a sum with its start."""
    upper, lower, rest = (Fraction(float(n)) for n in numbers)
    real = rounded(Fraction(s), down=False)
    inner = rounded(real * lower + rest, down=False)
    return int(np.clip(floor(rounded(real * upper + inner, down=True)), *bounds))


@pytest.mark.parametrize("seed", range(6))
def test_equal_at_every_step(seed: int) -> None:
    requant, most, bounds = layer(seed)
    found = in_reals(requant, requant.bias, most, bounds)
    assert found is not None
    start, tables = found
    m, shift = requant.multiplier.astype(np.int64), requant.shift.astype(np.int64)
    rng = np.random.default_rng(seed)
    for o, last in enumerate(most):
        steps = -((requant.bias[o] - (np.arange(*bounds) << shift[o])) // m[o])
        sums = np.concatenate([steps, steps - 1, rng.integers(-last, last + 1, 50), [-last, last]])
        sums = sums[np.abs(sums) <= last]
        one = Requant(multiplier=requant.multiplier[o : o + 1], bias=requant.bias[o : o + 1], shift=requant.shift[o : o + 1])
        expected = requantize(sums[:, None], one, *bounds)[:, 0]
        assert [code(int(s + start[o]), tables[:, o], bounds) for s in sums] == expected.tolist()


def test_channels_that_never_change() -> None:
    """No weights, or a clamp that leaves one code: a sum means nothing."""
    requant = Requant(multiplier=np.array([0, 2**30], np.int32), bias=np.array([5 << 31, -(5 << 39)]), shift=np.array([31, 40], np.uint8))
    found = in_reals(requant, requant.bias, np.array([0, 100]), (-9, 9))
    assert found is not None
    assert [code(s, found[1][:, o], (-9, 9)) for o, s in ((0, 0), (1, -100), (1, 100))] == [5, -3, -3]


def test_what_floats_cannot_follow() -> None:
    """Multipliers below zero, sums that need more than 24 bits to tell one code from the next, results beyond 32 bits."""

    def refused(multiplier: int, shift: int, most: int) -> bool:
        requant = Requant(multiplier=np.array([multiplier], np.int32), bias=np.array([0]), shift=np.array([shift], np.uint8))
        return in_reals(requant, requant.bias, np.array([most]), (-128, 127)) is None

    assert refused(-(2**30), 40, 1000) and refused(2**30, 30 + 19, 2**28) and refused(2**31 - 1, 8, 2**20)
    assert not refused(2**30, 40, 1000)
