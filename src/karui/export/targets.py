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
"""``(program, folder) → artifact``; targets that have kernels for machines take ``machine``, too, and ``onnx`` takes ``opset``."""


def targets() -> dict[str, Write]:
    """Every target by name."""
    found: dict[str, Write] = {}
    for module in iter_modules(export.__path__):
        write = getattr(import_module(f"karui.export.{module.name}"), "write", None)
        if write is not None:
            found[module.name] = write
    return found


def write_all(
    program: Program, names: Sequence[str], folder: Path, *, machine: str | None = None, opset: int | None = None
) -> dict[str, Artifact]:
    """Write the program for each target into ``folder/NAME``, whole or not at all; returns target → artifact.

    machine: of ``machines.MACHINES``, for those targets that have kernels for it; opset: for ``onnx``. Raises RecipeError where none of the
    targets has a use for them.
    """
    known = targets()
    for name in names:
        if name not in known:
            raise RecipeError(f"target '{name}' is unknown; choose from {', '.join(sorted(known))}")
    takes = {name: signature(known[name]).parameters for name in names}
    if machine is not None and not any("machine" in each for each in takes.values()):
        raise RecipeError(
            f"machine '{machine}': target '{', '.join(names)}' is the same for every machine; leave it out, or choose target 'c'"
        )
    if opset is not None and not any("opset" in each for each in takes.values()):
        raise RecipeError(f"opset {opset}: target '{', '.join(names)}' has none; leave it out, or choose target 'onnx'")
    asked = {key: value for key, value in {"machine": machine, "opset": opset}.items() if value is not None}
    written: dict[str, Artifact] = {}
    with alone_in(folder):
        for name in dict.fromkeys(names):
            with replacing_folder(folder / name) as fresh:
                artifact = known[name](program, fresh, **{key: value for key, value in asked.items() if key in takes[name]})
            written[name] = artifact.moved(fresh, folder / name)
    return written
