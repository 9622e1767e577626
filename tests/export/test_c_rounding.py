"""Requantization by high words: the same codes for every sum that can be, where the code steps and anywhere else."""

import numpy as np
import pytest

from karui.export import c_rounding
from karui.export.c_rounding import at_shift, high_words


def codes(sums: list[int], multiplier: int, bias: int, shift: int) -> list[int]:
    return [min(127, max(-128, (multiplier * each + bias) >> shift)) for each in sums]


def by_high_words(sums: list[int], way: tuple[int, int, int, int], raised: int) -> list[int]:
    start, multiplier, bias, shift = way
    found = [(bias + (multiplier * ((each << raised) + start) >> 32)) >> shift for each in sums]
    assert all(abs((each << raised) + start) < 2**31 for each in sums)
    return [min(127, max(-128, each)) for each in found]


def around_steps(multiplier: int, bias: int, shift: int, reach: int) -> list[int]:
    """Sums next to each step of the code, and some others."""
    steps = [-((bias - (code << shift)) // max(1, multiplier)) for code in range(-130, 131)]
    near = {each + more for each in steps for more in (-1, 0, 1)} | {-reach, reach} | set(range(-reach, reach, max(1, reach // 500)))
    return sorted(each for each in near if abs(each) <= reach)


@pytest.mark.parametrize("raised", [0, 8])
def test_same_codes(raised: int) -> None:
    rng = np.random.default_rng(raised)
    ways = 0
    for _ in range(500):
        multiplier, reach = int(rng.integers(2 ** int(rng.integers(1, 31)))), int(rng.integers(2 ** int(rng.integers(1, 22))))
        shift = int(rng.integers(20, 46))
        bias = int(rng.integers(-(2**46), 2**46)) if rng.random() < 0.5 else int(rng.integers(-(2**7), 2**7)) << shift
        way = high_words(multiplier, bias, shift, reach, raised)
        if way is None:
            continue
        ways += 1
        sums = around_steps(multiplier, bias, shift, reach)
        assert by_high_words(sums, way, raised) == codes(sums, multiplier, bias, shift)
    assert ways > 400


@pytest.mark.parametrize("wanted", [38, 44])
def test_same_codes_at_one_shift(wanted: int) -> None:
    """Multipliers of 31 bits, which lose some where the shift is larger than the wanted one, of either sign."""
    rng = np.random.default_rng(wanted)
    ways = 0
    for _ in range(500):
        shift = int(rng.integers(24, 48))
        multiplier = int(rng.integers(2**30, 2**31)) * int(rng.choice([-1, 1]))
        reach = min(int(2.0 ** rng.uniform(5, 11)) << max(0, shift - 30), 2**18)
        bias = (int(rng.integers(-300, 300)) << shift) + int(rng.integers(1 << shift))
        way = at_shift(multiplier, bias, shift, reach, wanted)
        if way is None:
            continue
        ways += 1
        times, start, factor, word = way
        sums = around_steps(abs(multiplier), bias, shift, reach)
        found = [(word + (factor * (each * abs(times) + start) >> 32)) >> (wanted - 32) for each in sums]
        assert all(abs(each * times + start) < 2**31 for each in sums) and abs(word) < 2**31 and 0 <= factor < 2**31
        assert (times < 0) == (multiplier < 0)
        assert [min(127, max(-128, each)) for each in found] == codes(sums, abs(multiplier), bias, shift)
    assert ways > 400


def test_the_first_start() -> None:
    """None is missed, and none is larger than it has to be."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        modulus = int(rng.integers(1, 300))
        a, (low, high) = int(rng.integers(modulus)), sorted(int(each) for each in rng.integers(modulus, size=2))
        assert c_rounding._first(a, modulus, low, high) == next((c for c in range(modulus) if low <= a * c % modulus <= high), None)


def test_multipliers_near_a_simple_fraction() -> None:
    """8 / 25 of a word: multiples of it come near few numbers, until they are many."""
    multiplier, bias, shift, reach = 1374389504, 39829808729088, 39, 8192
    way = high_words(multiplier, bias, shift, reach)
    assert way is not None and way[0] > 2**22
    sums = around_steps(multiplier, bias, shift, reach)
    assert by_high_words(sums, way, 0) == codes(sums, multiplier, bias, shift)


def test_the_low_word_matters_without_a_start() -> None:
    multiplier, bias, shift, reach = 1_500_000_001, 5 * 2**39 + 2**31, 40, 2**17
    way = high_words(multiplier, bias, shift, reach)
    assert way is not None
    sums = around_steps(multiplier, bias, shift, reach)
    assert by_high_words(sums, way, 0) == codes(sums, multiplier, bias, shift)
    assert by_high_words(sums, (0, multiplier, bias >> 32, 8), 0) != codes(sums, multiplier, bias, shift)


def test_a_bias_beyond_64_bits() -> None:
    """As a raised sum's may be: a multiplier of fewer bits has the same steps."""
    multiplier, bias, shift, reach = 1_799_537_334, 58_022_775_042_388_576, 49, 2**19
    way = high_words(multiplier, bias, shift, reach, 8)
    assert way is not None and bias << 8 >= 2**63 and way[1] < multiplier
    sums = around_steps(multiplier, bias, shift, reach)
    assert by_high_words(sums, way, 8) == codes(sums, multiplier, bias, shift)


@pytest.mark.parametrize(("multiplier", "shift"), [(-1, 40), (2**30, 20), (2**30, 70)])
def test_too_many_bits(multiplier: int, shift: int) -> None:
    assert high_words(multiplier, 0, shift, 1000) is None
