"""Every kind in integers, against the real numbers that its codes stand for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from karui.program.arithmetic import dequantize, quantize
from karui.program.interpreter import run
from karui.program.program import Affine, AffineValues, Array, CodebookValues, Element, SignValues, TernaryValues, Values
from tests.program.single_op import RNG, affine, codes, floats, int8, integer, normal, program, tensor
from tests.program.single_op import floating as floats_only

XQ, YQ = affine(0.03, -7), affine(0.05, 4)


def real(array: Array, quant: Affine) -> Array:
    return (array.astype(np.float64) - quant.zero_point) * quant.scale


def agree(ours: Array, expected: Array, quant: Affine = YQ, low: int = -128, high: int = 127) -> None:
    """Codes are the nearest to the real result, but for ties."""
    exact = expected / quant.scale + quant.zero_point
    assert ours.dtype == np.int8 and ours.std() > 3
    assert (np.abs(ours - np.clip(exact, low, high)) <= 0.5 + 1e-3).all()


CONV: dict[str, Any] = {"stride": [2, 1], "padding": [1, 0, 2, 1], "dilation": [1, 2], "clamp": [4, 100]}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_integer_conv2d(groups: int) -> None:
    x, w, b = codes(3, 9, 8, 4), codes(8, 3, 2, 4 // groups), normal(8)
    scale = np.linspace(0.001, 0.004, 8).astype(np.float32)
    ours = integer("conv2d", [x], [XQ, YQ], (5, 7, 8), {"weight": int8(w, scale), "bias": floats(b)}, groups=groups, **CONV)
    weight = torch.from_numpy(w * scale.astype(np.float64)[:, None, None, None]).permute(0, 3, 1, 2)
    padded = F.pad(torch.from_numpy(real(x, XQ)).permute(0, 3, 1, 2), (0, 1, 1, 2))
    expected = F.conv2d(padded, weight, torch.from_numpy(b).double(), (2, 1), 0, (1, 2), groups).permute(0, 2, 3, 1).numpy()
    agree(ours, expected, low=4, high=100)


def test_integer_conv1d_is_conv2d_of_height_one() -> None:
    x, w, b = codes(2, 12, 4), codes(6, 3, 4), normal(6)
    weights: dict[str, Values] = {"weight": int8(w, 0.002), "bias": floats(b)}
    ours = integer("conv1d", [x], [XQ, YQ], (6, 6), weights, stride=2, padding=[1, 1], dilation=1, groups=1, clamp=None)
    weights["weight"] = int8(w[:, None], 0.002)
    attributes = {"stride": [1, 2], "padding": [0, 1, 0, 1], "dilation": [1, 1], "groups": 1, "clamp": None}
    np.testing.assert_array_equal(ours[:, None], integer("conv2d", [x[:, None]], [XQ, YQ], (1, 6, 6), weights, **attributes))


def test_sums_beyond_float32_are_exact() -> None:
    """Partial sums beyond 2^24 that all but cancel: a matrix product in float32 would be off by many units."""
    half = RNG.integers(100, 128, (64, 4096)).astype(np.int8)
    w = np.concatenate([half, -half, RNG.integers(-1, 2, (64, 50)).astype(np.int8)], 1)
    x = np.concatenate([np.full((1, 8192), 127), RNG.integers(-128, 0, (1, 50))], 1).astype(np.int8)
    exact = (x.astype(np.int64) + 128) @ w.T.astype(np.int64) // 16
    ours = integer(
        "linear", [x], [affine(1.0, -128), affine(16.0)], (64,), {"weight": int8(w, 1.0), "bias": floats([-7.5] * 64)}, clamp=None
    )
    np.testing.assert_array_equal(ours, exact.clip(-128, 127))  # ⌊(acc − 7.5)/16 + ½⌋ = ⌊acc/16⌋
    assert ours.std() > 3


def forms() -> dict[str, Values]:
    signs = np.where(normal(5, 24) > 0, 1, -1).astype(np.int8)
    ternary = RNG.integers(-1, 2, (5, 24)).astype(np.int8)
    scale = np.linspace(0.05, 0.1, 5).astype(np.float32)
    grouped = AffineValues(
        bits=4,
        codes=RNG.integers(-8, 8, (5, 24)).astype(np.int8),
        scale=RNG.uniform(0.005, 0.03, (5, 3)).astype(np.float32),
        zero_point=RNG.integers(-2, 3, (5, 3)).astype(np.int32),
        group=8,
    )
    book = RNG.integers(-100, 100, 16).astype(np.int8)
    return {
        "sign": SignValues(codes=signs, scale=scale),
        "ternary": TernaryValues(codes=ternary, positive=scale, negative=scale),
        "ternary of two scales": TernaryValues(codes=ternary, positive=scale, negative=np.asarray(0.03, np.float32)),
        "grouped": grouped,
        "codebook": CodebookValues(index=RNG.integers(0, 16, (5, 24)).astype(np.uint8), codebook=book, scale=scale / 80),
        "with zero points": replace(grouped, scale=scale / 4, zero_point=np.arange(5, dtype=np.int32) - 2, group=0),
    }


@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("sparse", [False, True])
def test_every_form_of_weight(form: str, sparse: bool) -> None:
    values, x, b = forms()[form], codes(64, 24), normal(5)
    p = program("linear", [tensor("x", (24,), XQ)], [tensor("y", (5,), YQ)], {"weight": values, "bias": floats(b)}, clamp=None)
    if sparse:
        weight = replace(p.weights["weight"], support=Element(mask=RNG.random((5, 24)) < 0.5))
        p = replace(p, weights={**p.weights, "weight": weight})
    agree(run(p, [x])[0], real(x, XQ) @ p.weights["weight"].real().T.astype(np.float64) + b)


def test_integer_add_and_mul_broadcast() -> None:
    a, b, bq = codes(4, 5, 6), codes(4, 6), affine(0.02, 11)
    agree(integer("add", [a, b], [XQ, bq, YQ], (5, 6), clamp=None), real(a, XQ) + real(b, bq)[:, None])
    agree(integer("mul", [a, b], [XQ, bq, YQ], (5, 6), clamp=[0, None]), real(a, XQ) * real(b, bq)[:, None], low=0)


def test_integer_mean_and_pools() -> None:
    x, fine = codes(4, 6, 6, 3), affine(0.007, -3)
    agree(integer("mean", [x], [XQ, fine], (3,), axes=[0, 1], keepdims=False, clamp=None), real(x, XQ).mean((1, 2)), fine)
    for counted in (True, False):
        window = {"kernel": [3, 3], "stride": [2, 1], "padding": [1, 1, 0, 1], "count_include_pad": counted, "clamp": None}
        expected = floats_only("avg_pool2d", [real(x, XQ)], (3, 6, 3), **window)
        agree(integer("avg_pool2d", [x], [XQ, YQ], (3, 6, 3), **window), expected)
    line = {"kernel": 3, "stride": 1, "padding": [1, 1], "count_include_pad": False, "clamp": None}
    expected = floats_only("avg_pool1d", [real(x[:, 0], XQ)], (6, 3), **line)
    agree(integer("avg_pool1d", [x[:, 0]], [XQ, YQ], (6, 3), **line), expected)


def test_integer_moves_keep_the_codes() -> None:
    x = codes(2, 4, 4, 3)
    same = [XQ, XQ]
    pool = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0, 0, 0]}
    assert (integer("max_pool2d", [x], same, (2, 2, 3), **pool) == x.reshape(2, 2, 2, 2, 2, 3).max((2, 4))).all()
    assert integer("max_pool1d", [np.full((1, 2, 1), -128)], same, (2, 1), kernel=3, stride=1, padding=[1, 1]).tolist() == [
        [[-128], [-128]]
    ]
    assert (integer("pad", [x], same, (4, 4, 4), padding=[[0, 0], [0, 0], [0, 1]], value=None)[..., 3] == XQ.zero_point).all()
    assert (integer("pad", [x], same, (4, 4, 4), padding=[[0, 0], [0, 0], [1, 0]], value=9)[..., 0] == 9).all()
    assert (integer("clamp", [x], same, (4, 4, 3), clamp=[-7, 20]) == x.clip(-7, 20)).all()
    assert (integer("concat", [x, x], [XQ, XQ, XQ], (4, 4, 6), axis=2) == np.concatenate([x, x], 3)).all()
    assert (integer("reshape", [x], same, (48,)) == x.reshape(2, 48)).all()
    assert (integer("upsample_nearest2d", [x], same, (8, 4, 3), scale=[2, 1]) == x.repeat(2, 1)).all()


def test_lookup() -> None:
    tables, x = codes(3, 256), codes(2, 4, 3)
    one = integer("lookup", [x], [XQ, YQ], (4, 3), {"table": int8(tables[0], 1.0)})
    np.testing.assert_array_equal(one, tables[0][x.astype(int) + 128])
    each = integer("lookup", [x], [XQ, YQ], (4, 3), {"table": int8(tables, 1.0)})
    np.testing.assert_array_equal(each[..., 2], tables[2][x[..., 2].astype(int) + 128])
    pixels = RNG.integers(0, 256, (2, 4)).astype(np.uint8)
    p = program("lookup", [tensor("x", (4,), None, "uint8")], [tensor("y", (4,), YQ)], {"table": int8(tables[1], 1.0)})
    np.testing.assert_array_equal(run(p, [pixels])[0], tables[1][pixels])


def test_into_and_out_of_the_integers() -> None:
    x = normal(2, 5) * 5
    into = program("quantize", [tensor("x", (5,), None)], [tensor("y", (5,), YQ)])
    np.testing.assert_array_equal(run(into, [x])[0], quantize(x, YQ.scale, YQ.zero_point))
    out = program("dequantize", [tensor("x", (5,), YQ)], [tensor("y", (5,), None)])
    np.testing.assert_array_equal(run(out, [codes(2, 5)])[0].dtype, np.float32)
    q = codes(2, 5)
    np.testing.assert_array_equal(run(out, [q])[0], dequantize(q, YQ.scale, YQ.zero_point))
