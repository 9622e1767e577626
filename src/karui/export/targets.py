"""The targets: each file of this room that has ``write(program, folder)`` is one, under its own name."""

from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules

from karui import export
from karui.errors import RecipeError
from karui.export.artifact import Artifact
from karui.program.program import Program
from karui.workspace import alone_in, replacing_folder

Write = Callable[..., Artifact]
"""``(program, folder) → artifact``; targets that have kernels for machines take ``machine``, too."""


def targets() -> dict[str, Write]:
    """Every target by name."""
    found: dict[str, Write] = {}
    for module in iter_modules(export.__path__):
        write = getattr(import_module(f"karui.export.{module.name}"), "write", None)
        if write is not None:
            found[module.name] = write
    return found


def write_all(program: Program, names: Sequence[str], folder: Path, *, machine: str | None = None) -> dict[str, Artifact]:
    """Write the program for each target into ``folder/NAME``, whole or not at all; returns target → artifact.

    machine: of ``machines.MACHINES``, for those targets that have kernels for it. Raises RecipeError where none of them has.
    """
    known = targets()
    for name in names:
        if name not in known:
            raise RecipeError(f"target '{name}' is unknown; choose from {', '.join(sorted(known))}")
    fast = [name for name in names if "machine" in signature(known[name]).parameters]
    if machine is not None and not fast:
        raise RecipeError(
            f"machine '{machine}': target '{', '.join(names)}' is the same for every machine; leave it out, or choose target 'c'"
        )
    written: dict[str, Artifact] = {}
    with alone_in(folder):
        for name in dict.fromkeys(names):
            with replacing_folder(folder / name) as fresh:
                artifact = known[name](program, fresh, **({"machine": machine} if machine and name in fast else {}))
            written[name] = artifact.moved(fresh, folder / name)
    return written
