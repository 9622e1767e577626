"""The runners: each file of this room with ``TARGET``, ``MEASURES`` and ``load(artifact)`` runs what that target writes.

``MEASURES``: which of a budget's limits it can tell.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol

from karui import run
from karui.errors import RecipeError
from karui.export.artifact import Artifact
from karui.program.program import Array


class Runner(Protocol):
    """An artefact that is ready to run."""

    @property
    def runs_on(self) -> str:
        """What runs it, for tables: "c", "onnxruntime" …"""

    @property
    def exact(self) -> bool:
        """Integers are the interpreter's bit for bit; False where the runtime rounds its own way."""

    @property
    def bytes(self) -> int:
        """What it takes on the device: text and read-only data of compiled code, or the file."""

    @property
    def peak_ram(self) -> int | None:
        """Bytes of working memory; None where the runtime doesn't tell."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs ``[N, *shape]`` of N samples ``[N, *shape]``, both as the Program has them; each sample by itself."""

    def call(self, inputs: Sequence[Array]) -> Callable[[], object]:
        """A function that runs the first sample again and again: what one measures."""


Load = Callable[[Artifact], Runner]


def runners() -> dict[str, Load]:
    """Target → what opens its artefacts. Raises ToolError, when called, where the compiler or the runtime is missing."""
    return {target: module.load for target, module in _modules().items()}


def runner(target: str) -> Load:
    """What opens a target's artefacts. Raises RecipeError for a target that nothing here runs."""
    return _module(target).load


def require_measurable(target: str, limits: Sequence[str]) -> None:
    """Raise RecipeError for a target that nothing here runs, or a limit that its runner can't tell: it could never be kept."""
    module = _module(target)
    if blind := [limit for limit in limits if limit not in module.MEASURES]:
        raise RecipeError(f"budget: target '{target}' doesn't tell its {blind[0]}; leave that limit out, or choose another target")


def _modules() -> dict[str, Any]:
    modules = (import_module(f"karui.run.{file.name}") for file in iter_modules(run.__path__))
    return {module.TARGET: module for module in modules if hasattr(module, "TARGET")}


def _module(target: str) -> Any:
    known = _modules()
    if target not in known:
        raise RecipeError(f"budget: target '{target}' can't be measured here; choose one of {', '.join(sorted(known))}")
    return known[target]
