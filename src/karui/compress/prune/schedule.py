"""When to prune: schedules are plain functions ``(progress, final) → sparsity``.

``progress`` in [0, 1] is how far training has come, ``final`` the sparsity (share of zeros, in [0, 1]) to end with; the answer is the
sparsity to hold at that moment. Users pass a function of their own in the same form.
"""

from collections.abc import Callable
from functools import partial
from math import floor
from typing import Literal

from karui.compress.select import rule_named

Schedule = Callable[[float, float], float]
ScheduleName = Literal["one_shot", "cubic", "iterative"]

UPDATES = 50  # masks change at most this many times in a phase: each change costs a selection over all weights
CUBIC_END = 0.75  # the rest of training heals what the last cut broke


def one_shot(progress: float, final: float) -> float:
    """Everything at the start, then train what is left."""
    return final


def cubic(progress: float, final: float) -> float:
    """Much at first, while redundancy is plenty, ever less towards three quarters of training.

    Zhu & Gupta 2017, "To prune, or not to prune", eq. 1 with s_i = 0: ``s = s_f · (1 − (1 − t)³)``.
    """
    time = min(progress / CUBIC_END, 1.0)
    return final * (1.0 - (1.0 - time) ** 3)


def iterative(progress: float, final: float, *, rounds: int = 5) -> float:
    """Prune and retrain, ``rounds`` times over; every round keeps the same share of what the one before it kept.

    Han et al. 2015, "Learning both weights and connections", §3.3. Round r (from 1) begins at progress (r − 1) / rounds with
    ``s = 1 − (1 − s_f)^(r / rounds)``, so the last cut is retrained as long as each of the others.
    """
    done = min(rounds, floor(progress * rounds + 1e-9) + 1)  # the epsilon: 0.2 · 5 may come as 0.999…
    return final if done == rounds else 1.0 - float((1.0 - final) ** (done / rounds))


def schedule_of(rule: str | Schedule, *, rounds: int) -> Schedule:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    known: dict[str, Schedule] = {"one_shot": one_shot, "cubic": cubic, "iterative": partial(iterative, rounds=rounds)}
    return rule_named(rule, known, "schedule", kind="a schedule", form="(progress, final) → sparsity")


def settled_at(schedule: Schedule, final: float, *, updates: int = UPDATES) -> float:
    """The moment of a schedule's last cut, found by asking it at every moment; 1 where only the end of the phase reaches ``final``.

    Masked weights don't come back, so a schedule that falls cuts no more after its greatest value.
    """
    held = [schedule(update / updates, final) for update in range(updates)]
    return held.index(max(held)) / updates if max(held) >= final else 1.0


def at_update(progress: float, *, updates: int = UPDATES) -> float:
    """Progress rounded down to the latest of the ``updates`` moments at which masks may change."""
    return min(1.0, floor(progress * updates + 1e-9) / updates)
