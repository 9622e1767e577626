import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.budget import Budget, Cost
from karui.errors import DataError
from karui.verify.accuracy import accuracy, difference
from karui.verify.parity import compare
from karui.verify.verdict import judge


def test_wilson_by_hand() -> None:
    found = accuracy(np.r_[np.ones(90), np.zeros(10)], scale=100)
    assert (found.mean, found.n) == (90.0, 100)
    assert found.low == pytest.approx(82.56, abs=0.01)
    assert found.high == pytest.approx(94.48, abs=0.01)


@given(hits=st.integers(0, 50), misses=st.integers(0, 50))
def test_an_interval_holds_its_mean_and_stays_a_rate(hits: int, misses: int) -> None:
    if hits + misses:
        found = accuracy(np.r_[np.ones(hits), np.zeros(misses)])
        assert 0 <= found.low <= found.mean <= found.high <= 1


def test_other_scores_get_the_normal_interval() -> None:
    found = accuracy(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.high - found.mean == pytest.approx(1.96 * np.std([1, 2, 3, 4], ddof=1) / 2, rel=1e-3)


def test_paired_differences_are_sharper_than_two_intervals() -> None:
    random = np.random.default_rng(0)
    before = (random.random(1000) < 0.8).astype(float)
    after = before.copy()
    after[np.flatnonzero(before)[:10]] = 0
    change = difference(before, after, scale=100)
    assert change.mean == pytest.approx(-1.0)
    assert change.high < 0  # sure to be a loss, though the two intervals overlap
    assert accuracy(after).high > accuracy(before).low


@pytest.mark.parametrize("scores", [np.zeros(0), np.array([1.0, np.nan]), np.zeros((2, 2))])
def test_scores_that_mean_nothing_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(DataError):
        accuracy(scores)


def test_parity_rules() -> None:
    a, b = np.array([1, 2, 3], np.int8), np.array([1, 2, 4], np.int8)
    assert not compare(a, b).ok and compare(a, b).where == (2,)
    assert compare(a, b, rule="lsb").ok
    assert not compare(a, b + np.array([0, 0, 1], np.int8), rule="lsb").ok
    real = np.array([1000.0, 0.0], np.float32)
    assert compare(real + np.float32(0.05), real, rule="tolerance").ok
    assert not compare(real + np.float32(0.2), real, rule="tolerance").ok
    assert not compare(np.array([np.nan]), np.array([np.nan]), rule="tolerance").ok
    with pytest.raises(DataError, match="shapes"):
        compare(a, a[:2])


def test_a_verdict_names_each_limit() -> None:
    budget = Budget(drop=0.5, bytes=100, latency_ms=1.0)
    good = judge(budget, Cost(bytes=90, latency_ms=0.5), before=90.0, after=89.6)
    assert good.ok and [line.limit for line in good.lines] == ["drop", "bytes", "latency_ms"]
    bad = judge(budget, Cost(bytes=101), before=90.0, after=89.0)
    assert [line.limit for line in bad.broken()] == ["drop", "bytes", "latency_ms"]  # what wasn't measured isn't kept
    assert judge(Budget(drop=1), Cost(), before=1.0, after=1.9, higher_is_better=False).ok
    assert not judge(Budget(drop=1), Cost(), before=1.0, after=2.1, higher_is_better=False).ok
