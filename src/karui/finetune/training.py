"""How much and how to train: one frozen dataclass."""

import math
from dataclasses import dataclass

from karui.data import Part
from karui.errors import RecipeError
from karui.finetune.optimizer import KINDS, Kind
from karui.finetune.schedule import SCHEDULES, Schedule


@dataclass(frozen=True, kw_only=True)
class Training:
    """How much and how to train.

    epochs: passes over the train part; parts of one count. steps: the same in batches; it overrules epochs. Neither: no training.
    optimizer: "sgd" (momentum, nesterov) or "adamw". weight_decay: not for biases, batch-norm or learned scales. scale_lr: learned scales
    learn at ``lr · scale_lr``. schedule, warmup, milestones, gamma: see ``schedule.factor``. clip: greatest norm of the whole gradient.
    early_stop: stop after that many epochs without a better score on validation, and go back to the best epoch's weights; only epochs that
    end after every technique's last move count (``Attached.settles``). amp: bfloat16 where it is safe. compile: through
    ``torch.compile``. channels_last: pictures and weights lie channel by channel in memory while it trains; on a CPU convolutions take two
    thirds of the time so, and their sums are rounded otherwise.
    """

    epochs: float = 0.0
    steps: int | None = None
    batch_size: int = 128
    optimizer: Kind = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    scale_lr: float = 0.1
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    clip: float | None = None
    early_stop: int | None = None
    amp: bool = False
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        _check(self.optimizer in KINDS, f"optimizer = '{self.optimizer}' is unknown; choose one of {', '.join(KINDS)}")
        _check(self.schedule in SCHEDULES, f"schedule = '{self.schedule}' is unknown; choose one of {', '.join(SCHEDULES)}")
        for name in ("epochs", "steps", "lr", "weight_decay", "scale_lr", "momentum"):
            value = getattr(self, name)
            _check(value is None or (math.isfinite(value) and value >= 0), f"{name} = {value}; give a number of 0 or more")
        _check(self.batch_size >= 1, f"batch_size = {self.batch_size}; give 1 or more")
        _check(self.momentum < 1, f"momentum = {self.momentum}; give less than 1")
        _check(0 <= self.warmup < 1, f"warmup = {self.warmup}; give a part of the steps, at least 0 and less than 1")
        _check(self.clip is None or self.clip > 0, f"clip = {self.clip}; give a norm above 0, or leave it out")
        _check(self.early_stop is None or self.early_stop >= 1, f"early_stop = {self.early_stop}; give 1 epoch or more, or leave it out")

    @property
    def trains(self) -> bool:
        """Is there any training in it?"""
        return self.steps > 0 if self.steps is not None else self.epochs > 0

    def count(self, part: Part) -> int:
        """The training steps that this makes on ``part``."""
        if self.steps is not None or not self.trains:
            return self.steps or 0
        return max(1, round(self.epochs * part.steps(self.batch_size)))


def _check(good: bool, message: str) -> None:
    if not good:
        raise RecipeError(f"training: {message}")
