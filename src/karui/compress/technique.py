"""Technique: the one contract that every way of compressing keeps.

To add one: write one file in a room of ``compress`` with one frozen, keyword-only dataclass whose base is ``Technique``; its fields are
the settings, in the field's own words. ``attach`` edits the graph through ``graph.edit`` and returns what has to happen later. The file's
path under ``compress`` is the technique's name in recipes (``prune/weights.py`` → ``"prune.weights"``); nothing is registered.
Address parameters and buffers by *name*, each time: a resumed run puts a reloaded graph behind the same ``Network`` object.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from karui.analyse.cost import Report
from karui.data import Batch, Data
from karui.graph.network import Network

Stage = Literal["structure", "weights", "numbers", "loss"]
STAGES: tuple[Stage, ...] = ("structure", "weights", "numbers", "loss")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a technique may look at; it changes none of it.

    data: without its test part, which refuses to be read. steps: training steps of this phase (0: after training). teacher: the network
    before any compression.
    """

    data: Data
    teacher: Network
    steps: int
    seed: int
    cost: Callable[[Network], Report]
    report: Callable[[str], None] = field(default=lambda message: None)


class Attached:
    """A technique at work. Each method may be left as it is.

    One training step is: ``step``, forward, ``loss``, backward, ``after_backward``, the optimizer. A run that was interrupted attaches
    anew to the network as the phase found it, then puts back the network's tensors, what ``state`` told, and the values of ``parameters``;
    from there on the technique has to do, bit by bit, what it would have done. Nothing else is remembered, and ``step`` isn't called again
    for what is past. What a technique reads from the network (masks, scales) needs no ``state``.

    settles: the progress, in [0, 1], of the last moment at which ``step`` or ``after_backward`` may change the network of its own accord
    (what merely follows the weights doesn't count). Early stopping counts epochs after it only. A technique without a schedule need not
    say.
    """

    settles: float = 1.0

    def step(self, progress: float) -> bool:
        """Called before each training step with progress in [0, 1); True: parameters were replaced, added or removed.

        Every ``p.grad`` is None: gradients belong to ``after_backward``.
        """
        return False

    def loss(self, batch: Batch, outputs: tuple[torch.Tensor, ...], task: torch.Tensor) -> torch.Tensor:
        """The loss to minimise, given the task's own; techniques are chained in order."""
        return task

    def after_backward(self, progress: float) -> None:
        """Called with the gradients of this step's loss in each ``p.grad``, as backward left them: whole, not clipped, nothing moved yet.

        It may change values and gradients in place; parameters are replaced in ``step``.
        """

    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of its own, by name, that are trained with the network's (a regressor, rounding variables).

        They are made in ``attach``, on the network's device; ``step`` returns True when they were replaced. They get no weight decay, and
        are no part of the compressed network: ``finish`` writes into it what is to stay.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """What it has to remember to go on after an interruption: tensors and JSON values, by name."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state`` told; tensors come on the CPU, tuples as lists. ``attach`` has been called, the network is as it was."""

    @property
    def moves(self) -> bool:
        """Whether it has a schedule at all: whether ``step`` or ``after_backward`` is its own."""
        return type(self).step is not Attached.step or type(self).after_backward is not Attached.after_backward

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
