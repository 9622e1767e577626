"""What a user names → the thing: a module, a file or a name for a network; a name or "module:function" for data."""

from pathlib import Path
from typing import Any

from torch import nn

from karui import datasets, recipe
from karui.data import Data
from karui.errors import DataError, FileError, KaruiError, RecipeError, first_line
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.zoo import catalogue


def network_of(source: Any, data: Data | None = None, *, folder: Path | None = None) -> Network:
    """A captured network from a Network, a module, ``"zoo:name"``, a ``.pt2`` file or ``"package.module:function"``.

    A module needs example inputs: those of ``data``. folder: where a relative file and a user's module are looked for.
    """
    if isinstance(source, Network):
        return source
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
    if text.endswith(".pt2"):
        path = Path(text) if folder is None else folder / text
        if not path.exists():
            raise FileError(
                f"'{path}' does not exist; give a .pt2 file that karui wrote, zoo:NAME (karui list), or package.module:function"
            )
        return Network.load(path)
    if ":" in text:
        return network_of(made(text, "network", folder), data, folder=folder)
    raise RecipeError(f"network '{text}' is neither zoo:NAME, a .pt2 file nor package.module:function; karui list shows the zoo")


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
