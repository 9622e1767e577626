"""Codes of sums by floats: the integer that is nearest to sum · scale + offset, where that is the exact code of every sum there can be.

What is exact takes products of 64 bits. Sums of bits are few, so each of them is tried when the model is written: between two codes that
follow each other there is a gap in which no sum falls, and the offset puts the step from one to the other into its middle.
"""

import numpy as np
from numpy.typing import NDArray

from karui.program.program import Array

MOST = 1 << 25  # sums of all channels that are tried
REACH, TINY = 1 << 24, 2.0**-60  # beyond these a float isn't trusted
ROUNDING = 1.001 * 2.0**-24  # what rounding to a float changes at most, as a share
ULPS = (0, 1, -1, 2, -2)  # by which a scale may be off, where that helps


def by_floats(
    sums: Array, multiplier: Array, bias: Array, shift: Array, low: int, high: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Scales and offsets of all channels, and for which of them every sum makes the code of (sum · multiplier + bias) >> shift.

    A product and a sum are rounded once, together, and a code is what is nearest to that. All sums · multiplier + bias fit in 64 bits.
    """
    least, most = int(sums.min()), int(sums.max())
    if len(multiplier) * len(sums) > MOST or max(-least, most) >= REACH:
        nothing = np.zeros(len(multiplier), np.float32)
        return nothing, nothing, nothing > 0
    found = [_channel(sums.astype(np.int64), int(m), int(b), int(s), low, high) for m, b, s in zip(multiplier, bias, shift, strict=True)]
    scale, offset, exact = zip(*found, strict=True)
    return np.array(scale, np.float32), np.array(offset, np.float32), np.array(exact)


def _channel(sums: NDArray[np.int64], multiplier: int, bias: int, shift: int, low: int, high: int) -> tuple[float, float, bool]:
    codes = np.clip((sums * multiplier + bias) >> shift, low, high)
    scale = offset = np.float32(0)
    for ulps in ULPS:
        scale = np.float32(multiplier / 2.0**shift) + ulps * np.spacing(np.float32(multiplier / 2.0**shift))
        product = sums * float(scale)  # in float64, which is as good as exact
        above, below = (codes - 0.5 - product)[codes > low], (codes + 0.5 - product)[codes < high]
        least = above.max() if len(above) else below.min() - 1 if len(below) else 0.0  # of what the offset may be
        most = below.min() if len(below) else least + 1
        offset = np.float32((least + most) / 2)
        value = product + float(offset)
        slack = np.abs(value) * ROUNDING
        same = [np.array_equal(np.clip(np.rint(value + off), low, high), codes) for off in (-slack, slack)]
        if all(same) and np.abs(value).max() < REACH and not any(0 < abs(each) < TINY for each in (scale, offset)):
            return float(scale), float(offset), True
    return float(scale), float(offset), False
