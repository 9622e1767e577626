"""A small network with everything the techniques meet, small data, and a context."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.analyse.cost import measure
from karui.compress.technique import Attached, Context
from karui.data import Data
from karui.graph.doors.torch import capture
from karui.graph.network import Network

torch.set_num_threads(1)


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
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(F.relu(self.deep(x)))) + x)
        x = torch.flatten(F.max_pool2d(x, 2), 1)
        return self.fc2(F.relu(self.fc1(x)))


def small() -> Network:
    """The small network with statistics that aren't trivial, in evaluation mode."""
    return _captured().copy()


@cache
def _captured() -> Network:
    torch.manual_seed(0)
    module = Small()
    for _ in range(3):
        module(torch.randn(16, 1, 8, 8))
    return capture(module, torch.randn(2, 1, 8, 8)).eval()


def data(samples: int = 64) -> Data:
    """Four classes told by the brightest quarter of the picture."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, 1, 8, 8, generator=generator)
    y = torch.arange(samples) % 4
    for i, c in enumerate(y.tolist()):
        x[i, :, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 2
    return Data.of(train=(x, y), validation=(x, y), test=(x, y), calibration=(x, y))


def context(network: Network, *, steps: int = 0, on: Data | None = None) -> Context:
    return Context(data=on or data(), teacher=network.copy().eval(), steps=steps, seed=0, cost=measure)


def train(
    network: Network,
    attached: Attached,
    on: Data,
    *,
    steps: int,
    start: int = 0,
    stop: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Plain SGD with a technique's hooks, over steps ``start … stop`` of ``steps`` (no momentum, so there is no other state)."""
    network.train()
    batches = list(on.train.batches(16, seed=3))
    optimizer = optimizer or torch.optim.SGD(network.parameters().values(), lr=0.05)
    for step in range(start, steps if stop is None else stop):
        if attached.step(step / steps):
            optimizer = torch.optim.SGD(network.parameters().values(), lr=0.05)
        batch = batches[step % len(batches)]
        outputs = network(*batch.inputs)
        loss = attached.loss(batch, outputs, on.loss(outputs, batch.targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
