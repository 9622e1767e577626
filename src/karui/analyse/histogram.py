"""Observers that see how values are spread, and choose a range for them that cuts off what costs little.

Exact zeros don't count where an error is weighed: every range that quantizers take holds zero, and holds it exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Ends = tuple[float, float]

BINS = 2048
TRIALS = 64  # ends that are tried on a side


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """How often values fell into equal bins between two edges; ``low`` and ``high`` are what ``rule`` makes of it.

    counts: float64 ``[bins]``. least, greatest: the edges. rule: histogram → low and high.
    """

    counts: Tensor
    least: float
    greatest: float
    rule: Callable[["Histogram"], Ends]

    @property
    def low(self) -> float:
        """Where the range begins."""
        return self._ends[0]

    @property
    def high(self) -> float:
        """Where the range ends."""
        return self._ends[1]

    @cached_property
    def _ends(self) -> Ends:
        return self.rule(self)

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        half = (self.greatest - self.least) / (2 * len(self.counts))
        return np.linspace(self.least + half, self.greatest - half, len(self.counts))

    def quantile(self, share: float) -> float:
        """The value that this share of all values lie below; values lie evenly within their bin."""
        below = np.concatenate([[0.0], self.counts.cumsum(0).numpy()])
        return float(np.interp(share * below[-1], below, np.linspace(self.least, self.greatest, len(below))))


def percentile(seen: Histogram | None, value: Tensor, percent: float = 99.99, bins: int = BINS) -> Histogram:
    """The range that holds ``percent`` of all values, the rest cut off evenly at both ends."""
    return _grown(seen, value.detach().float().flatten(), partial(_cut_evenly, share=(1 - percent / 100) / 2), bins)


def mse(seen: Histogram | None, value: Tensor, levels: int = 256, bins: int = BINS) -> Histogram:
    """The range whose ``levels`` codes leave the least mean squared error, of rounding and of cutting off together."""
    return _grown(seen, _without_zeros(value), partial(_least_error, levels=levels), bins)


def entropy(seen: Histogram | None, value: Tensor, levels: int = 256, bins: int = BINS) -> Histogram:
    """The range whose codes tell most of the distribution: the least Kullback–Leibler divergence (Migacz 2017, "8-bit inference with
    TensorRT"), with the same threshold on both sides of zero.
    """
    return _grown(seen, _without_zeros(value), partial(_least_divergence, levels=levels), bins)


# ── counting ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _without_zeros(value: Tensor) -> Tensor:
    value = value.detach().float().flatten()
    return value[value != 0]


def _grown(seen: Histogram | None, value: Tensor, rule: Callable[[Histogram], Ends], bins: int) -> Histogram:
    """The histogram with these values too; its bins are spread anew when the range grows."""
    low, high = (float(x) for x in torch.aminmax(value)) if len(value) else (0.0, 0.0)
    if seen is not None and float(seen.counts.sum()) > 0:
        low, high = (min(low, seen.least), max(high, seen.greatest)) if len(value) else (seen.least, seen.greatest)
    if low == high:
        high = low + 1e-8
    counts = torch.histc(value, bins, low, high).double()
    if seen is not None and float(seen.counts.sum()) > 0:
        counts = counts + _spread(seen, bins, low, high)
    return Histogram(counts=counts, least=low, greatest=high, rule=rule)


def _spread(old: Histogram, bins: int, low: float, high: float) -> Tensor:
    """The counts of a histogram over the bins of a wider one, each old bin's values taken as even within it."""
    edges = np.linspace(low, high, bins + 1)
    below = np.concatenate([[0.0], old.counts.cumsum(0).numpy()])
    return torch.from_numpy(np.diff(np.interp(edges, np.linspace(old.least, old.greatest, len(below)), below)))


# ── choosing ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cut_evenly(seen: Histogram, share: float) -> Ends:
    return seen.quantile(share), seen.quantile(1 - share)


def _least_error(seen: Histogram, levels: int) -> Ends:
    """One end after the other, twice: each is tried between zero and where values end."""
    whole = low, high = min(seen.least, 0.0), max(seen.greatest, 0.0)
    for _ in range(2):
        high = min(_tried(whole[1]), key=lambda end: _error(seen, low, end, levels))
        low = min(_tried(whole[0]), key=lambda end: _error(seen, end, high, levels))
    return low, high


def _least_divergence(seen: Histogram, levels: int) -> Ends:
    low, high = min(seen.least, 0.0), max(seen.greatest, 0.0)
    limit = min(_tried(max(-low, high)), key=lambda end: _divergence(seen, max(low, -end), min(high, end), levels))
    return max(low, -limit), min(high, limit)


def _tried(end: float) -> list[float]:
    """The end itself first, so that it is kept where nothing is better."""
    return [end * place / TRIALS for place in range(TRIALS, 0, -1)] if end else [end]


def _codes(values: Array, low: float, high: float, levels: int) -> tuple[Array, float]:
    """Whole numbers of steps, cut off at the ends, and the step."""
    step = (high - low) / (levels - 1)
    first = np.round(low / step)
    return np.clip(np.round(values / step), first, first + levels - 1), step


def _error(seen: Histogram, low: float, high: float, levels: int) -> float:
    if high <= low:
        return float("inf")
    centres = seen.centres
    codes, step = _codes(centres, low, high, levels)
    return float(seen.counts.numpy() @ (centres - codes * step) ** 2)


def _divergence(seen: Histogram, low: float, high: float, levels: int) -> float:
    """Of what is left after cutting off, its ends heaped up at the edges, from what the codes still tell of it."""
    if high <= low:
        return float("inf")
    centres, counts = seen.centres, seen.counts.numpy()
    inside = (centres >= low) & (centres <= high)
    if not counts[inside].any():
        return float("inf")
    true = counts[inside].copy()
    true[0] += counts[centres < low].sum()
    true[-1] += counts[centres > high].sum()
    codes = _codes(centres[inside], low, high, levels)[0].astype(int)
    codes -= codes.min()
    there = counts[inside] > 0
    of_code = np.bincount(codes, counts[inside]) / np.maximum(np.bincount(codes, there), 1)
    told = np.where(there, of_code[codes], 0.0)
    p, q = true / true.sum(), told / told.sum()
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))))
