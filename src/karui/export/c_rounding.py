"""Requantization by high words alone, for processors that multiply and add those in one instruction (SMMLA).

A sum n becomes the code floor((m · n + bias) / 2^shift), where the bias has 64 bits. Only the places matter where the code steps: there is
an interval of biases that all give the same codes, for every sum that can be. If a sum starts with some number c, m · c is a part of the
bias; c is chosen so that the rest is a multiple of 2^32. Then nothing is left below the high word, and that of the product is exact.
"""

from collections.abc import Iterator

import numpy as np

FIRST, LAST = -127, 127  # the codes at which there is a step; beyond them a code is -128 or 127 anyway
CHUNK, CHUNKS = 2**16, 64  # numbers to start with that are tried together, and how often; 1,000 are enough for most channels
WORD = 2**32


def high_words(multiplier: int, bias: int, shift: int, reach: int, raised: int = 0) -> tuple[int, int, int, int] | None:
    """What a sum starts with, the multiplier, the high word of the bias, and the shift behind the high word.

    reach: the largest |sum|. raised: bits by which the sum lies higher than it should. None where the numbers need more bits.
    """
    more = max(0, 32 - shift)  # where the multiplier has room, the result lies in the high word
    m, shift = multiplier << more, shift + more
    if not 0 <= m < 2**31:
        return None
    low, high = (each << raised for each in _room(m, bias << more, shift, reach))
    reach, shift = reach << raised, shift + raised
    start = next(_starts(m, low, high), None)
    if start is None or reach + start >= 2**31 or shift > 63 or max(abs(low), abs(high)) + m * reach >= 2**63:
        return None
    word = (high - 1 - m * start) // WORD
    return (start, m, word, shift - 32) if abs(word) < 2**31 else None


def _room(m: int, bias: int, shift: int, reach: int) -> tuple[int, int]:
    """Biases from the first on and below the second give the codes that this one gives."""
    lows, highs = [], []
    for code in range(FIRST, LAST + 1):
        goal = code << shift
        step = -((bias - goal) // m) if m else reach + 1 if bias < goal else -reach  # the first sum of this code
        step = min(max(step, -reach), reach + 1)
        if step <= reach:
            lows.append(goal - m * step)
        if step > -reach:
            highs.append(goal - m * (step - 1))
    low = max(lows) if lows else min(highs) - WORD
    return low, min(highs) if highs else low + WORD


def _starts(m: int, low: int, high: int) -> Iterator[int]:
    """Numbers c for which some multiple of 2^32 lies from low - m · c on and below high - m · c."""
    width = min(high - low, WORD)
    for chunk in range(CHUNKS):
        c = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.uint64)
        found = np.flatnonzero((np.uint64((high - 1) % WORD) - np.uint64(m) * c) % np.uint64(WORD) < width)
        yield from (chunk * CHUNK + found).tolist()
