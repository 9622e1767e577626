"""The arithmetic ``karui``: examples worked by hand, exactness against fractions, and every range that must be refused."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.errors import UnsupportedOp
from karui.program.arithmetic import Requant, addition, dequantize, quantize, requantization, requantize, terms
from karui.program.program import AffineValues, Array, Program, TernaryValues, Values
from tests.program.single_op import affine, floats, int8, program, tensor, weight


def linear(values: Values, bias: Array | None = None, *, x: tuple[float, int] = (1.0, 0), y: tuple[float, int] = (1.0, 0)) -> Program:
    codes = getattr(values, "codes", None)
    assert codes is not None
    weights: dict[str, Values] = {"weight": values} if bias is None else {"weight": values, "bias": floats(bias)}
    return program("linear", [tensor("x", codes.shape[1:], affine(*x))], [tensor("y", codes.shape[:1], affine(*y))], weights, clamp=None)


def numbers(p: Program) -> Requant:
    return requantization(p, p.ops[0])


# ── By hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_half() -> None:
    """M = ½ = 0.5 · 2^0, so the multiplier is 2^30 and the shift 31; β = ¼ / 1."""
    r = numbers(linear(int8([[1]], 0.5), np.array([0.25]), y=(1.0, 3)))
    assert (r.multiplier.tolist(), r.shift.tolist()) == ([2**30], [31])
    assert r.bias.tolist() == [2**29 + 3 * 2**31 + 2**30]
    # 3·½ + ¼ = 1.75 → 2; −1·½ + ¼ = −0.25 → 0; ties go up: 0.5·½ can't be made, but 1·½ + ¼ = 0.75 → 1
    assert requantize(np.array([[3], [-1], [1]]), r, -128, 127).ravel().tolist() == [5, 3, 4]


def test_three_quarters_of_a_quarter() -> None:
    """M = 0.25 · 0.75 = 0.1875 = 0.75 · 2^-2: multiplier 0.75 · 2^31, shift 33; no bias."""
    r = numbers(linear(int8([[1]], 0.75), x=(0.25, 0)))
    assert (r.multiplier.tolist(), r.shift.tolist(), r.bias.tolist()) == ([1610612736], [33], [2**32])
    assert requantize(np.array([[8], [-8], [100]]), r, -128, 127).ravel().tolist() == [2, -1, 19]  # 1.5 → 2, −1.5 → −1, 18.75 → 19


def test_a_multiplier_that_rounds_up_to_a_power_of_two() -> None:
    """M = (1 + 2^-23)(1 − 2^-23) = 1 − 2^-46 would be 2^31 · 2^-31: the multiplier becomes 2^30 and the shift one less."""
    p = linear(int8([[1]], 1 + 2**-23), x=(1 - 2**-23, 0))
    assert (numbers(p).multiplier.tolist(), numbers(p).shift.tolist()) == ([2**30], [30])


def test_the_bias_is_not_rounded_to_accumulator_steps() -> None:
    """One accumulator step is worth 4 codes; a bias of 1 code would be lost in an int32 bias, and is exact here."""
    r = numbers(linear(int8([[1]], 4.0), np.array([1.0])))
    assert requantize(np.array([[0], [1], [-1]]), r, -128, 127).ravel().tolist() == [1, 5, -3]


def test_ternary_of_two_scales_is_two_terms_with_one_shift() -> None:
    values = TernaryValues(
        codes=np.array([[1, -1, 0]], np.int8), positive=np.array([0.5], np.float32), negative=np.array([0.125], np.float32)
    )
    r = numbers(linear(values))
    assert (r.multiplier.tolist(), r.shift.tolist()) == ([[2**30, -(2**28)]], [31])
    # 10 under the +1 and 24 under the −1: 5 − 3 = 2
    assert requantize(np.array([[[10, 24]]]), r, -128, 127).tolist() == [[2]]
    same = TernaryValues(codes=values.codes, positive=values.positive, negative=values.positive)
    assert len(terms(weight("w", same))) == 1 and numbers(linear(same)).multiplier.shape == (1,)


def test_grouped_scales_are_a_term_per_group() -> None:
    values = AffineValues(
        bits=4,
        codes=np.array([[1, 2, 3, 4, 5]], np.int8),
        scale=np.array([[0.5, 0.25, 1.0]], np.float32),
        zero_point=np.array([[0, 1, 0]], np.int32),
        group=2,
    )
    parts = terms(weight("w", values))
    assert [part.codes.tolist() for part in parts] == [[[1, 2, 0, 0, 0]], [[0, 0, 2, 3, 0]], [[0, 0, 0, 0, 5]]]
    r = numbers(linear(values))
    assert (r.multiplier.tolist(), r.shift.tolist()) == ([[2**29, 2**28, 2**30]], [30])
    assert requantize(np.array([[[3, 5, 5]]]), r, -128, 127).tolist() == [[8]]  # 1.5 + 1.25 + 5 = 7.75


def test_addition() -> None:
    """M1 = ½, M2 = ¼: the shift is the most there is, 22; all zero points sit in the bias."""
    p = program(
        "add", [tensor("a", [1], affine(0.5, 3)), tensor("b", [1], affine(0.25, -4))], [tensor("y", [1], affine(1.0, 10))], clamp=None
    )
    a = addition(p, p.ops[0])
    assert (a.multipliers, a.shift) == ((2**20, 2**19), 21)
    assert a.bias == 10 * 2**21 + 2**20 - 3 * 2**20 + 4 * 2**19


def test_mean_and_pool_divide_by_their_counts() -> None:
    mean = program("mean", [tensor("x", [4, 4, 2], affine(1.0))], [tensor("y", [2], affine(0.5))], axes=[0, 1], keepdims=False, clamp=None)
    assert (numbers(mean).multiplier.tolist(), numbers(mean).shift.tolist()) == ([2**30], [33])  # 1/(0.5·16) = ⅛
    attributes = {"kernel": [2, 2], "stride": [1, 1], "padding": [1, 1, 0, 0], "clamp": None}
    x, y = tensor("x", [4, 4, 2], affine(1.0)), tensor("y", [4, 4, 2], affine(1.0))
    counted = program("avg_pool2d", [x], [y], count_include_pad=True, **attributes)
    assert numbers(counted).shift.tolist() == [32]
    clipped = program("avg_pool2d", [x], [y], count_include_pad=False, **attributes)
    r = numbers(clipped)
    assert (r.multiplier / 2.0**r.shift).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


# ── Between floats and codes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_quantize_rounds_half_to_even_and_clamps() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9, np.inf, -np.inf, np.nan, 62.4])
    assert quantize(x, 1.0, 0).tolist() == [0, 2, 2, 0, 127, -128, 127, -128, -128, 62]
    assert quantize(x, 0.5, -128)[:4].tolist() == [-127, -125, -123, -128]


def test_quantize_divides_in_float32() -> None:
    """A product with the reciprocal would give other codes at ties."""
    scale = np.float32(0.3)
    x = (np.arange(-100, 100, dtype=np.float32) + np.float32(0.5)) * scale
    assert quantize(x, scale, 0).tolist() == np.rint(x / scale).astype(int).tolist()
    assert quantize(x, scale, 0).tolist() != np.rint(x * (1 / scale)).astype(int).tolist()


@given(scale=st.floats(2**-20, 2**10, width=32), zero_point=st.integers(-128, 127))
def test_codes_survive_the_round_trip(scale: float, zero_point: int) -> None:
    codes = np.arange(-128, 128).astype(np.int8)
    assert (quantize(dequantize(codes, scale, zero_point), scale, zero_point) == codes).all()


# ── Exactness, against fractions ─────────────────────────────────────────────────────────────────────────────────────────────────

SCALES = st.floats(2**-10, 2**6, width=32)


@settings(max_examples=200, deadline=None)
@given(sx=SCALES, sw=SCALES, sy=SCALES, bias=st.floats(-1e4, 1e4, width=32), zero_point=st.integers(-128, 127), data=st.data())
def test_layer_follows_the_real_numbers(sx: float, sw: float, sy: float, bias: float, zero_point: int, data: st.DataObject) -> None:
    """Codes are ⌊exact + ½⌋ but where the exact value is within 2^-12 of a tie."""
    p = linear(int8([[127] * 64], sw), np.array([bias]), x=(sx, 0), y=(sy, zero_point))
    r = numbers(p)
    acc = data.draw(st.integers(-127 * 64 * 128, 127 * 64 * 128))
    exact = (acc * Fraction(sx) * Fraction(sw) + Fraction(bias)) / Fraction(sy) + zero_point
    got = int(requantize(np.array([[acc]]), r, -128, 127)[0, 0])
    near = {min(127, max(-128, floor(exact + Fraction(1, 2) + d))) for d in (-Fraction(1, 4096), 0, Fraction(1, 4096))}
    assert got in near


@settings(max_examples=200, deadline=None)
@given(s1=SCALES, s2=SCALES, sy=SCALES, zeros=st.tuples(*[st.integers(-128, 127)] * 3))
def test_addition_fits_in_32_bits_and_follows_the_real_numbers(s1: float, s2: float, sy: float, zeros: tuple[int, int, int]) -> None:
    z1, z2, zy = zeros
    p = program("add", [tensor("a", [1], affine(s1, z1)), tensor("b", [1], affine(s2, z2))], [tensor("y", [1], affine(sy, zy))], clamp=None)
    n = addition(p, p.ops[0])
    for a, b in ((-128, -128), (-128, 127), (127, -128), (127, 127), (5, 9)):
        steps = [n.bias, a * n.multipliers[0], b * n.multipliers[1]]
        steps += [steps[1] + steps[2], steps[0] + steps[1], sum(steps)]
        assert all(-(2**31) <= value < 2**31 for value in steps)
        exact = ((a - z1) * Fraction(s1) + (b - z2) * Fraction(s2)) / Fraction(sy) + zy
        if abs(exact) < 1000:
            assert abs((sum(steps[:3]) >> n.shift) - exact) <= Fraction(1, 2) + Fraction(1, 1000)


# ── Ranges ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=300, deadline=None)
@given(
    sw=st.lists(st.floats(0, 2**100, width=32), min_size=3, max_size=3),
    bias=st.lists(st.floats(-(2**127), 2**127, width=32), min_size=3, max_size=3),
    sy=st.floats(2**-100, 2**100, width=32),
    zero_point=st.integers(-128, 127),
)
def test_whatever_is_given_out_is_in_range(sw: list[float], bias: list[float], sy: float, zero_point: int) -> None:
    p = linear(int8([[127, 0], [0, 0], [-1, 3]], sw), np.array(bias), x=(0.01, -128), y=(sy, zero_point))
    try:
        r = numbers(p)
    except UnsupportedOp as error:
        assert "'layer' (linear)" in str(error)
        return
    assert (r.shift >= 1).all() and (r.shift <= 61).all()
    assert (np.abs(r.bias) < 2**62).all()
    assert r.multiplier.dtype == np.int32 and (np.abs(r.multiplier.astype(np.int64)) < 2**31).all()


@pytest.mark.parametrize(("bias", "code"), [(1e11, 127), (-1e11, -128), (2.0, 7), (0.0, 3)])
def test_a_channel_without_weights_is_constant(bias: float, code: int) -> None:
    r = numbers(linear(int8([[0, 0], [1, 1]], [1e-30, 1.0]), np.array([bias, 0.0]), y=(0.5, 3)))
    assert r.multiplier[0] == 0
    assert requantize(np.array([[12345, 0]]), r, -128, 127)[0].tolist() == [code, 3]


def test_a_huge_bias_over_small_weights_saturates() -> None:
    r = numbers(linear(int8([[1, 1]], 1e-6), np.array([1e11]), y=(0.5, 3)))
    assert requantize(np.array([[255], [-255]]), r, -128, 127).ravel().tolist() == [127, 127]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: linear(int8([[1]], 1.0), x=(float("nan"), 0)), "finite and positive"),
        (lambda: linear(int8([[1]], 1.0), y=(0.0, 0)), "finite and positive"),
        (lambda: linear(int8([[1]], np.inf)), "channel 0 has a weight scale that is not finite"),
        (lambda: linear(int8([[1], [1]], 1.0), np.array([0.0, np.nan])), "channel 1 has a bias that is not finite"),
        (lambda: linear(int8([[1]], 1e6), y=(1e-6, 0)), "output scale is far too small"),
        (lambda: linear(int8([[127] * 140_000], 1.0)), "more than 32 bits hold"),
    ],
)
def test_what_integers_cannot_follow_is_refused(make: object, says: str) -> None:
    with pytest.raises(UnsupportedOp, match=says) as caught:
        numbers(make())  # type: ignore[operator]
    assert "'layer' (linear)" in str(caught.value) and "\n" not in str(caught.value)
