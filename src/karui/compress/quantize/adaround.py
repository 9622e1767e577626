"""Rounding that is learned: up or down, whichever keeps what a layer and its activation give."""

import math

import torch
from torch import Tensor

from karui.compress.quantize.layer import Layer

UP, DOWN = 1.1, -0.1  # ζ and γ: the sigmoid is stretched, so that 0 and 1 are reached
WARM = 0.2  # the share of the steps in which nothing pushes towards 0 or 1
STRENGTH = 0.01  # λ
BETA = (20.0, 2.0)  # from where to where β goes
PLACES = 8192  # vectors that are kept of a layer's inputs; a convolution sees one at each place of each sample
NUMBERS = 2**24  # … and fewer, where they would be more numbers than these: 64 MB


def adaround(layer: Layer, *, steps: int = 1000, batch_size: int = 512, lr: float = 1e-2) -> Tensor:
    """Each weight's code is ``⌊w / step⌋ + h(V)`` with h in [0, 1], and V is learned by Adam against the float network's activations.

    Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", eq. 21 to 25: the asymmetric reconstruction with the
    activation, and the regularizer ``λ Σ (1 − |2h − 1|^β)`` that makes h whole in the end. More steps are better; the paper takes 10,000.
    batch_size: of vectors, as a layer multiplies its weight with them: random places of random samples.
    """
    start = (layer.weight / layer.step).clamp(-layer.top, layer.top)
    floor = start.floor()
    lift = _inverse(start - floor).requires_grad_()
    optimizer = torch.optim.Adam([lift], lr=lr)
    generator = torch.Generator().manual_seed(0)
    vectors, targets = _places(layer, generator)
    bias, dims = _bias(layer), layer.now.weight().dim() - 2
    for at in range(steps):
        some = torch.randint(len(targets), (min(batch_size, len(targets)),), generator=generator).to(targets.device)
        with torch.enable_grad():
            h = _stretched(lift)
            weight = (floor + h).clamp(-layer.top, layer.top) * layer.step * (layer.weight != 0)
            given = (weight @ vectors[:, :, some]).flatten(0, 1).T + bias
            loss = (_tail(layer, given, dims) - targets[some]).square().sum() / len(some)
            if at >= WARM * steps:
                loss = loss + STRENGTH * (1 - (2 * h - 1).abs() ** _beta(at / steps)).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    return layer.whole(floor + (_stretched(lift.detach()) >= 0.5))


def _places(layer: Layer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random vectors of what goes into the layer now, ``[groups, K, places]``, and what the float network has there: ``[places, O]``."""
    wanted = max(1, min(PLACES, NUMBERS // layer.weight.shape[2] // layer.weight.shape[0]))
    share = min(1.0, wanted / layer.now.samples)
    axis = -1 if layer.now.weight().dim() == 2 else 1
    pieces = layer.now.columns()
    vectors, targets = [], []
    for output in layer.was.outputs():
        goals = layer.was.tail(output).movedim(axis, -1).flatten(0, -2)
        done = 0
        while done < len(goals):
            piece = next(pieces)
            count = piece.shape[2]
            which = torch.randperm(count, generator=generator)[: math.ceil(share * count)].to(piece.device)
            vectors.append(piece[:, :, which])
            targets.append(goals[done : done + count][which])
            done += count
    return torch.cat(vectors, 2), torch.cat(targets)


def _bias(layer: Layer) -> Tensor:
    """What the layer adds to its products: ``[O]``."""
    with torch.no_grad():
        silent = layer.now.layer(torch.zeros_like(layer.now.inputs[0][:1]), layer.now.weight())[0]
    return silent.reshape(-1, silent.shape[-1])[0] if layer.now.weight().dim() == 2 else silent.flatten(1)[:, 0]


def _tail(layer: Layer, given: Tensor, dims: int) -> Tensor:
    """``[places, O]`` through the batch-norm and the activation behind the layer, as pictures of one place."""
    return layer.now.tail(given.reshape(*given.shape, *(1,) * dims)).flatten(1)


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
