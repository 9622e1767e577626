import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from karui.analyse.histogram import Histogram, entropy, mse, percentile


def gauss(count: int = 200_000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def test_percentile_cuts_both_ends_evenly() -> None:
    seen = None
    for part in torch.linspace(-1, 1, 20_001).flip(0).split(4000):  # the range grows from batch to batch
        seen = percentile(seen, part, percent=90)
    assert seen is not None
    assert seen.low == pytest.approx(-0.9, abs=0.01)
    assert seen.high == pytest.approx(0.9, abs=0.01)
    assert float(seen.counts.sum()) == pytest.approx(20_001)


def test_percentile_ignores_one_outlier() -> None:
    values = torch.cat([torch.rand(99_999), torch.tensor([1000.0])])
    seen = percentile(None, values, percent=99.9, bins=100_000)
    assert seen.high < 1.1
    assert percentile(None, torch.zeros(5)).high == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(("levels", "step"), [(8, 0.5860), (16, 0.3352), (32, 0.1881), (64, 0.1041)])
def test_least_error_of_a_gaussian_is_the_step_that_max_published(levels: int, step: float) -> None:
    """Max 1960, "Quantizing for minimum distortion", table II."""
    seen = mse(None, gauss(), levels=levels)
    assert (seen.high - seen.low) / (levels - 1) == pytest.approx(step, rel=0.06)


@pytest.mark.parametrize(("observer", "limit"), [(mse, 50), (partial(mse, levels=16), 4), (entropy, 20)])
def test_what_is_rare_and_far_is_cut_off(observer: Callable[..., Histogram], limit: float) -> None:
    seen = observer(None, torch.cat([gauss(), torch.tensor([60.0])]))
    assert 2 < seen.high < limit
    assert -6 < seen.low < -2


@pytest.mark.parametrize("observer", [mse, entropy])
def test_what_is_spread_evenly_is_kept(observer: Callable[..., Histogram]) -> None:
    seen = observer(None, torch.linspace(0.001, 6, 50_000))
    assert seen.low == pytest.approx(0, abs=1e-3)
    assert seen.high == pytest.approx(6, rel=0.02)


@pytest.mark.parametrize("observer", [mse, entropy])
def test_zeros_dont_count(observer: Callable[..., Histogram]) -> None:
    values = gauss().relu()
    with_more = observer(None, torch.cat([values, torch.zeros(1_000_000)]))
    without = observer(None, values[values > 0])
    assert (with_more.low, with_more.high) == (without.low, without.high)
    assert without.low == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("observer", [mse, entropy, partial(percentile, percent=99)])
def test_batch_after_batch_is_as_all_at_once(observer: Callable[..., Histogram]) -> None:
    seen: Histogram | None = None
    for part in [torch.zeros(5), *gauss().sort().values.split(40_000), torch.zeros(5)]:
        seen = observer(seen, part)
    whole = observer(None, gauss())
    assert seen is not None
    assert (seen.low, seen.high) == pytest.approx((whole.low, whole.high), rel=0.05)


@pytest.mark.parametrize("observer", [mse, entropy, percentile])
@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0, 3.0], [-3.0], [1e-30, 2e-30]])
def test_values_that_never_move(observer: Callable[..., Histogram], values: list[float]) -> None:
    seen = observer(None, torch.tensor(values))
    assert math.isfinite(seen.low)
    assert math.isfinite(seen.high)
    assert seen.low <= seen.high
    assert max(map(abs, values)) <= max(-seen.low, seen.high) + 1e-7
