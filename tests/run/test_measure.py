"""Timings, and the look at how busy the machine is."""

import time

import numpy as np
import pytest

from karui.errors import ToolError
from karui.run import measure


def test_latency_is_that_of_one_call() -> None:
    timing = measure.latency(lambda: time.sleep(0.004), seconds=0.08)
    assert 4.0 <= timing.p10 <= timing.median_ms <= timing.p90
    assert timing.runs >= 5


def test_short_calls_are_repeated_within_a_measurement() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    timing = measure.latency(call, seconds=0.02)
    assert calls > 20 * timing.runs
    assert timing.median_ms < 0.01


def test_interleaved_calls_take_turns() -> None:
    order: list[str] = []
    slow = {key: (lambda key=key: (order.append(key), time.sleep(0.001))) for key in "ab"}
    timings = measure.interleaved(slow, seconds=0.03)
    assert timings["a"].runs == timings["b"].runs >= 5
    measured = "".join(order)[-2 * timings["a"].runs :]
    assert {measured[i : i + 2] for i in range(0, len(measured), 2)} == {"ab", "ba"}, "each in each round, neither always first"


def test_a_busy_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "jitter", lambda: 1.0)
    monkeypatch.setattr(measure, "busy_share", lambda seconds: 0.6)
    with pytest.raises(ToolError, match=r"the machine is busy: others use 60% of its cores"):
        measure.require_quiet(seconds=0.01)
    monkeypatch.setattr(measure, "busy_share", lambda seconds: 0.05)
    measure.require_quiet(seconds=0.01)
    monkeypatch.setattr(measure, "jitter", lambda: 1.8)
    with pytest.raises(ToolError, match=r"the machine is uneven: equal work takes up to 1\.80 times as long"):
        measure.require_quiet(seconds=0.01)


def test_busy_share_counts_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([(100, 1000), (130, 1100)])
    monkeypatch.setattr(measure, "_ticks", lambda: next(looks))
    assert measure.busy_share(0.0) == pytest.approx(0.3)
    monkeypatch.setattr(measure, "_ticks", lambda: None)
    monkeypatch.setattr(measure.os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 4)
    assert measure.busy_share(0.0) == 0.25


def test_real_looks_are_numbers() -> None:
    assert 0.0 <= measure.busy_share(0.05) <= 1.0
    assert measure.jitter(5) >= 1.0
    assert np.isfinite(measure.jitter(5))
