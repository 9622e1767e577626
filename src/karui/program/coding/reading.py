"""Read what a file says without believing it: typed fields of JSON objects, and bytes taken one section after another."""

from collections.abc import Mapping
from math import isfinite, prod
from typing import Any

import numpy as np

from karui.program.program import Array

LARGEST_INT = 1 << 31


def record(value: Any, what: str) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object")
    return value


def items(fields: Mapping[str, Any], key: str) -> list[Any]:
    """A list; an empty one where the key is absent."""
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"'{key}' must be a list")
    return value


def text(fields: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A string."""
    value = fields.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"'{key}' must be a text")
    return value


def integer(fields: Mapping[str, Any], key: str, default: int | None = None, *, least: int = 0) -> int:
    """A whole number from ``least`` to 2^31."""
    value = fields.get(key, default)
    if type(value) is not int or not least <= value <= LARGEST_INT:
        raise ValueError(f"'{key}' must be a whole number of {least} or more")
    return value


def number(fields: Mapping[str, Any], key: str) -> float:
    """A finite number."""
    value = fields.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise ValueError(f"'{key}' must be a finite number")
    return float(value)


def texts(fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of strings."""
    value = items(fields, key)
    if not all(isinstance(v, str) for v in value):
        raise ValueError(f"'{key}' must be a list of texts")
    return tuple(value)


def text_map(fields: Mapping[str, Any], key: str) -> dict[str, str]:
    """An object whose values are strings."""
    value = record(fields.get(key, {}), f"'{key}'")
    if not all(isinstance(v, str) for v in value.values()):
        raise ValueError(f"'{key}' must hold texts")
    return dict(value)


def numbers(fields: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """A list of finite numbers."""
    value = items(fields, key)
    if not all(type(v) in (int, float) and isfinite(v) for v in value):
        raise ValueError(f"'{key}' must be a list of finite numbers")
    return tuple(float(v) for v in value)


def shape(fields: Mapping[str, Any], key: str, *, most: int) -> tuple[int, ...]:
    """A list of at most eight sizes of which the product is at most ``most``."""
    value = items(fields, key)
    if len(value) > 8 or not all(type(n) is int and 1 <= n <= most for n in value):
        raise ValueError(f"'{key}' must be at most eight sizes of 1 or more")
    if prod(value) > most:
        raise ValueError(f"'{key}' gives {prod(value)} elements, more than the {most} that are allowed here")
    return tuple(value)


class Sections:
    """The data of the file; each ``take`` gives its next bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; ValueError where there are fewer."""
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(f"{count} bytes are announced, {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def array(self, dtype: str, shape: tuple[int, ...]) -> Array:
        """The next array, little-endian, as a copy of its own."""
        kind = np.dtype(dtype).newbyteorder("<")
        return np.frombuffer(self.take(kind.itemsize * prod(shape)), kind).reshape(shape).astype(dtype)
