"""A network's score on a part of the data, sample by sample."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from karui.data import Batch, Metric, Part
from karui.graph.network import Network


def device_of(network: Network) -> torch.device:
    """Where the network's numbers live; the CPU for one that has none."""
    for tensor in (*network.parameters().values(), *network.buffers().values()):
        return tensor.device
    return torch.device("cpu")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on another device."""
    if device.type == "cpu":
        return batch
    targets = batch.targets
    moved = tuple(t.to(device) for t in targets) if isinstance(targets, tuple) else targets.to(device)
    return replace(batch, inputs=tuple(x.to(device) for x in batch.inputs), targets=moved)


def scores(network: Network, part: Part, metric: Metric, *, batch_size: int = 256) -> NDArray[np.float64]:
    """The metric of each sample of ``part``, in order: [N], not yet times ``metric.scale``. The network's mode is put back after.

    Raises DataError when the metric's function gives anything but one number per sample.
    """
    training, device = network.training, device_of(network)
    found: list[NDArray[np.float64]] = []
    network.eval()
    try:
        with torch.no_grad():
            for batch in part.batches(batch_size):
                ready = to_device(batch, device)
                found.append(metric.scores(network(*ready.inputs), ready.targets))
    finally:
        network.train() if training else network.eval()
    return np.concatenate(found) if found else np.zeros(0)


def score(network: Network, part: Part, metric: Metric, *, batch_size: int = 256) -> float:
    """The metric of a whole part, in ``metric.unit``: the mean over its samples times ``metric.scale``."""
    return float(np.mean(scores(network, part, metric, batch_size=batch_size)) * metric.scale)
