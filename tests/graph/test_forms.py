import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.graph import forms as forms

K = torch.ops.karui
SHAPE = (4, 3, 2)


def weight(seed: int = 0, grad: bool = True) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def test_mask_zeroes_value_and_gradient() -> None:
    w, mask = weight(), (weight(1, False) > 0)
    y = K.mask(w, mask.float())
    assert torch.equal(y, torch.where(mask, w, 0.0))
    y.sum().backward()
    assert torch.equal(w.grad, mask.float())
    assert torch.equal(K.mask(w, mask), y)  # a bool mask is a mask too


def test_a_dense_mask_lets_the_whole_gradient_through() -> None:
    w, mask = weight(), (weight(1, False) > 0).float()
    g = weight(2, False)
    y = K.mask(w, mask, True)
    assert torch.equal(y, K.mask(w, mask))
    (y * g).sum().backward()
    assert torch.equal(w.grad, g)


def by_definition(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, qmin: int, qmax: int, axis: int | None) -> torch.Tensor:
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    step, z = scale.reshape(shape), zero.reshape(shape)
    return (torch.clamp(torch.round(x / step) + z, qmin, qmax) - z) * step


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), bits=st.integers(2, 8), axis=st.sampled_from([None, 0, 1, -1]), signed=st.booleans())
def test_fake_quantize_is_its_definition(seed: int, bits: int, axis: int | None, signed: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=generator)
    count = () if axis is None else (SHAPE[axis],)
    scale = torch.rand(count, generator=generator) * 0.1 + 0.01
    qmax = 2 ** (bits - 1) - 1
    zero = torch.zeros(count) if signed else torch.randint(-qmax, qmax + 1, count, generator=generator).float()
    found = K.fake_quantize(x, scale, zero, -qmax - 1, qmax, axis)
    expected = by_definition(x, scale, zero, -qmax - 1, qmax, axis)
    # The kernel multiplies by 1 / scale: where x / scale is a tie to one ulp, one step apart is right too.
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    step = scale.reshape(shape).expand_as(x)
    apart = (found - expected).abs() / step
    ties = ((x / step).frac().abs() - 0.5).abs() < 1e-4
    assert bool(((apart < 1e-3) | (ties & (apart < 1.001))).all())
    codes = found / step
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_fake_quantize_gradients(axis: int | None) -> None:
    x = weight()
    count = () if axis is None else (SHAPE[axis],)
    scale = torch.full(count, 0.01).requires_grad_()
    zero = torch.full(count, 3.0)
    g = weight(2, False)
    (K.fake_quantize(x, scale, zero, -128, 127, axis) * g).sum().backward()
    inside = ((x / 0.01).round() + 3 >= -128) & ((x / 0.01).round() + 3 <= 127)
    assert 0 < int(inside.sum()) < x.numel()
    assert torch.equal(x.grad, g * inside)
    v = x.detach() / 0.01
    slope = torch.where(v.round() + 3 < -128, torch.tensor(-131.0), torch.where(v.round() + 3 > 127, torch.tensor(124.0), v.round() - v))
    others = [d for d in range(3) if d != axis] if axis is not None else [0, 1, 2]
    count_per_scale = math.prod(SHAPE[d] for d in others)
    expected = (slope * g).sum(others) / math.sqrt(count_per_scale * 124)
    torch.testing.assert_close(scale.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [None, 0])
def test_half_precision_is_quantized_in_single(axis: int | None) -> None:
    """What mixed precision gives it: the dtype stays, and codes are those of the same numbers in float32."""
    x = (3 * weight(grad=False)).to(torch.bfloat16)
    half, single = x.clone().requires_grad_(), x.float().requires_grad_()
    scale = torch.tensor(0.0173) if axis is None else torch.tensor([0.0173, 0.01, 0.02, 0.03])
    rest = (scale, torch.zeros_like(scale, dtype=torch.int32), -128, 127, axis)
    y, expected = K.fake_quantize(half, *rest), K.fake_quantize(single, *rest)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected.to(torch.bfloat16))
    y.sum().backward()
    expected.sum().backward()
    assert torch.equal(half.grad.float(), single.grad)


def test_learned_and_fixed_scales_give_the_same_values() -> None:
    x, scale = weight(grad=False), torch.tensor(0.0173)
    fixed = K.fake_quantize(x, scale, torch.tensor(0.0), -127, 127, None)
    assert torch.equal(fixed, K.fake_quantize(x, scale.clone().requires_grad_(), torch.tensor(0.0), -127, 127, None))
    assert torch.equal(fixed, K.fake_quantize(x, scale.reshape(1), torch.zeros(1), -127, 127))


@pytest.mark.parametrize("scale", [None, torch.tensor(0.5), torch.tensor([0.1, 0.2, 0.3, 0.4])])
def test_binarize(scale: torch.Tensor | None) -> None:
    w = weight()
    with torch.no_grad():
        w[0, 0, 0] = 0.0
        w[0, 0, 1] = 1.5
    scale = None if scale is None else scale.clone().requires_grad_()
    y = K.binarize(w, scale)
    spread = torch.ones(SHAPE) if scale is None else scale.detach().reshape(-1, 1, 1).expand(SHAPE)
    signs = torch.where(w >= 0, 1.0, -1.0)
    assert torch.equal(y, signs * spread)
    g = weight(3, False)
    (y * g).sum().backward()
    torch.testing.assert_close(w.grad, g * spread * (w.abs() <= 1))
    assert w.grad[0, 0, 1] == 0
    if scale is not None:
        expected = (g * signs).sum() if scale.dim() == 0 else (g * signs).sum((1, 2))
        torch.testing.assert_close(scale.grad, expected)


CASES: list[tuple[Any, tuple[Any, ...]]] = [
    (K.mask.default, (weight(), torch.ones(SHAPE))),
    (K.mask.default, (weight(), torch.ones(SHAPE), True)),
    (K.fake_quantize.default, (weight(), torch.full((4,), 0.1, requires_grad=True), torch.zeros(4), -127, 127, 0)),
    (K.fake_quantize.default, (weight(), torch.tensor(0.1), torch.tensor(1.0), -128, 127, None)),
    (K.binarize.default, (weight(), torch.ones(4, requires_grad=True))),
    (K.binarize.default, (weight(), None)),
]


@pytest.mark.parametrize(("op", "args"), CASES)
def test_the_ops_keep_torchs_rules_for_custom_ops(op: Any, args: tuple[Any, ...]) -> None:
    torch.library.opcheck(op, args)


def test_forms_compile_with_their_gradients() -> None:
    def loss(w: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        y = K.fake_quantize(K.mask(w, torch.ones(4, 6)), scale, torch.zeros(4), -127, 127, 0)
        return K.fake_quantize(x @ y.T, torch.tensor(0.05), torch.tensor(3.0), -128, 127, None).square().sum()

    found = []
    for function in (loss, torch.compile(loss, backend="aot_eager")):
        w = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        scale = torch.full((4,), 0.02, requires_grad=True)
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
        function(w, x, scale).backward()
        found.append((w.grad, scale.grad))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)
