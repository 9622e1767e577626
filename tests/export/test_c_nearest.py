"""Codes by rounding floats: every sum makes the code of the exact requantization, or the channel isn't said to."""

import numpy as np
import pytest

from karui.export.c_nearest import MOST, by_floats
from karui.program.program import Array


def rounded(sums: Array, scale: Array, offset: Array, low: int, high: int) -> Array:
    """As the kernel does: a product and a sum, rounded once to a float, then to the nearest integer. [channels, sums]."""
    values = (sums[None].astype(np.float64) * scale[:, None] + offset[:, None]).astype(np.float32)
    return np.clip(np.rint(values), low, high).astype(np.int64)


@pytest.mark.parametrize("inputs", [9, 576, 4608])
@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-5, 90), (0, 1)])
def test_they_are_the_codes_of_whole_numbers(inputs: int, low: int, high: int) -> None:
    rng = np.random.default_rng(inputs)
    channels, shift = 200, rng.integers(32, 44, 200)
    multiplier = np.int64(2**30 + rng.integers(0, 2**30, channels)) * rng.choice([-1, 1], channels)
    middle = rng.integers(-inputs, inputs, channels) * multiplier  # so that codes change somewhere among the sums
    bias, sums = -middle + (rng.integers(-60, 60, channels) << shift), -2 * np.arange(inputs + 1)
    scale, offset, exact = by_floats(sums, multiplier, bias, shift, low, high)
    assert exact.mean() > 0.9
    expected = np.clip((sums[None] * multiplier[:, None] + bias[:, None]) >> shift[:, None], low, high)
    assert np.array_equal(rounded(sums, scale, offset, low, high)[exact], expected[exact])


def test_what_lies_too_near_to_a_step_is_not_said_to() -> None:
    """A code that changes between 101 − 2^-31 and 101: floats can't tell them apart. Beside it, a channel without such a place."""
    sums, multiplier, bias = np.arange(-3, 4), np.array([2**31 - 1, 2**30 + 12345]), np.array([100 << 31, (100 << 31) + (1 << 29)])
    exact = by_floats(sums, multiplier, bias, np.array([31, 31]), -128, 127)[2]
    assert exact.tolist() == [False, True]


def test_channels_that_are_always_one_code_or_have_no_scale() -> None:
    sums, shift = np.arange(-100, 1), np.array([32, 32, 32])
    multiplier, bias = np.array([0, 2**30, -(2**30)]), np.array([5 << 32, 1 << 50, -1 << 50])
    scale, offset, exact = by_floats(sums, multiplier, bias, shift, -128, 127)
    assert exact.all() and [set(row) for row in rounded(sums, scale, offset, -128, 127).tolist()] == [{5}, {127}, {-128}]


def test_more_sums_than_are_tried() -> None:
    assert not by_floats(-np.arange(MOST // 4), np.ones(5, np.int64), np.zeros(5, np.int64), np.full(5, 8), -128, 127)[2].any()
