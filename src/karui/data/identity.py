"""What a setting is, as JSON values that are the same in every process: so that a resumed run notices another loss or another rule."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn


def identity(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """``value`` as JSON values: dataclasses by their fields, arrays by a hash, functions by their name and a hash of what they do.

    A function's hash is of its code, its defaults and what it closes over; not of other functions that it calls by a global name. It
    differs between versions of Python. Objects that can be called (an ``nn.Module`` as loss) are their class and their attributes.
    """
    if id(value) in seen:  # a function that closes over itself
        return "…"
    inner = (*seen, id(value))
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): identity(each, inner) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [identity(each, inner) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((identity(each, inner) for each in value), key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: identity(getattr(value, f.name), inner) for f in dataclasses.fields(value)}
    if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        return _hash(torch.as_tensor(value).detach().cpu().contiguous().numpy().tobytes())
    return _callable(value, inner)


def _callable(value: Any, seen: tuple[int, ...]) -> Any:
    if isinstance(value, functools.partial):
        return {"partial": identity(value.func, seen), "of": identity([value.args, value.keywords], seen)}
    if isinstance(value, MethodType):
        return {"method": identity(value.__func__, seen), "of": identity(value.__self__, seen)}
    if isinstance(value, FunctionType):
        cells = [_cell(cell, seen) for cell in value.__closure__ or ()]
        held = [_code(value.__code__), identity([value.__defaults__, value.__kwdefaults__], seen), cells]
        return f"{_name(value)} {_hash(repr(held).encode())}"
    if hasattr(value, "__qualname__"):  # a class, or a function written in C
        return _name(value)
    kind = type(value)
    if not callable(value):
        return kind.__qualname__
    act = getattr(kind, "forward" if isinstance(value, nn.Module) else "__call__")
    return {"object": _name(kind), "does": identity(act, seen), "has": identity(vars(value) if hasattr(value, "__dict__") else {}, seen)}


def _cell(cell: Any, seen: tuple[int, ...]) -> Any:
    try:
        return identity(cell.cell_contents, seen)
    except ValueError:  # not yet filled
        return None


def _code(code: CodeType) -> list[Any]:
    """What a function does: its instructions, constants and the names it uses; no line numbers, no files."""
    return [code.co_code.hex(), [_constant(each) for each in code.co_consts], list(code.co_names)]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return [_constant(each) for each in value] if isinstance(value, tuple) else repr(value)


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
