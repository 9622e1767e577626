"""A network of a few hundred weights, separable data, and techniques that use every hook there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch, Data
from karui.graph.doors.torch import capture
from karui.graph.network import Network

CLASSES = 3
WIDTH = 8


class Tiny(nn.Module):
    """Batch-norm and dropout, so that modes and random numbers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 16)
        self.bn = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(torch.relu(self.bn(self.fc1(x)))))


def network(seed: int = 0) -> Network:
    return _captured(seed).copy()


@cache
def _captured(seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Tiny()
    return capture(module.eval(), torch.zeros(2, WIDTH), name="tiny")


def data(samples: int = 100, *, noise: float = 1.0, **settings: Any) -> Data:
    """Three clouds; with the default noise a good network is right on about nine of ten."""
    generator = torch.Generator().manual_seed(7)
    centres = 1.5 * torch.randn(CLASSES, WIDTH, generator=generator)

    def part(count: int) -> tuple[Tensor, Tensor]:
        targets = torch.randint(CLASSES, (count,), generator=generator)
        return centres[targets] + noise * torch.randn(count, WIDTH, generator=generator), targets

    return Data.of(train=part(samples), validation=part(60), test=part(60), calibration=part(16), name="clouds", **settings)


@dataclass(frozen=True, kw_only=True)
class Cut(Technique):
    """Takes half of the hidden units away, when ``at`` of the training is over: a change of structure within a phase."""

    stage: ClassVar[Stage] = "structure"

    at: float = 0.5

    def attach(self, network: Network, context: Context) -> Attached:
        return Cutting(self, network)


class Cutting(Attached):
    def __init__(self, settings: Cut, network: Network) -> None:
        self.settings, self.network, self.done = settings, network, False
        self.settles = settings.at

    def step(self, progress: float) -> bool:
        if self.done or progress < self.settings.at:
            return False
        keep = self.network.get("fc1.weight").detach().abs().sum(1).argsort(descending=True)[:8].sort().values
        for name in ("fc1.weight", "fc1.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
            self.network.set(name, self.network.get(name)[keep])
        self.network.set("fc2.weight", self.network.get("fc2.weight")[:, keep])
        self.done = True
        return True

    def state(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]

    def finish(self) -> dict[str, Any]:
        return {"units": self.network.get("fc1.weight").shape[0]}


@dataclass(frozen=True, kw_only=True)
class Lean(Technique):
    """A loss of its own with random numbers in it, and a schedule that remembers in Python which of its moments are over."""

    stage: ClassVar[Stage] = "loss"

    strength: float = 0.01
    layers: tuple[str, ...] = ()

    def attach(self, network: Network, context: Context) -> Attached:
        return Leaning(self, network, context)


class Leaning(Attached):
    def __init__(self, settings: Lean, network: Network, context: Context) -> None:
        self.settings, self.network, self.context = settings, network, context
        self.moments = 0
        self.settles = 0.75

    def step(self, progress: float) -> bool:
        self.moments += progress >= self.moments / 4
        return False

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        wanted = torch.rand(()) * self.moments
        return task + self.settings.strength * (self.network.get("fc1.weight").norm() - wanted).abs()

    def state(self) -> dict[str, Any]:
        return {"moments": self.moments}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.moments = state["moments"]

    def finish(self) -> dict[str, Any]:
        return {"moments": self.moments}


@dataclass(frozen=True, kw_only=True)
class Move(Technique):
    """A regressor of its own from the outputs to the inputs (FitNets), and weights zeroed by what gradients said of them (movement)."""

    stage: ClassVar[Stage] = "loss"

    at: float = 0.5

    def attach(self, network: Network, context: Context) -> Attached:
        return Moving(self, network)


class Moving(Attached):
    def __init__(self, settings: Move, network: Network) -> None:
        self.settings, self.network = settings, network
        self.settles = settings.at
        self.regressor = nn.Parameter(torch.randn(CLASSES, WIDTH))
        self.start = self.regressor.detach().clone()
        self.movement: Tensor | None = torch.zeros(16, WIDTH)

    def step(self, progress: float) -> bool:
        assert all(p.grad is None for p in (*self.network.parameters().values(), self.regressor))
        if self.movement is not None and progress >= self.settings.at:
            least = self.movement.flatten().argsort()[:40]
            self.network.get("fc1.weight").detach().view(-1)[least] = 0
            self.movement = None
        return False

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        return task + 0.1 * (outputs[0] @ self.regressor - batch.inputs[0]).square().mean()

    def after_backward(self, progress: float) -> None:
        weight = self.network.parameters()["fc1.weight"]
        assert weight.grad is not None and self.regressor.grad is not None
        if self.movement is not None:
            self.movement -= weight.detach() * weight.grad

    def parameters(self) -> dict[str, nn.Parameter]:
        return {"regressor": self.regressor}

    def state(self) -> dict[str, Any]:
        return {"over": True} if self.movement is None else {"over": False, "movement": self.movement}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.movement = None if state["over"] else state["movement"]

    def finish(self) -> dict[str, Any]:
        return {"learned": float((self.regressor.detach() - self.start).norm())}


@dataclass(frozen=True, kw_only=True)
class Round(Technique):
    """Adds a trained scale to the last layer's weight, and rounds it at the end: a technique of numbers."""

    stage: ClassVar[Stage] = "numbers"

    bits: int = 4

    def attach(self, network: Network, context: Context) -> Attached:
        network.set("fc2.weight", network.get("fc2.weight") * 0.9)
        return Rounding(self, network)


class Rounding(Attached):
    def __init__(self, settings: Round, network: Network) -> None:
        self.settings, self.network = settings, network

    def finish(self) -> dict[str, Any]:
        steps = 2 ** (self.settings.bits - 1)
        with torch.no_grad():
            weight = self.network.get("fc2.weight")
            weight.copy_((weight * steps).round() / steps)
        return {"bits": self.settings.bits}
