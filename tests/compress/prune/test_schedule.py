import pytest

from karui.compress.prune.schedule import at_update, cubic, iterative, one_shot, schedule_of, settled_at
from karui.errors import RecipeError

PROGRESS = [i / 200 for i in range(201)]


@pytest.mark.parametrize("name", ["one_shot", "cubic", "iterative"])
def test_never_falls_and_ends_at_the_final_sparsity(name: str) -> None:
    rule = schedule_of(name, rounds=4)
    values = [rule(p, 0.9) for p in PROGRESS]
    assert values == sorted(values)
    assert values[-1] == 0.9
    assert all(0 <= v <= 0.9 for v in values)


def test_cubic_is_equation_one() -> None:
    assert cubic(0.0, 0.8) == 0
    assert cubic(0.375, 0.8) == pytest.approx(0.8 * (1 - 0.5**3))  # half of its three quarters
    assert cubic(0.75, 0.8) == 0.8
    assert one_shot(0.0, 0.8) == 0.8


def test_iterative_keeps_the_same_share_each_round() -> None:
    kept = [1 - iterative(r / 5, 0.9, rounds=5) for r in range(5)]
    shares = [b / a for a, b in zip([1.0, *kept], kept)]
    assert shares == pytest.approx([shares[0]] * 5)
    assert iterative(0.19, 0.9, rounds=5) == iterative(0.0, 0.9, rounds=5) < iterative(0.2, 0.9, rounds=5)
    assert iterative(0.8, 0.9, rounds=5) == 0.9


def test_moments_of_change_are_bounded() -> None:
    assert len({at_update(i / 10_000) for i in range(10_000)}) == 50
    assert at_update(1.0) == 1.0
    assert all(at_update(k / 50) == k / 50 for k in range(51))  # no moment is missed by a rounding error


@pytest.mark.parametrize(
    "rule, moment",
    [("one_shot", 0.0), ("cubic", 0.76), ("iterative", 0.8), (lambda p, s: s * min(1.0, 2 * p), 0.5), (lambda p, s: s * p, 1.0)],
)
def test_the_last_cut_is_found(rule, moment: float) -> None:
    assert settled_at(schedule_of(rule, rounds=5), 0.9) == moment


def test_a_function_stands_for_itself_and_a_wrong_name_is_refused() -> None:
    assert schedule_of(lambda progress, final: progress * final, rounds=1)(0.5, 0.8) == 0.4
    with pytest.raises(RecipeError, match="'qubic' is not a schedule: use one_shot, cubic, iterative"):
        schedule_of("qubic", rounds=1)
