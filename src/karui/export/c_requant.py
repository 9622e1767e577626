"""Sums to codes in float32, where that is proved to give the same integers: how the numbers lie for c_runtime's AVX-512.

``y = (sum · multiplier + bias) >> shift`` climbs by one at certain sums only, at most 255 of them between the bounds. With
``bias = start · multiplier + rest`` and ``s = sum + start``, vectors compute

    y = ⌊ fl⁻(s · upper + fl(s · lower + rest)) ⌋

where upper + lower is multiplier / 2^shift to 48 bits, fl rounds to the nearest float32 and fl⁻ down, which takes nothing from the floor.
It climbs, too, and only with s; so both are the same for every sum if they are the same on both sides of each of those sums. That is tried
out here, exactly.
"""

import numpy as np
from numpy.typing import NDArray

from karui.program.arithmetic import Requant

EXACT = 2**24  # up to here float32 holds every integer
FAR = 2**30  # results that floats may reach before they are clamped: beyond, they don't fit in 32 bits
ROUNDED = 2.0**-22  # the error of the inner sum, relative, with room


def in_reals(
    requant: Requant, bias: NDArray[np.int64], most: NDArray[np.int64], bounds: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
    """``start`` ``[O]``, and ``upper``, ``lower`` and ``rest`` ``[3, O]``; None where it isn't proved for each channel.

    bias: ``[O]``, used instead of ``requant``'s. most: ``[O]``, the largest |sum|; |bias| + most · multiplier is less than 2^63.
    """
    least, greatest = (np.clip((bias + n * requant.multiplier) >> requant.shift.astype(np.int64), *bounds) for n in (-most, most))
    same = least == greatest  # whatever the sum
    m, shift = np.maximum(requant.multiplier.astype(np.int64), 1), np.where(same, 0, requant.shift.astype(np.int64))
    if (requant.multiplier < 0).any() or (shift > 52).any() or (~same & (np.abs(bias.astype(np.float64)) >= 2.0**62)).any():
        return None
    one, codes = np.int64(1) << shift, np.arange(bounds[0] + 1, bounds[1] + 1, dtype=np.int64)[:, None]
    start = np.where(same, 0, bias // m)
    reach = most + np.abs(start)
    if (reach >= 2**31).any() or (np.where(same, 0, reach) * (m / one) >= FAR).any():
        return None
    first = -((bias - codes * one) // m)  # the least sum whose result is at least the code
    over = first * m + bias - codes * one  # 0 … m − 1
    reached = (least < codes) & (codes <= greatest)
    if not (np.abs(np.where(reached, first + start, 0)) < EXACT).all():
        return None
    nearest, farthest = np.where(reached, over, m).min(0, initial=2**62), np.where(reached, over, 0).max(0, initial=0)
    rest = (bias - start * m + (m - farthest - np.minimum(nearest, m)) / 2) / one  # in the middle of what is allowed
    scale = np.where(same, 0, m / one)  # exact: m has 31 bits
    upper = scale.astype(np.float32)
    tables = np.stack([upper, (scale - upper).astype(np.float32), np.where(same, least + 0.5, rest).astype(np.float32)])
    at, below = _over(first + start, codes, tables)[0], _over(first + start - 1, codes, tables)[1]
    if not (at[reached] >= 0).all() or not (below[reached] < 0).all():
        return None
    return start.astype(np.int32), tables


def _over(s: NDArray[np.int64], codes: NDArray[np.int64], tables: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far the outer sum may lie above the codes, at least and at most. Products of 24 bits and sums near zero are exact here."""
    upper, lower, rest = tables.astype(np.float64)
    inner = s * lower + rest
    over, error = s * upper - codes + inner, np.abs(inner) * ROUNDED
    return over - error, over + error
