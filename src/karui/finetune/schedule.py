"""Learning-rate schedules, as plain functions of time, and the seeds that everything random is derived from."""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, get_args

Schedule = Literal["cosine", "constant", "step", "exponential", "onecycle"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1e-4


def factor(
    schedule: str, step: int, steps: int, *, warmup: float = 0.0, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1
) -> float:
    """What the learning rate is multiplied with before training step ``step`` of ``steps``.

    warmup: the part of the steps in which the rate climbs linearly from zero; the schedule fills the rest. cosine: to zero along half a
    cosine (Loshchilov & Hutter 2017, SGDR eq. 5 without restarts). step: times ``gamma`` at each of ``milestones`` (parts of the whole).
    exponential: to ``gamma`` in the end, by the same share each step. onecycle: up from 1/25 and down to 1/10,000 along two half cosines
    (Smith & Topin 2018); ``warmup`` is the part going up, 0.3 if zero.
    """
    if schedule == "onecycle":
        return _onecycle(step / max(steps, 1), warmup or 0.3)
    climbing = round(warmup * steps)
    if step < climbing:
        return (step + 1) / climbing
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - climbing) / max(steps - climbing, 1)))
    if schedule == "exponential":
        return float(gamma ** ((step - climbing) / max(steps - climbing, 1)))
    if schedule == "step":
        return float(gamma ** sum(step >= milestone * steps for milestone in milestones))
    return 1.0


def _onecycle(progress: float, rising: float) -> float:
    if progress < rising:
        start, end, part = ONECYCLE_START, 1.0, progress / rising
    else:
        start, end, part = 1.0, ONECYCLE_END, (progress - rising) / max(1 - rising, 1e-9)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * part))


def derive(seed: int, *parts: int | str) -> int:
    """A seed for one purpose, in [0, 2⁶³): the same parts give the same seed on every machine, other parts an unrelated one."""
    return int.from_bytes(hashlib.sha256(repr((seed, *parts)).encode()).digest()[:8], "big") >> 1
