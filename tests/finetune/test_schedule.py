"""Learning rates over time, and derived seeds."""

import math

import pytest

from karui.finetune.schedule import SCHEDULES, derive, factor


def test_cosine_goes_from_one_to_zero_through_a_half() -> None:
    assert factor("cosine", 0, 100) == 1.0
    assert math.isclose(factor("cosine", 50, 100), 0.5)
    assert factor("cosine", 99, 100) < 0.001


def test_warmup_climbs_in_a_line_then_the_schedule_begins() -> None:
    assert [factor("cosine", s, 100, warmup=0.04) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factor("constant", 0, 10, warmup=0.0) == 1.0


def test_exponential_falls_by_the_same_share_each_step() -> None:
    found = [factor("exponential", s, 100, warmup=0.2, gamma=3e-3) for s in range(20, 101)]
    assert found[0] == 1.0
    assert math.isclose(found[-1], 3e-3)
    assert all(math.isclose(a / b, found[0] / found[1]) for a, b in zip(found, found[1:]))


def test_step_falls_at_its_milestones() -> None:
    found = [factor("step", s, 100, milestones=(0.5, 0.75), gamma=0.1) for s in (0, 49, 50, 74, 75, 99)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_onecycle_climbs_to_one_and_ends_low() -> None:
    found = [factor("onecycle", s, 1000) for s in range(1000)]
    assert found[0] == pytest.approx(1 / 25)
    assert max(found) == found[300] == pytest.approx(1.0)
    assert found[-1] < 2e-4
    assert factor("onecycle", 100, 1000, warmup=0.1) == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_few_steps_only(schedule: str, steps: int) -> None:
    assert all(0 <= factor(schedule, s, steps, warmup=0.1) <= 1 for s in range(steps))


def test_seeds_are_told_apart_and_stay() -> None:
    assert derive(0, "data", 1, 2) == derive(0, "data", 1, 2)
    found = {derive(seed, word, n) for seed in range(5) for word in ("data", "step") for n in range(50)}
    assert len(found) == 500
    assert all(0 <= each < 2**63 for each in found)
