"""Are two outputs the same: bit for bit, within one step, or within a tolerance?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from karui.errors import DataError
from karui.program.program import Array

Rule = Literal["exact", "lsb", "tolerance"]
TOLERANCE = 1e-4  # of the greatest magnitude of the reference (DESIGN: floats)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a comparison found. max_error: the greatest difference; differing: share of the values that differ at all; where: its place."""

    ok: bool
    max_error: float
    differing: float
    where: tuple[int, ...] = ()


def compare(found: Array, reference: Array, *, rule: Rule = "exact") -> Parity:
    """Compare two arrays of one shape.

    exact: equal. lsb: integers that differ by one at most. tolerance: ``max|a − b| ≤ 1e-4 · max|b|``; NaN equals nothing.
    Raises DataError for different shapes.
    """
    if found.shape != reference.shape:
        raise DataError(f"can't compare shapes {list(found.shape)} and {list(reference.shape)}; run both on the same inputs")
    a, b = found.astype(np.float64), reference.astype(np.float64)
    if not a.size:
        return Parity(ok=True, max_error=0.0, differing=0.0)
    errors = np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), np.inf)
    errors = np.where(a == b, 0.0, errors)
    at = np.unravel_index(int(errors.argmax()), errors.shape)
    greatest = float(errors[at])
    limit = {"exact": 0.0, "lsb": 1.0, "tolerance": TOLERANCE * float(np.abs(b[np.isfinite(b)]).max(initial=0.0))}[rule]
    return Parity(ok=greatest <= limit, max_error=greatest, differing=float((errors > 0).mean()), where=tuple(int(i) for i in at))
