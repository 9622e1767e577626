"""What line 1 trains: the big network, and small ones with and without its answers.

The big network is trained with dropout, weight decay and pictures moved by up to two pixels; a small one has none of that, with a teacher
or without, and what it is taught on are the pictures of the training set as they are.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.trainings import only, trained
from karui import datasets
from karui.compress.distill.hinton import Distill
from karui.data import Data, Part
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.doors.torch import capture
from karui.graph.network import Network

SHAPE = (1, 28, 28)
BLACK = 0.1307 / 0.3081  # a black pixel is -BLACK once it is normalised
BIG = Training(epochs=24, batch_size=256, optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="onecycle", warmup=0.2)
SMALL = Training(epochs=20, batch_size=256, optimizer="adamw", lr=1e-3, weight_decay=0.0, schedule="onecycle", warmup=0.2)
DROPOUT = (0.1, 0.25)  # of pixels, of hidden units: with the paper's (0.2, 0.5) so short a training leaves 0.8 % wrong of what it trains on
SMALL_WIDTHS = (800, 800)


class Mlp(nn.Module):
    """Layers of rectified linear units. dropout: of the pixels, and of every hidden layer."""

    def __init__(self, *hidden: int, dropout: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        widths = (28 * 28, *hidden)
        layers: list[nn.Module] = []
        for before, after in zip(widths, hidden):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout[1]:
                layers.append(nn.Dropout(dropout[1]))
        self.dropout = nn.Dropout(dropout[0]) if dropout[0] else None
        self.body, self.top = nn.Sequential(*layers), nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        if self.dropout is not None:
            x = self.dropout(x + BLACK)  # a pixel that is dropped is a black one, as where pixels are the amount of ink
        return self.top(self.body(x))


@dataclass(frozen=True, kw_only=True)
class Taught:
    """How the big network teaches: the settings of ``Distill``."""

    alpha: float
    temperature: float = 20.0

    @property
    def label(self) -> str:
        """For tables."""
        return f"T {self.temperature:g}, alpha {self.alpha:g}"

    @property
    def folder(self) -> str:
        """For folders."""
        return f"distilled-{self.temperature:g}-{self.alpha:g}"


def mlp(seed: int, *hidden: int, dropout: tuple[float, float] = (0.0, 0.0)) -> Network:
    """With fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return capture(Mlp(*hidden, dropout=dropout), torch.zeros(2, *SHAPE), name="mlp-" + "-".join(map(str, hidden)))


def big(seed: int) -> Network:
    """The teacher; ``datasets`` moves MNIST's pictures by up to two pixels."""
    return trained(mlp(seed, 1200, 1200, dropout=DROPOUT), datasets.load("mnist"), [only(BIG)], _at("big", seed), seed=seed)


def alone(data: Data, seed: int) -> Network:
    """The small network that learns from the labels."""
    return trained(mlp(seed, *SMALL_WIDTHS), data, [only(SMALL)], _at("small", seed), seed=seed)


def distilled(data: Data, seed: int, taught: Taught, widths: tuple[int, ...] = SMALL_WIDTHS, *, folder: str = "") -> Network:
    """A small network that starts as the one alone does and gets the same training, with its teacher's answers in the loss."""
    phase = Phase(techniques=(Distill(alpha=taught.alpha, temperature=taught.temperature),), training=SMALL)
    return trained(mlp(seed, *widths), data, [phase], _at(folder + taught.folder, seed), seed=seed, teacher=big(seed))


def answers(network: Network, part: Part) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Its scores for every sample of the part, and the right classes."""
    with torch.no_grad():
        found = [(network(*batch.inputs)[0].numpy(), batch.targets.numpy()) for batch in part.batches(500)]
    return np.concatenate([scores for scores, _ in found]), np.concatenate([classes for _, classes in found])


def errors(network: Network, part: Part) -> int:
    """How many samples of the part it gets wrong."""
    scores, classes = answers(network, part)
    return int((scores.argmax(1) != classes).sum())


def _at(name: str, seed: int) -> str:
    return f"distill/mnist/{name}/{seed}"
