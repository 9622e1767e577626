"""The contract suite's small network and data, a context, and the plainest training loop with a technique's hooks."""

import torch

from karui.analyse.cost import measure
from karui.compress.technique import Attached, Context
from karui.data import Data
from karui.graph.network import Network
from karui.testing.subjects import small_data, small_network

torch.set_num_threads(1)
small, data = small_network, small_data


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
