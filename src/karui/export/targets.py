"""The targets: each file of this room that has ``write(program, folder)`` is one, under its own name."""

from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from karui import export
from karui.errors import RecipeError
from karui.export.artifact import Artifact
from karui.export.ceilings import Table
from karui.program.program import Program
from karui.workspace import alone_in, replacing_folder

Write = Callable[..., Artifact]
"""``(program, folder) → artifact``; C takes ``machine`` and ``weights``, too, and ``onnx`` takes ``opset``."""


def targets() -> dict[str, Write]:
    """Every target by name."""
    found: dict[str, Write] = {}
    for module in iter_modules(export.__path__):
        write = getattr(import_module(f"karui.export.{module.name}"), "write", None)
        if write is not None:
            found[module.name] = write
    return found


USELESS = {
    "machine": "target '{targets}' is the same for every machine; leave it out, or choose target 'c'",
    "weights": "target '{targets}' has one form of weights; leave it out, or choose target 'c'",
    "keep_forms": "target '{targets}' keeps every form; leave it out, or choose target 'c'",
    "opset": "target '{targets}' has none; leave it out, or choose target 'onnx'",
}


def write_all(
    program: Program,
    names: Sequence[str],
    folder: Path,
    *,
    machine: str | None = None,
    weights: str | None = None,
    opset: int | None = None,
    table: Table | None = None,
    keep_forms: bool | None = None,
) -> dict[str, Artifact]:
    """Write the program for each target into ``folder/NAME``, whole or not at all; returns target → artifact.

    machine: of ``machines.MACHINES``, and weights: "array" or "incbin", for those targets that have a use for them; opset: for ``onnx``.
    table: the machine's, by which C's kernels are chosen; keep_forms: weights of C stay as they are even where int8 would be faster.
    Raises RecipeError where none of the targets has one.
    """
    known = targets()
    for name in names:
        if name not in known:
            raise RecipeError(f"target '{name}' is unknown; choose from {', '.join(sorted(known))}")
    takes = {name: signature(known[name]).parameters for name in names}
    given = {"machine": machine, "weights": weights, "opset": opset, "keep_forms": keep_forms}
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for key, value in asked.items():
        if not any(key in each for each in takes.values()):
            what = f"{key} {value}" if isinstance(value, int) else f"{key} '{value}'"
            raise RecipeError(f"{what}: {USELESS[key].format(targets=', '.join(names))}")
    if table is not None:
        asked["table"] = table
    written: dict[str, Artifact] = {}
    with alone_in(folder):
        for name in dict.fromkeys(names):
            with replacing_folder(folder / name) as fresh:
                artifact = known[name](program, fresh, **{key: value for key, value in asked.items() if key in takes[name]})
            written[name] = artifact.moved(fresh, folder / name)
    return written
