"""What a user names → the thing: a module, a file or a name for a network; a name or "module:function" for data."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from karui import datasets, recipe
from karui.data import Data
from karui.errors import DataError, FileError, KaruiError, RecipeError, first_line
from karui.graph.doors.capture import FILES, capture
from karui.graph.doors.keras import is_keras
from karui.graph.network import Network
from karui.zoo import catalogue

_FILES = f"{', '.join(FILES[:-1])} or {FILES[-1]}"


def network_of(source: Any, data: Data | None = None, *, folder: Path | None = None) -> Network:
    """A captured network from a Network, a module, a Keras model, ``"zoo:name"``, a file or ``"package.module:function"``.

    A module needs example inputs: those of ``data``; so does a file that leaves sizes open. folder: where a relative file and a user's
    module are looked for. A file that leaves sizes open may have its inputs' shapes behind its name: ``net.onnx@3x96x96``.
    """
    if isinstance(source, Network):
        return source
    if is_keras(source):
        return capture(source)
    if isinstance(source, nn.Module):
        if data is None:
            raise DataError(
                "a module needs data to be captured with; pass data, or capture it yourself with karui.capture(module, example)"
            )
        return capture(source, data.example(2))
    if not isinstance(source, str | Path):
        raise RecipeError(f"network: expected a module, a Network or a name, got {type(source).__name__}")
    text = str(source)
    if text.startswith("zoo:"):
        return catalogue.load(text.removeprefix("zoo:"))
    file, at, sizes = text.rpartition("@")
    if at and file.lower().endswith(FILES):
        return _file(file, folder, _example(text, sizes))
    if text.lower().endswith(FILES):
        return _file(text, folder, data.example(2) if data is not None and text.lower().endswith(".onnx") else None)
    if ":" in text:
        return network_of(made(text, "network", folder), data, folder=folder)
    raise RecipeError(f"network '{text}' is neither zoo:NAME, a {_FILES} file nor package.module:function; karui list shows the zoo")


def _file(name: str, folder: Path | None, example: tuple[Tensor, ...] | None) -> Network:
    path = Path(name) if folder is None else folder / name
    if not path.exists():
        raise FileError(f"'{path}' does not exist; give a {_FILES} file, zoo:NAME (karui list), or package.module:function")
    return capture(path, example)


def _example(text: str, sizes: str) -> tuple[Tensor, ...]:
    """Inputs without data, of the shapes that stand behind a file's name: ``3x96x96``, or several with commas."""
    each = [shape.split("x") if shape else [] for shape in sizes.split(",")]  # nothing: one number a sample
    shapes = [[int(size) if re.fullmatch(r"[1-9]\d{0,5}", size) else 0 for size in shape] for shape in each]
    if not sizes or not all(0 < math.prod(shape) < 1 << 31 for shape in shapes):
        raise RecipeError(f"network '{text}': expected the inputs' shapes without the batch behind @, as 3x96x96 or 3x96x96,10")
    return tuple(torch.empty(2, *shape, device="meta") for shape in shapes)


def data_of(source: Any, *, folder: Path | None = None) -> Data:
    """Data from a Data, a data set's name (karui list), or ``"package.module:function"``."""
    if isinstance(source, Data):
        return source
    if not isinstance(source, str):
        raise RecipeError(f"data: expected a Data or a name, got {type(source).__name__}")
    kind = source.split(":", 1)[0]
    if kind in datasets.NAMES or ":" not in source:
        return datasets.load(source)
    found = made(source, "data", folder)
    if not isinstance(found, Data):
        raise DataError(f"'{source}' gave a {type(found).__name__}; it must return a karui.Data")
    return found


def made(name: str, what: str, folder: Path | None) -> Any:
    """Call ``package.module:function`` of the user's own code, looked for in ``folder`` first."""
    function = recipe.resolve(name, folder or Path.cwd(), where=what)
    if not callable(function):
        raise RecipeError(f"{what}: '{name}' is a {type(function).__name__}; name a function that returns it")
    try:
        return function()
    except (KaruiError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # the function is the user's: it may raise anything
        raise RecipeError(f"{what}: '{name}' failed: {first_line(error)}; run it by itself to see where") from error
