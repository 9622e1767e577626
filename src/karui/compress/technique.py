"""Technique: the one contract that every way of compressing keeps.

To add one: write one file in a room of ``compress`` with one frozen, keyword-only dataclass whose base is ``Technique``; its fields are
the settings, in the field's own words. ``attach`` edits the graph through ``graph.edit`` and returns what has to happen later. The file's
path under ``compress`` is the technique's name in recipes (``prune/weights.py`` → ``"prune.weights"``); nothing is registered.
Address parameters and buffers by *name*, each time: a resumed run puts a reloaded graph behind the same ``Network`` object.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from karui.analyse.cost import Report
from karui.data import Batch, Data
from karui.graph.network import Network

Stage = Literal["structure", "weights", "numbers", "loss"]
STAGES: tuple[Stage, ...] = ("structure", "weights", "numbers", "loss")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a technique may look at; it changes none of it.

    steps: training steps of this phase (0: after training). teacher: the network before any compression.
    """

    data: Data
    teacher: Network
    steps: int
    seed: int
    cost: Callable[[Network], Report]
    report: Callable[[str], None] = field(default=lambda message: None)


class Attached:
    """A technique at work. Each method may be left as it is.

    settles: the progress, in [0, 1], of the last moment at which ``step`` may change the network of its own accord (what merely follows
    the weights doesn't count). Early stopping counts epochs after it only. A technique without a schedule need not say.
    """

    settles: float = 1.0

    def step(self, progress: float) -> bool:
        """Called before each training step with progress in [0, 1); True: parameters were replaced, added or removed."""
        return False

    def loss(self, batch: Batch, outputs: tuple[torch.Tensor, ...], task: torch.Tensor) -> torch.Tensor:
        """The loss to minimise, given the task's own; techniques are chained in order."""
        return task

    def finish(self) -> dict[str, Any]:
        """Called once after the phase; returns facts for the report (JSON values)."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Technique(ABC):
    """A way of compressing, with its settings."""

    stage: ClassVar[Stage]

    @abstractmethod
    def attach(self, network: Network, context: Context) -> Attached:
        """Edit ``network`` in place and return what has to happen during and after training."""
