"""Trainings of benchmarks: each has a folder under ``runs/benchmarks`` and is done once, however often they are run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

from karui import zoo
from karui.data import Data
from karui.finetune.evaluate import score
from karui.finetune.phases import Phase, run_phases
from karui.finetune.progress import RichProgress
from karui.finetune.training import Training
from karui.graph.doors.torch import capture
from karui.graph.network import Network

FOLDER = Path("runs") / "benchmarks"
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Test errors in per cent, one per seed."""

    each: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.each)

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds, where there is more than one."""
        return stdev(self.each) if len(self.each) > 1 else None


def fresh(name: str, seed: int, example: tuple[int, ...], **settings: object) -> Network:
    """A network of the zoo with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return capture(zoo.build(name, **settings), torch.zeros(2, *example), name=name)


def trained(network: Network, data: Data, phases: Sequence[Phase], name: str, *, seed: int = 0, teacher: Network | None = None) -> Network:
    """The network after the phases; gone on with where an earlier run stopped, and read from its folder once it is done."""
    with RichProgress() as progress:
        return run_phases(network, data, phases, seed=seed, teacher=teacher, directory=FOLDER / name, progress=progress).network


def error(network: Network, data: Data) -> float:
    """On the test part, in per cent."""
    return 100 - score(network, data.test, data.metric)


def stored(network: Network) -> tuple[int, int]:
    """Weights that masks leave, and all weights: of convolutions and linear layers, biases not counted, as the papers count."""
    left = total = 0
    for name, weight in network.parameters().items():
        if weight.dim() > 1:
            mask = network.buffers().get(f"{name}_mask")
            left, total = left + int(weight.numel() if mask is None else mask.count_nonzero()), total + weight.numel()
    return left, total


def only(training: Training) -> Phase:
    """Training, and nothing else: a dense network, or the control of a compressed one."""
    return Phase(training=training)
