"""Which units (weights, or blocks of them) are stored: bool [rows, columns] to bytes, in the coding that is smallest for it.

=========  ==========================================================================================================
bitmask    one bit a unit, row by row
gaps4      ``gaps`` with escape 15, packed at 4 bits; the count of symbols (uint32) first
gaps8      ``gaps`` with escape 255, one byte each
rows       CSR-like: stored units of each row at the bits of ``columns``, then their columns at the bits of ``columns − 1``
huffman    ``gaps`` with escape 255, Huffman-coded; the count of symbols (uint32) first
=========  ==========================================================================================================
"""

import numpy as np

from karui.program.coding import huffman
from karui.program.coding.bits import pack, packed_size, unpack, width_of
from karui.program.coding.gaps import from_gaps, gap_count, to_gaps
from karui.program.program import Array

CODINGS = ("bitmask", "gaps4", "gaps8", "rows", "huffman")  # the earlier one wins a tie: it is the simpler to read


def encode_index(mask: Array, coding: str | None = None) -> tuple[str, bytes]:
    """The name of the coding and its bytes, for bool [rows, columns]; the smallest coding unless one is named."""
    places = np.flatnonzero(mask)
    if coding is None:
        sizes = index_sizes(mask)
        coding = min(CODINGS, key=lambda name: sizes[name])
    if coding == "bitmask":
        return coding, pack(mask.ravel(), 1)
    if coding == "rows":
        counts, columns = mask.sum(1), places % mask.shape[1]
        return coding, pack(counts, width_of(mask.shape[1] + 1)) + pack(columns, width_of(mask.shape[1]))
    if coding == "gaps8":
        return coding, to_gaps(places, 255).tobytes()
    symbols = to_gaps(places, 15 if coding == "gaps4" else 255)
    return coding, len(symbols).to_bytes(4, "little") + (pack(symbols, 4) if coding == "gaps4" else huffman.encode(symbols))


def index_sizes(mask: Array) -> dict[str, int]:
    """Bytes that each coding takes."""
    rows, columns = mask.shape
    places = np.flatnonzero(mask)
    symbols = to_gaps(places, 255)
    return {
        "bitmask": packed_size(mask.size, 1),
        "gaps4": 4 + packed_size(gap_count(places, 15), 4),
        "gaps8": len(symbols),
        "rows": packed_size(rows, width_of(columns + 1)) + packed_size(len(places), width_of(columns)),
        "huffman": 4 + huffman.encoded_size(np.bincount(symbols, minlength=256)),
    }


def decode_index(coding: str, data: bytes, shape: tuple[int, int], stored: int) -> Array:
    """Bool [rows, columns] with exactly ``stored`` units set."""
    rows, columns = shape
    size = rows * columns
    if not 0 <= stored <= size:
        raise ValueError(f"{stored} of {size} weights are stored")
    if coding == "bitmask":
        mask = unpack(data, 1, size).astype(bool)
    else:
        mask = np.zeros(size, bool)
        mask[_places(coding, data, rows, columns, stored)] = True
    if int(mask.sum()) != stored:
        raise ValueError(f"an index of {int(mask.sum())} places, expected {stored}")
    return mask.reshape(shape)


def _places(coding: str, data: bytes, rows: int, columns: int, stored: int) -> Array:
    size = rows * columns
    if coding == "rows":
        cut = packed_size(rows, width_of(columns + 1))
        counts = unpack(data[:cut], width_of(columns + 1), rows).astype(np.int64)
        if int(counts.sum()) != stored:
            raise ValueError(f"rows of {int(counts.sum())} weights, expected {stored}")
        column = unpack(data[cut:], width_of(columns), stored).astype(np.int64)
        if stored and int(column.max()) >= columns:
            raise ValueError(f"a column of {int(column.max())} among {columns}")
        places = np.repeat(np.arange(rows) * columns, counts) + column
        if (np.diff(places) <= 0).any():
            raise ValueError("columns that are out of order")
        return places
    if coding == "gaps8":
        return from_gaps(np.frombuffer(data, np.uint8), 255, stored, size)
    if coding not in ("gaps4", "huffman"):
        raise ValueError(f"the index coding '{coding}' is unknown")
    if len(data) < 4:
        raise ValueError("an index that is cut off")
    count = int.from_bytes(data[:4], "little")
    symbols = unpack(data[4:], 4, count) if coding == "gaps4" else huffman.decode(data[4:], count)
    return from_gaps(symbols, 15 if coding == "gaps4" else 255, stored, size)
