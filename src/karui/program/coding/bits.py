"""Fixed-width symbols: packed at 1 to 32 bits each, or five ternary digits to a byte."""

import numpy as np
from numpy.typing import NDArray

from karui.program.program import Array

_STEP = 1 << 20  # symbols unpacked at a time, a multiple of 8, so that every step but the last fills whole bytes


def width_of(entries: int) -> int:
    """Bits that tell ``entries`` symbols apart, at least 1."""
    return max(1, (entries - 1).bit_length())


def packed_size(count: int, width: int) -> int:
    """Bytes of ``count`` symbols of ``width`` bits."""
    return (count * width + 7) // 8


def pack(symbols: Array, width: int) -> bytes:
    """Symbol i takes the bits i·width … of the little-endian bit stream: of two 4-bit symbols the first is the low half of the byte."""
    flat = symbols.ravel()
    if width == 8:
        return flat.astype(np.uint8).tobytes()
    places = np.arange(width, dtype=np.uint32)
    parts = []
    for start in range(0, len(flat), _STEP):
        step = flat[start : start + _STEP].astype(np.uint32)
        parts.append(np.packbits(((step[:, None] >> places) & 1).astype(np.uint8).ravel(), bitorder="little").tobytes())
    return b"".join(parts)


def unpack(data: bytes, width: int, count: int) -> NDArray[np.uint32]:
    """``count`` symbols back; the data must be exactly as long as they take, with zeros behind the last one."""
    if len(data) != packed_size(count, width):
        raise ValueError(f"{len(data)} bytes for {count} symbols of {width} bits, expected {packed_size(count, width)}")
    raw = np.frombuffer(data, np.uint8)
    if width == 8:
        return raw.astype(np.uint32)
    spare = len(data) * 8 - count * width
    if spare and raw[-1] >> (8 - spare):
        raise ValueError("bits are set behind the last symbol")
    symbols = np.empty(count, np.uint32)
    places = np.uint32(1) << np.arange(width, dtype=np.uint32)
    for start in range(0, count, _STEP):
        n = min(_STEP, count - start)
        first = start * width // 8
        bits = np.unpackbits(raw[first : first + packed_size(n, width)], count=n * width, bitorder="little")
        symbols[start : start + n] = bits.reshape(n, width) @ places
    return symbols


_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


def pack_base3(digits: Array) -> NDArray[np.uint8]:
    """Digits 0, 1, 2: five to a byte, the first one the least significant; the last byte is filled up with zeros."""
    padded = np.zeros(-(-digits.size // 5) * 5, np.uint8)
    padded[: digits.size] = digits.ravel()
    return (padded.reshape(-1, 5) * _POWERS).sum(1).astype(np.uint8)


def unpack_base3(packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """``count`` digits back."""
    if len(packed) != -(-count // 5) or (packed > 242).any():
        raise ValueError(f"{len(packed)} bytes are not {count} ternary digits")
    digits = (packed[:, None] // _POWERS % 3).astype(np.uint8).ravel()
    if digits[count:].any():
        raise ValueError("digits are set behind the last one")
    return digits[:count]
