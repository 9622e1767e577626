"""A small network and small data that contract suites try things on: real enough to train, quick enough to do so many times."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.data import Data
from karui.graph.doors.torch import capture
from karui.graph.network import Network


class Small(nn.Module):
    """Convolution, batch-norm, depthwise, a shortcut, pooling, flatten, two linear layers: ``[N, 1, 8, 8]`` → ``[N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.conv2 = nn.Conv2d(8, 8, 1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 16, 12)
        self.fc2 = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of four classes."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(F.relu(self.deep(x)))) + x)
        x = torch.flatten(F.max_pool2d(x, 2), 1)
        return self.fc2(F.relu(self.fc1(x)))


def small_network(seed: int = 0) -> Network:
    """``Small`` with batch statistics that aren't trivial, captured, in evaluation mode; the same for the same seed."""
    return _captured(seed).copy()


@cache
def _captured(seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Small()
        for _ in range(3):
            module(torch.randn(16, 1, 8, 8))
        return capture(module, torch.randn(2, 1, 8, 8), name="small").eval()


def small_data(samples: int = 64) -> Data:
    """Noise with one bright quarter, which is the class; every part holds the same samples."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, 1, 8, 8, generator=generator)
    y = torch.arange(samples) % 4
    for i, c in enumerate(y.tolist()):
        x[i, :, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 2
    return Data.of(train=(x, y), validation=(x, y), test=(x, y), calibration=(x, y), name="quarters")
