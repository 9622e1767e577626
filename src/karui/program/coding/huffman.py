"""Canonical Huffman codes of at most 15 bits over at most 256 symbols.

A section is a table and a bit stream. The table: the first used symbol, the last used symbol (one byte each), then the code lengths of the
symbols between them, 4 bits each, the first in the low half. The stream: codes, most significant bit first, filled up with zeros.
Codes are numbered by length, then by symbol. One symbol alone has the code 0 of one bit; else the lengths must fill the code space exactly.

Lengths: Larmore & Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", J. ACM 37(3), 1990 (package–merge).
"""

import numpy as np
from numpy.typing import NDArray

from karui.program.coding.bits import pack, unpack
from karui.program.program import Array

LONGEST = 15
_STEP = 1 << 17  # bytes of the stream (or symbols) that are looked at together


def code_lengths(counts: Array) -> NDArray[np.uint8]:
    """The best code lengths for symbols that occur ``counts`` times: [256], 0 for a symbol that doesn't occur."""
    lengths = np.zeros(256, np.uint8)
    used = [int(s) for s in np.flatnonzero(counts)]
    if len(used) == 1:
        lengths[used[0]] = 1
        return lengths
    coins = sorted((int(counts[s]), [s]) for s in used)
    packages: list[tuple[int, list[int]]] = []
    for _ in range(LONGEST):
        row = sorted(coins + packages, key=lambda package: package[0])
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(row[::2], row[1::2])]
    for _, symbols in packages[: len(used) - 1]:
        np.add.at(lengths, symbols, 1)
    return lengths


def canonical(lengths: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The code of every symbol, from the lengths alone; raises ValueError where they are not those of a complete code."""
    used = lengths[lengths > 0].astype(np.int64)
    if (lengths > LONGEST).any():
        raise ValueError(f"a Huffman code of more than {LONGEST} bits")
    space = int((1 << (LONGEST - used)).sum())
    if not (len(used) == 1 and used[0] == 1) and space != 1 << LONGEST:
        raise ValueError(f"a Huffman table that is {'over' if space > 1 << LONGEST else 'in'}complete")
    codes, code, previous = np.zeros(256, np.uint32), 0, 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda s: (lengths[s], s)):
        code <<= int(lengths[symbol]) - previous
        previous = int(lengths[symbol])
        codes[symbol] = code
        code += 1
    return codes


def encoded_size(counts: Array) -> int:
    """Bytes of ``encode`` for symbols that occur ``counts`` times."""
    used = np.flatnonzero(counts)
    if not len(used):
        return 0
    table = 2 + (int(used[-1] - used[0]) + 2) // 2
    return table + (int((code_lengths(counts).astype(np.int64) * counts).sum()) + 7) // 8


def encode(symbols: Array) -> bytes:
    """Table and stream for symbols 0 … 255; nothing at all for no symbols."""
    if not symbols.size:
        return b""
    data, lengths = stream(symbols)
    used = np.flatnonzero(lengths)
    first, last = int(used[0]), int(used[-1])
    return bytes([first, last]) + pack(lengths[first : last + 1], 4) + data


def stream(symbols: Array) -> tuple[bytes, NDArray[np.uint8]]:
    """The codes of one symbol or more, and how long each symbol's code is: [256]."""
    flat = symbols.ravel().astype(np.int64)
    lengths = code_lengths(np.bincount(flat, minlength=256))
    codes = canonical(lengths)
    places = np.arange(LONGEST)
    parts = []
    for start in range(0, len(flat), _STEP):
        step = flat[start : start + _STEP]
        shift = lengths[step].astype(np.int64)[:, None] - 1 - places
        bits = (codes[step].astype(np.int64)[:, None] >> np.maximum(shift, 0)) & 1
        parts.append(bits[shift >= 0].astype(np.uint8))
    return np.packbits(np.concatenate(parts)).tobytes(), lengths


def decode(data: bytes, count: int) -> NDArray[np.uint8]:
    """``count`` symbols back; the data must hold exactly these."""
    if not count:
        if data:
            raise ValueError("a Huffman section of no symbols that isn't empty")
        return np.zeros(0, np.uint8)
    lengths, bits = _read_table(data)
    if count > 8 * len(bits):
        raise ValueError(f"{count} Huffman symbols can't lie in {len(bits)} bytes")
    symbol_at, length_at = _tables(lengths)
    symbols, position, done = np.empty(count, np.uint8), 0, 0
    raw = np.frombuffer(bits + b"\0\0", np.uint8)
    for start in range(0, len(bits), _STEP):
        windows = _windows(raw[start : start + _STEP + 2])
        places = _walk(length_at[windows].tobytes(), position - 8 * start, count - done)
        found = np.asarray(places, np.int64)
        symbols[done : done + len(found)] = symbol_at[windows[found]]
        done += len(found)
        if len(found):
            position = 8 * start + int(found[-1]) + int(length_at[windows[found[-1]]])
    _check_end(bits, position, count - done)
    return symbols


def _read_table(data: bytes) -> tuple[NDArray[np.uint8], bytes]:
    if len(data) < 3 or data[1] < data[0]:
        raise ValueError("a Huffman table that is cut off")
    first, last = data[0], data[1]
    end = 2 + (last - first + 2) // 2
    lengths = np.zeros(256, np.uint8)
    lengths[first : last + 1] = unpack(data[2:end], 4, last - first + 1)
    if not (lengths[first] and lengths[last]):
        raise ValueError("a Huffman table whose ends are not in use")
    return lengths, data[end:]


def _tables(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What each window of 15 bits begins with: its symbol, and the length of its code (0: no code)."""
    symbol_at, length_at = np.zeros(1 << LONGEST, np.uint8), np.zeros(1 << LONGEST, np.uint8)
    codes = canonical(lengths)
    for symbol in np.flatnonzero(lengths):
        spare = LONGEST - int(lengths[symbol])
        first = int(codes[symbol]) << spare
        symbol_at[first : first + (1 << spare)] = symbol
        length_at[first : first + (1 << spare)] = lengths[symbol]
    return symbol_at, length_at


def _windows(raw: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The 15 bits from every bit of the bytes on, two bytes at the end apart."""
    wide = raw.astype(np.uint32)
    three = (wide[:-2] << 16) | (wide[1:-1] << 8) | wide[2:]
    return (
        ((three[:, None] >> np.arange(24 - LONGEST, 24 - LONGEST - 8, -1, dtype=np.uint32)) & ((1 << LONGEST) - 1))
        .astype(np.uint16)
        .ravel()
    )


def _walk(lengths: bytes, place: int, most: int) -> list[int]:
    """The places where codes begin: a plain loop, because each hangs on the one before; it is most of the time that loading takes."""
    places: list[int] = []
    while place < len(lengths) and len(places) < most:
        length = lengths[place]
        if not length:
            raise ValueError("bits that are no Huffman code")
        places.append(place)
        place += length
    return places


def _check_end(stream: bytes, position: int, missing: int) -> None:
    if missing or position > 8 * len(stream):
        raise ValueError("a Huffman stream that ends early")
    if 8 * len(stream) - position >= 8 or (position % 8 and stream[-1] & (0xFF >> position % 8)):
        raise ValueError("a Huffman stream with something behind its last symbol")
