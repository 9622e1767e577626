"""Weights of −H and +H while training goes on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, fx

from karui.compress.quantize.points import BINARIZE
from karui.compress.select import patterns, refuse_unfit, weights
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.network import Network

TestWeights = Literal["binary", "real"]


@dataclass(frozen=True, kw_only=True)
class BinaryConnect(Technique):
    """Forward and backward with weights of −H and +H; their gradient moves real weights, which are clipped.

    Courbariaux et al. 2015, "BinaryConnect: training deep neural networks with binary weights during propagations", alg. 1. Made for layers
    with a batch-norm behind them, and for Adam with a learning rate that falls to nothing.

    stochastic: +H with the probability ``clip((w / c + 1) / 2, 0, 1)`` (eq. 2), drawn anew each step; else the sign (eq. 1). H: the two
    values; None: Glorot's coefficient ``sqrt(1.5 / (inputs + outputs))`` of each layer, which keeps signals about their size. scale_lr:
    real weights learn at the learning rate divided by that coefficient, as §2.5 has it for Adam; to clip them at c = the coefficient
    instead of c = H is the same, and done for signs. test_weights: what the network ends with (§2.6): "binary", the sign; "real", the real
    weights, which the paper takes where they were trained stochastically, and which are no smaller; None: as the paper.
    include, exclude: patterns over names.
    """

    stage: ClassVar[Stage] = "numbers"

    stochastic: bool = False
    H: float | None = None
    scale_lr: bool = True
    test_weights: TestWeights | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.H is not None and not 0 < self.H <= 1:
            raise RecipeError(f"H: expected a number in (0, 1], or None for Glorot's coefficient, got {self.H}")
        if self.test_weights not in (*get_args(TestWeights), None):
            raise RecipeError(f"test_weights: expected one of {', '.join(get_args(TestWeights))}, got {self.test_weights!r}")
        if self.test_weights == "real" and not self.stochastic:
            raise RecipeError("test_weights: 'real' is for weights that are trained stochastically; set stochastic, or leave it out")
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    @property
    def binary(self) -> bool:
        """Whether the network ends with binary weights."""
        return self.test_weights == "binary" or (self.test_weights is None and not self.stochastic)

    def attach(self, network: Network, context: Context) -> Attached:
        """Clip the chosen weights; make them binary, unless that is drawn anew each step."""
        layers = weights(network, self.include, self.exclude)
        refuse_unfit(network, layers)
        glorot = {name: coefficient(network.get(name), nodes[0]) for name, nodes in layers.items()}
        values = {name: self.H if self.H is not None else glorot[name] for name in layers}
        limits = {name: min(1.0, glorot[name] if self.scale_lr else values[name]) for name in layers}
        return (Stochastic if self.stochastic else Deterministic)(self, network, values, limits)


class Binary(Attached):
    """What both ways share. values: H of each weight. limits: where its real weights are clipped."""

    settles = 0.0

    def __init__(self, settings: BinaryConnect, network: Network, values: dict[str, float], limits: dict[str, float]) -> None:
        self.settings, self.network, self.values, self.limits = settings, network, values, limits
        self.clip()

    def clip(self) -> None:
        """Alg. 1, step 3: what lies beyond has no more influence on the sign."""
        for name, limit in self.limits.items():
            self.network.get(name).detach().clamp_(-limit, limit)

    def step(self, progress: float) -> bool:
        """Clip what the last step's update moved."""
        self.clip()
        return False

    def binarize(self) -> None:
        """Put the form on each weight."""
        for name, value in self.values.items():
            weight = self.network.get(name)
            scale = torch.tensor(value, device=weight.device)
            edit.put_on_parameter(self.network, name, BINARIZE, state={"scale": scale}, beneath=True)  # what a mask took has no sign

    def finish(self) -> dict[str, Any]:
        """Tells what the weights became."""
        self.clip()
        return {"weights": len(self.values), "test_weights": "binary" if self.settings.binary else "real", "H": self.values}


class Deterministic(Binary):
    """The sign, by a form on each weight."""

    def __init__(self, settings: BinaryConnect, network: Network, values: dict[str, float], limits: dict[str, float]) -> None:
        super().__init__(settings, network, values, limits)
        self.binarize()


class Stochastic(Binary):
    """Drawn weights lie in the network from a step's beginning to its gradients, the real ones at all other times.

    Those lie in −H … H, so that they are the mean of what is drawn (eq. 2) and the network can be judged with them at any time; hence the
    learning rate is scaled for once: what the optimizer moved is multiplied at the beginning of the next step. (The last one's isn't: by
    then early stopping may have put other weights into the network.)
    """

    def __init__(self, settings: BinaryConnect, network: Network, values: dict[str, float], limits: dict[str, float]) -> None:
        self.gains = {name: values[name] / limits[name] for name in values}
        for name, gain in self.gains.items():
            if gain != 1:
                network.get(name).detach().mul_(gain)  # begins where weights that are clipped at c would
        super().__init__(settings, network, values, dict(values))
        self.real: dict[str, Tensor] = {}
        self.moved_from: dict[str, Tensor] = {}

    def step(self, progress: float) -> bool:
        """Scale the last update, then draw."""
        for name, start in self.moved_from.items():
            weight = self.network.get(name).detach()
            weight.copy_(torch.lerp(start, weight, self.gains[name]))
        self.moved_from = {}
        self.clip()
        for name, value in self.values.items():
            weight = self.network.get(name).detach()
            self.real[name] = weight.clone()
            drawn = torch.rand(weight.shape).mul_(2).sub_(1).mul_(value)  # on the CPU: the same on each device
            torch.copysign(torch.tensor(value, device=weight.device), drawn.to(weight.device).add_(weight), out=weight)
        return False

    def after_backward(self, progress: float) -> None:
        """The real weights take the gradient of the drawn ones."""
        for name, real in self.real.items():
            self.network.get(name).detach().copy_(real)
        self.moved_from = {name: real for name, real in self.real.items() if self.gains[name] != 1}
        self.real = {}

    def state(self) -> dict[str, Any]:
        """From where the last update moved."""
        return dict(self.moved_from)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.moved_from = {name: start.to(self.network.get(name).device) for name, start in state.items()}

    def finish(self) -> dict[str, Any]:
        """Binary weights where they are to stay."""
        self.after_backward(1.0)  # a draw that no gradient followed is no weight to end with
        facts = super().finish()
        if self.settings.binary:
            self.binarize()
        return facts


def coefficient(weight: Tensor, node: fx.Node) -> float:
    """Glorot's: ``sqrt(1.5 / (inputs + outputs))``, a convolution's counted with its window."""
    window = math.prod(weight.shape[2:])
    return math.sqrt(1.5 / ((weight.shape[0] + weight.shape[1]) * window))
