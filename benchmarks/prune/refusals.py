"""Line 6: bad input gets one line that names what is wrong, and the network stays as it was."""

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.harness import Row
from benchmarks.refusals import Cases, attached, refused
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.graph.coupling import coupling, remove_channels
from karui.graph.doors.torch import capture


class Net(nn.Module):
    """A first layer whose three inputs no pattern of four divides, and a split."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.tail = nn.Conv2d(3, 8, 3), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.stem(x).chunk(2, 1)
        return self.head(left.mean((2, 3))) + self.tail(right.mean((2, 3)))


def rows(quick: bool) -> Iterator[Row]:
    """Every mistake of the line."""
    half = torch.arange(8) < 4
    cases: Cases = {
        "sparsity above 1": (lambda n: Prune(sparsity=1.2), "sparsity"),
        "sparsity below 0": (lambda n: Prune(sparsity=-0.1), "sparsity"),
        "sparsity that is no number": (lambda n: Prune(sparsity=float("nan")), "sparsity"),
        "a pattern that doesn't exist": (lambda n: Prune(pattern="3y4"), "pattern"),
        "a pattern that doesn't divide a layer": (lambda n: attached(n, Prune(pattern="2:4", include=("stem",))), "stem"),
        "a pattern against its sparsity": (lambda n: Prune(pattern="2:4", sparsity=0.9), "2:4"),
        "layers that don't exist": (lambda n: attached(n, Prune(include=("nothing",))), "nothing"),
        "a layer pruned to nothing": (lambda n: remove_channels(n, coupling(n), {0: torch.zeros(8, dtype=torch.bool)}), "stem"),
        "a cut through the graph": (lambda n: remove_channels(n, coupling(n), {0: half}), "chunk"),
        "a channel that must stay": (lambda n: remove_channels(n, coupling(n), {1: torch.arange(2) < 1}), "head"),
        "a share of MACs out of reach": (lambda n: attached(n, PruneChannels(macs=1e-4)), "macs"),
        "pruning_ratio of 1": (lambda n: PruneChannels(pruning_ratio=1.0), "pruning_ratio"),
    }
    torch.manual_seed(0)
    network = capture(Net().eval(), torch.zeros(2, 3, 8, 8), name="net")
    yield from refused("6", network, cases)
