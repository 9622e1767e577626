"""How sparse each layer becomes: plain functions ``(layers, sparsity) → one sparsity per layer``, and the selection by scores.

``sparsity`` is the share of zeros over all layers together. A user's function has the same form; what it asks of a layer beyond what the
layer can give (``Layer.most``) is cut off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log2, prod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from karui.compress.select import rule_named
from karui.errors import RecipeError


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A weight at the moment of a cut.

    scores: ``[units]``, the importance of what can leave; −inf: gone already. size: how many weights leave with a unit, one number or
    ``[units]``. least: units that have to stay. macs: of one sample. loss: sparsity → the loss on calibration samples with this layer alone
    that sparse; each value is measured once.
    """

    name: str
    shape: tuple[int, ...]
    scores: Tensor
    size: int | Tensor = 1
    least: int = 1
    macs: int = 0
    loss: Callable[[float], float] = lambda sparsity: 0.0

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return prod(self.shape)

    @cached_property
    def most(self) -> float:
        """The greatest sparsity that it can have."""
        if isinstance(self.size, int):
            return (len(self.scores) - self.least) * self.size / self.weights
        spared = float(self.size[int(self.scores.argmax())]) if self.least else 0.0
        return (float(self.size.sum()) - spared) / self.weights

    def kept(self, sparsity: float) -> Tensor:
        """Which units stay (bool ``[units]``) for a sparsity: the best."""
        return strongest(self.scores, self.size, round(min(sparsity, self.most) * self.weights))


Allocation = Callable[[Sequence[Layer], float], Sequence[float]]
AllocationName = Literal["global", "uniform", "erk", "lamp", "std", "sensitivity"]

GRID = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)  # the sparsities at which "sensitivity" measures


def across(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """Rank all units together ("global"): the least important go, wherever they are."""
    return _ranked(layers, [layer.scores for layer in layers], sparsity)


def uniform(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """The same sparsity for every layer."""
    return _meeting(layers, sparsity, lambda share: [share] * len(layers))


def erk(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """Erdős–Rényi-Kernel: density in proportion to ``Σ shape / Π shape``, so that large layers become sparser.

    Evci et al. 2020, "Rigging the lottery", §3. Layers that would exceed density 1 are dense, and the others make up for it.
    """
    raw = [sum(layer.shape) / prod(layer.shape) for layer in layers]
    return _meeting(layers, sparsity, lambda share: [max(0.0, 1 - (1 - share) * each / min(raw)) for each in raw])


def lamp(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """Each score's square, divided by the sum of the squares of those in its layer that are no smaller; then ranked together.

    Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", eq. 5. Made for magnitudes; a negative score counts as zero.
    """
    return _ranked(layers, [_lamp(layer) for layer in layers], sparsity)


def std(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """A layer's threshold is one quality parameter, the same for all, times its weights' standard deviation (of scores: root mean square).

    Han et al. 2015, "Learning both weights and connections for efficient neural networks", §4. The parameter is the one that gives
    ``sparsity``. A layer's deviation is that of what it still has.
    """
    return _ranked(layers, [layer.scores / _deviation(layer.scores) for layer in layers], sparsity)


def sensitivity(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """Each layer as sparse as it can be at an increase of the loss that is the same for all, measured on calibration samples.

    How sparse: up to the last of ``GRID``, and beyond it only when every layer is there. A layer that is gone makes all answers alike,
    which has a lower loss than answers that are wrong for sure, so a measurement there would mislead.
    """
    losses = np.array([[layer.loss(each) for each in GRID] for layer in layers])
    losses = np.where(np.isfinite(losses), losses, 10 * np.abs(losses[np.isfinite(losses)]).max(initial=1.0))
    curves = np.maximum.accumulate(losses - losses[:, :1], axis=1)  # by how much the loss grows; never less for more zeros
    worst = max(float(curves.max()), 1e-12)
    flat = 1e-9 * worst * np.arange(len(GRID))  # where a curve is flat, its far end counts
    reach = worst * (1 + 1e-6)  # all layers are at the end of GRID; from there to twice that they go on together
    sparsities = (*GRID, GRID[-1], 1.0)
    ends = [(*(curve + flat), reach, 2 * reach) for curve in curves]
    return _meeting(layers, sparsity, lambda share: [float(np.interp(2 * reach * share, each, sparsities)) for each in ends])


KNOWN: dict[AllocationName, Allocation] = {
    "global": across,
    "uniform": uniform,
    "erk": erk,
    "lamp": lamp,
    "std": std,
    "sensitivity": sensitivity,
}


def allocation_of(rule: AllocationName | Allocation) -> Allocation:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    return rule_named(rule, KNOWN, "allocation", kind="an allocation", form="(layers, sparsity) → sparsities")


def allocated(rule: Allocation, layers: Sequence[Layer], sparsity: float) -> list[float]:
    """What a rule gives, checked: each layer's sparsity. Raises RecipeError for another number of them, or one outside 0 … 1."""
    found = [float(each) for each in rule(layers, sparsity)]
    wrong = [f"{layer.name}: {each}" for layer, each in zip(layers, found, strict=False) if not 0 <= each <= 1]
    if len(found) != len(layers) or wrong:
        told = wrong[0] if wrong else f"{len(found)} numbers"
        raise RecipeError(f"allocation: expected a sparsity in [0, 1] for each of {len(layers)} layers, got {told}")
    return [min(each, layer.most) for each, layer in zip(found, layers, strict=True)]


Taken = Callable[[Sequence[Layer], Sequence[float]], float]


def by_cost(rule: Allocation, layers: Sequence[Layer], gone: float, taken: Taken) -> list[float]:
    """What a rule gives at the least sparsity that takes this share of a cost, found by bisection to a thousandth.

    taken: (layers, sparsities) → the share of the cost that they take: ``macs_taken``, ``bytes_taken``.
    """
    low, high, best = 0.0, 1.0, allocated(rule, layers, 1.0)
    while high - low > 1e-5:
        middle = (low + high) / 2
        found = allocated(rule, layers, middle)
        share = taken(layers, found)
        if share < gone:
            low = middle
        else:
            high, best = middle, found
            if share < gone + 1e-3:
                break
    return best


def macs_taken(layers: Sequence[Layer], sparsities: Sequence[float]) -> float:
    """The share of the layers' MACs that these sparsities take."""
    return sum(layer.macs * each for layer, each in zip(layers, sparsities, strict=True)) / max(1, sum(layer.macs for layer in layers))


def bytes_taken(layers: Sequence[Layer], sparsities: Sequence[float], *, bits: int) -> float:
    """The share of the layers' bytes in the file that these sparsities take, with ``bits`` for each weight that is stored.

    Where they lie takes ``units · H(share that stays)`` bits, what the best code needs when each place is by itself; a layer that would be
    no shorter for it is stored dense.
    """
    left = 0.0
    for layer, sparsity in zip(layers, sparsities, strict=True):
        places = sum(-p * log2(p) for p in (sparsity, 1 - sparsity) if p > 0) * len(layer.scores)
        left += min(layer.weights * bits, layer.weights * (1 - sparsity) * bits + places)
    return 1 - left / (bits * sum(layer.weights for layer in layers))


# ── selection ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def largest(scores: Tensor, drop: int) -> Tensor:
    """True for all but the ``drop`` smallest of ``scores`` (``[N]``); of equals, those that come first are dropped."""
    if drop <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    limit = _smallest(scores.cpu().numpy(), drop - 1)
    keep = scores >= limit
    surplus = int(torch.count_nonzero(keep)) - (len(scores) - drop)
    if surplus:
        keep[(scores == limit).nonzero().flatten()[:surplus]] = False
    return keep


def _smallest(scores: NDArray[np.float32], place: int) -> float:
    """The number at this place if they were sorted. 0.2 s for 25 million; torch's kthvalue takes 2.5 s, NumPy's partition 3 s on ties."""
    sample = np.sort(scores[:: len(scores) // 100_000 | 1])  # an odd step: it doesn't keep to one column of a matrix
    middle = place * len(sample) // len(scores)
    low, high = (sample[min(max(middle + off, 0), len(sample) - 1)] for off in (-300, 300))
    up_to_low = np.count_nonzero(scores <= low)
    if np.count_nonzero(scores < low) <= place < up_to_low:
        return float(low)
    between = scores[(scores > low) & (scores < high)]
    if 0 <= place - up_to_low < len(between):
        return float(np.partition(between, place - up_to_low)[place - up_to_low])
    if place < np.count_nonzero(scores <= high) and place >= up_to_low:
        return float(high)
    return float(np.partition(scores, place)[place])  # the sample misled


def strongest(scores: Tensor, size: int | Tensor, drop: int) -> Tensor:
    """True for the units that stay when about ``drop`` weights leave, the least important units first (to the nearest whole unit)."""
    if isinstance(size, int):
        return largest(scores, round(drop / size))
    order = torch.argsort(scores, stable=True)
    ends = size.to(scores.device)[order].double().cumsum(0)
    keep = torch.ones_like(scores, dtype=torch.bool)
    keep[order[: int((ends - size.to(scores.device)[order] / 2 < drop).sum())]] = False
    return keep


def _ranked(layers: Sequence[Layer], scores: Sequence[Tensor], sparsity: float) -> list[float]:
    """The sparsity of each layer when its scores are ranked with all others'; the best of each layer stays."""
    spared = [_sparing(each, layer.least) for each, layer in zip(scores, layers, strict=True)]
    sizes = {layer.size if isinstance(layer.size, int) else 0 for layer in layers}
    size: int | Tensor = sizes.pop() if len(sizes) == 1 and 0 not in sizes else torch.cat([_sizes(layer) for layer in layers])
    keep = strongest(torch.cat(spared), size, round(sparsity * sum(layer.weights for layer in layers)))
    parts = keep.split([len(each) for each in scores])
    return [_lost(part, layer) / layer.weights for part, layer in zip(parts, layers, strict=True)]


def _sparing(scores: Tensor, least: int) -> Tensor:
    if not least:
        return scores
    scores = scores.clone()
    scores[scores.argmax()] = torch.inf
    return scores


def _sizes(layer: Layer) -> Tensor:
    return torch.full((len(layer.scores),), float(layer.size)) if isinstance(layer.size, int) else layer.size


def _lost(keep: Tensor, layer: Layer) -> float:
    if isinstance(layer.size, int):
        return (len(keep) - int(torch.count_nonzero(keep))) * layer.size
    return float(layer.size.to(keep.device)[~keep].sum())


def _meeting(layers: Sequence[Layer], sparsity: float, at: Callable[[float], Sequence[float]]) -> list[float]:
    """The sparsities ``at(share)``, none above what its layer can give, for the share in [0, 1] at which they amount to ``sparsity``."""
    sizes = [layer.weights for layer in layers]

    def limited(share: float) -> list[float]:
        return [min(each, layer.most) for each, layer in zip(at(share), layers, strict=True)]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(each * size for each, size in zip(limited(middle), sizes, strict=True))
        low, high = (middle, high) if total < sparsity * sum(sizes) else (low, middle)
    return limited(high)


def _lamp(layer: Layer) -> Tensor:
    """The new scores; in rising order where that tells enough, since putting them back takes ten times as long."""
    values, order = layer.scores.cpu(), None
    if isinstance(layer.size, int):
        values = torch.from_numpy(np.sort(values.numpy()))
    else:
        values, order = torch.sort(values, stable=True)
    squares = values.clamp_min(0).double().square_()
    sums = squares.flip(0).cumsum_(0).flip(0).clamp_min_(torch.finfo(torch.float64).tiny)
    found = (squares / sums).to(values.dtype).masked_fill_(values == -torch.inf, -torch.inf)
    return found if order is None else torch.empty_like(found).scatter_(0, order, found)


def _deviation(scores: Tensor) -> Tensor:
    there = scores != -torch.inf
    mean = torch.where(there, scores, 0.0).double().square().sum() / there.sum().clamp_min(1)
    return mean.sqrt().clamp_min(torch.finfo(torch.float32).tiny).to(scores.dtype)
