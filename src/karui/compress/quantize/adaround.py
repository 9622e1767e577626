"""Rounding that is learned: up or down, whichever keeps what a layer and its activation give."""

import math

import torch
from torch import Tensor

from karui.compress.quantize.layer import Layer

UP, DOWN = 1.1, -0.1  # ζ and γ: the sigmoid is stretched, so that 0 and 1 are reached
WARM = 0.2  # the share of the steps in which nothing pushes towards 0 or 1
STRENGTH = 0.01  # λ
BETA = (20.0, 2.0)  # from where to where β goes


def adaround(layer: Layer, *, steps: int = 1000, batch_size: int = 32, lr: float = 1e-2) -> Tensor:
    """Each weight's code is ``⌊w / step⌋ + h(V)`` with h in [0, 1], and V is learned by Adam against the float network's activations.

    Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", eq. 21 to 25: the asymmetric reconstruction with the
    activation, and the regularizer ``λ Σ (1 − |2h − 1|^β)`` that makes h whole in the end. More steps are better; the paper takes 10,000.
    """
    start = (layer.weight / layer.step).clamp(-layer.top, layer.top)
    floor = start.floor()
    lift = _inverse(start - floor).requires_grad_()
    targets = [layer.was.tail(y) for y in layer.was.outputs()]
    optimizer = torch.optim.Adam([lift], lr=lr)
    generator = torch.Generator().manual_seed(0)
    shape = layer.now.weight().shape
    for at in range(steps):
        x, y = _some(layer.now.inputs, targets, batch_size, generator)
        with torch.enable_grad():
            h = _stretched(lift)
            weight = ((floor + h).clamp(-layer.top, layer.top) * layer.step * (layer.weight != 0)).reshape(shape)
            given = layer.now.tail(layer.now.layer(x, weight))
            loss = (given - y).square().sum() / (y.numel() / y.shape[_channels(layer)])
            if at >= WARM * steps:
                loss = loss + STRENGTH * (1 - (2 * h - 1).abs() ** _beta(at / steps)).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    return layer.whole(floor + (_stretched(lift.detach()) >= 0.5))


def _stretched(lift: Tensor) -> Tensor:
    """h(V), eq. 23."""
    return (torch.sigmoid(lift) * (UP - DOWN) + DOWN).clamp(0, 1)


def _inverse(share: Tensor) -> Tensor:
    """The V whose h is this, so that learning begins at the weight itself."""
    return -torch.log((UP - DOWN) / (share - DOWN) - 1)


def _beta(progress: float) -> float:
    """From 20 to 2 along a half cosine, after the warm start."""
    done = (progress - WARM) / (1 - WARM)
    return BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + math.cos(done * math.pi))


def _channels(layer: Layer) -> int:
    return -1 if str(layer.now.node.target) == "aten.linear.default" else 1


def _some(inputs: tuple[Tensor, ...], targets: list[Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random samples of a random batch."""
    which = int(torch.randint(len(inputs), (), generator=generator))
    chosen = torch.randperm(len(inputs[which]), generator=generator)[:count].to(inputs[which].device)
    return inputs[which][chosen], targets[which][chosen]
