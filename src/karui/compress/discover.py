"""Techniques by name: a file's path under ``compress`` is the name of the technique in it; nothing is registered.

``prune/weights.py`` holds ``prune.weights``.
"""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from karui.compress.technique import Technique

ROOM = "karui.compress."


def techniques() -> dict[str, type[Technique]]:
    """Every technique that comes with karui: its name → its class, sorted by name."""
    files = pkgutil.walk_packages([str(Path(__file__).parent)], ROOM)
    modules = [importlib.import_module(each.name) for each in files if not each.ispkg]
    found = {module.__name__.removeprefix(ROOM): technique_in(module) for module in modules}
    return {name: cls for name, cls in sorted(found.items()) if cls is not None}


def technique_in(module: ModuleType) -> type[Technique] | None:
    """The technique that a file defines, if it does."""
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Technique) and value is not Technique and value.__module__ == module.__name__:
            return value
    return None
