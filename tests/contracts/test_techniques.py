import random
from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import Tensor

from karui.compress.discover import techniques
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch
from karui.graph.network import Network
from karui.testing.techniques import check_technique

SETTINGS = {
    "distill.exits": [
        {},
        {"after": ("conv1", "fc1"), "trunk": False, "channels": 4, "hidden": 8, "drop": 5.0},
        {"after": ("x",), "drop": 3.0},
    ],
    "distill.hinton": [{}, {"match": "dkd", "alpha": 0.05}, {"match": "dist", "alpha": 0.1, "temperature": (6.0, 1.0)}],
    "distill.features": [{}, {"method": "attention", "layers": (("conv1", "conv2"),), "weight": 10.0}, {"method": "relation"}],
    "prune.weights": [{"sparsity": 0.5}, {"sparsity": 0.5, "schedule": "iterative", "allocation": "uniform", "exclude": ("conv1",)}],
    "prune.channels": [{"pruning_ratio": 0.25}],
    "quantize.binaryconnect": [{}, {"stochastic": True}, {"stochastic": True, "test_weights": "binary", "H": 0.5}],
    "quantize.int8": [
        {"exclude": ("conv2",)},
        {"learn_scales": True, "observer": "percentile", "hold_batch_norm": 0.5},
        {"bits": (2, 4, 8), "bytes": 0.6},
        {"bits": 2, "activation_bits": 2, "observer": "mse", "exclude": ("conv1", "fc2")},
        {"bits": 4, "rounding": "gptq", "weight_range": "mse", "observer": "entropy"},
    ],
}


@pytest.mark.parametrize("name", techniques())
def test_every_technique_keeps_the_contract(name: str) -> None:
    for settings in SETTINGS.get(name, [{}]):
        check_technique(techniques()[name], **settings)


@dataclass(frozen=True, kw_only=True)
class Broken(Technique):
    """Breaks one promise, by its name."""

    stage: ClassVar[Stage] = "weights"
    how: str = ""

    def attach(self, network: Network, context: Context) -> Attached:
        if self.how == "teacher":
            context.teacher.get("fc1.weight").detach().mul_(2)
        if self.how == "test":
            next(context.data.test.batches(1))
        if self.how == "random":
            network.get("fc1.weight").detach().add_(1e-3 * random.random())  # Python's own, which no seed of karui's reaches
        if self.how == "explode":
            network.get("fc1.bias").detach().fill_(float("nan"))
        broken = {"liar": Liar, "restless": Restless, "forgetful": Forgetful}
        return broken[self.how](network) if self.how in broken else Attached()


class Liar(Attached):
    def __init__(self, network: Network) -> None:
        self.network = network

    def step(self, progress: float) -> bool:
        self.network.set("fc2.bias", self.network.get("fc2.bias").detach().clone())
        return False


class Forgetful(Liar):
    """Counts its steps in Python, and tells nobody."""

    seen = 0

    def step(self, progress: float) -> bool:
        self.seen += 1
        return False

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        return task * (1 + 0.01 * self.seen)


class Restless(Liar):
    settles = 0.5

    def step(self, progress: float) -> bool:
        self.network.get("fc2.bias").detach().mul_(0.99)
        return False


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("teacher", "changes the teacher"),
        ("test", "asks for the test part"),
        ("random", "another network the second time"),
        ("liar", "parameters were replaced"),
        ("forgetful", r"ends otherwise where training was interrupted"),
        ("restless", "changes the network after the moment at which it settles, 0.5"),
        ("explode", "the loss is nan"),
    ],
)
def test_the_suite_catches(how: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karui.testing.techniques.check_recipe", lambda technique: None)  # a test's class has no import path
    with pytest.raises(Exception, match=message):
        check_technique(Broken, how=how)


def test_the_suite_catches_a_wrong_form() -> None:
    class Plain(Technique):
        """Has no fields, though it looks so."""

        stage: ClassVar[Stage] = "weights"
        amount: int = 3

        def attach(self, network: Network, context: Context) -> Attached:
            return Attached()

    @dataclass(frozen=True)
    class Positional(Plain):
        """Takes its settings by place."""

        other: int = 4

    with pytest.raises(AssertionError, match="Plain is not a dataclass"):
        check_technique(Plain)
    with pytest.raises(AssertionError, match="Positional has positional fields"):
        check_technique(Positional)
