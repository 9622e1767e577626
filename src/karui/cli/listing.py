"""What there is to choose from. Everything is found where it lives; nothing is registered."""

import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable, Mapping
from types import ModuleType

Names = dict[str, str]


def techniques() -> Names:
    """Recipe name → what it does: the first line of the class's docstring."""
    from karui.compress import discover

    return {name: _first_line(kind) for name, kind in discover.techniques().items()}


def targets() -> Names:
    """Target → what it writes: every file of ``export`` that has a ``write``."""
    from karui import export

    modules = [importlib.import_module(f"karui.export.{found.name}") for found in pkgutil.iter_modules(export.__path__) if not found.ispkg]
    return {module.__name__.rpartition(".")[2]: _first_line(module) for module in modules if _own(module, "write")}


def networks() -> Names:
    """Name of the zoo → the network: every public function of a file of ``zoo`` that returns a module."""
    from torch import nn

    from karui import zoo

    found: Names = {}
    for item in pkgutil.iter_modules(zoo.__path__):
        module = importlib.import_module(f"karui.zoo.{item.name}")
        for name, value in vars(module).items():
            if (
                inspect.isfunction(value)
                and _own(module, name)
                and inspect.signature(value).return_annotation is nn.Module
                and value.__doc__
            ):
                found[f"zoo:{name}"] = _first_line(value)
    return found


def datasets() -> Names:
    """Name of a data set → where it comes from."""
    from karui import datasets as room

    return dict(room.NAMES) if isinstance(room.NAMES, Mapping) else dict.fromkeys(room.NAMES, "")


KINDS: dict[str, Callable[[], Names]] = {"techniques": techniques, "targets": targets, "networks": networks, "datasets": datasets}


def _own(module: ModuleType, name: str) -> bool:
    return getattr(getattr(module, name, None), "__module__", None) == module.__name__ and not name.startswith("_")


def _first_line(thing: object) -> str:
    """The first sentence of its documentation, as far as a line holds it."""
    paragraph = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return textwrap.shorten(paragraph.partition(". ")[0].rstrip("."), 100, placeholder=" …").replace("``", "")
