"""Which n of each run of m weights are stored: the number of the choice among all choices of n of m, packed at the bits that it takes."""

from functools import cache
from itertools import combinations
from math import comb

import numpy as np

from karui.program.coding.bits import pack, packed_size, unpack, width_of
from karui.program.program import Array

LONGEST, MOST = 16, 4096  # weights of a run, choices: what a reader is willing to make a table of


def encode_runs(mask: Array, n: int, m: int) -> bytes | None:
    """The choices of a mask [..., last axis], run by run; None where a run is not exactly full, is cut off, or has too many choices."""
    if runs_size(mask, n, m) is None:
        return None
    runs = mask.reshape(-1, m)
    places = 1 << np.arange(m)
    numbers = np.zeros(1 << m, np.uint16)
    numbers[_choices(n, m) @ places] = np.arange(comb(m, n))
    return pack(numbers[runs @ places], width_of(comb(m, n)))


def runs_size(mask: Array, n: int, m: int) -> int | None:
    """Bytes of ``encode_runs``; None where it gives none."""
    if not _has_table(n, m) or mask.shape[-1] % m or (mask.reshape(-1, m).sum(1, dtype=np.uint8) != n).any():
        return None
    return packed_size(mask.size // m, width_of(comb(m, n)))


def decode_runs(data: bytes, n: int, m: int, shape: tuple[int, ...]) -> Array:
    """The mask of this shape; ValueError for anything that ``encode_runs`` doesn't write."""
    if not _has_table(n, m) or shape[-1] % m:
        raise ValueError(f"runs of {n} of {m} in a last axis of {shape[-1]}")
    numbers = unpack(data, width_of(comb(m, n)), int(np.prod(shape)) // m)
    if numbers.size and int(numbers.max()) >= comb(m, n):
        raise ValueError(f"a choice of number {int(numbers.max())} among {comb(m, n)}")
    return _choices(n, m)[numbers].reshape(shape)


def _has_table(n: int, m: int) -> bool:
    return 1 <= n <= m <= LONGEST and comb(m, n) <= MOST


@cache
def _choices(n: int, m: int) -> Array:
    """Bool [choices, m], in the order of their places."""
    table = np.zeros((comb(m, n), m), bool)
    for row, chosen in zip(table, combinations(range(m), n), strict=True):
        row[list(chosen)] = True
    table.flags.writeable = False
    return table
