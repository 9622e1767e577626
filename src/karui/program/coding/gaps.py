"""Relative distances: a sorted list of places as the gaps between them, with an escape for wide ones.

A symbol s below the escape E says: skip s places, the next one is taken. E itself says: skip E places, take none.
(Han, Mao & Dally, "Deep Compression", ICLR 2016, §2, store an explicit zero instead of the escape.)
"""

import numpy as np
from numpy.typing import NDArray

from karui.program.program import Array


def to_gaps(places: Array, escape: int) -> NDArray[np.uint8]:
    """Sorted, distinct places → symbols 0 … escape."""
    skips = np.diff(places.astype(np.int64), prepend=-1) - 1
    escapes = skips // escape
    ends = np.cumsum(escapes + 1)  # each place ends one run of symbols: its escapes, then what is left
    symbols = np.full(int(ends[-1]) if len(ends) else 0, escape, np.uint8)
    symbols[ends - 1] = skips - escapes * escape
    return symbols


def from_gaps(symbols: Array, escape: int, count: int, size: int) -> NDArray[np.int64]:
    """The ``count`` places back, which must lie in 0 … size − 1."""
    taken = symbols < escape
    if int(taken.sum()) != count or (len(symbols) and not taken[-1]):
        raise ValueError(f"gaps for {int(taken.sum())} places, expected {count}")
    steps = symbols.astype(np.int64) + taken
    places = (np.cumsum(steps) - 1)[taken]
    if count and int(places[-1]) >= size:
        raise ValueError(f"an index of {int(places[-1])} in {size} places")
    return places


def gap_count(places: Array, escape: int) -> int:
    """How many symbols ``to_gaps`` gives."""
    skips = np.diff(places.astype(np.int64), prepend=-1) - 1
    return int((skips // escape).sum()) + len(places)
