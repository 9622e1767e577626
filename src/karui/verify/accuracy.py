"""An accuracy with how sure one may be of it: a mean over samples, and its 95 % interval."""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from karui.errors import DataError
from karui.program.program import Array

Z = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """``mean`` of ``n`` samples and the 95 % interval [``low``, ``high``], all in the metric's unit."""

    mean: float
    low: float
    high: float
    n: int


def accuracy(scores: Array, *, scale: float = 1.0) -> Accuracy:
    """The mean of per-sample scores ``[N]``, times ``scale``.

    Scores of 0 and 1 get Wilson's interval (Wilson 1927, "Probable inference"), which stays inside [0, 1] and holds for rates near 0 and 1;
    other scores get the normal one. Raises DataError for no scores, or for one that is not finite.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"expected scores [N] of at least one sample, got shape {list(values.shape)}; is the part empty?")
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(f"the score of sample {at} is not finite; look at the network's outputs and at the metric")
    n, mean = len(values), float(values.mean())
    low, high = _wilson(mean, n) if np.isin(values, (0.0, 1.0)).all() else _normal(values, mean)
    low, high = sorted((low * scale, high * scale))
    return Accuracy(mean=mean * scale, low=low, high=high, n=n)


def difference(before: Array, after: Array, *, scale: float = 1.0) -> Accuracy:
    """The mean of ``after − before`` over the same samples, with the interval of the paired differences.

    Pairing takes out what both get right or wrong together, so it tells far smaller changes apart than two intervals do.
    """
    first, then = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.shape != then.shape:
        raise DataError(f"paired scores need the same samples, got {list(first.shape)} and {list(then.shape)}")
    changes = then - first
    if not len(changes):
        raise DataError("expected scores of at least one sample; is the part empty?")
    mean = float(changes.mean())
    low, high = sorted(bound * scale for bound in _normal(changes, mean))
    return Accuracy(mean=mean * scale, low=low, high=high, n=len(changes))


def _wilson(p: float, n: int) -> tuple[float, float]:
    spread = Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    centre = p + Z * Z / (2 * n)
    # rounding may put a bound a hair beyond the mean where all samples agree
    low, high = ((centre + side) / (1 + Z * Z / n) for side in (-spread, spread))
    return max(min(low, p), 0.0), min(max(high, p), 1.0)


def _normal(values: Array, mean: float) -> tuple[float, float]:
    error = float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else 0.0
    return mean - Z * error, mean + Z * error
