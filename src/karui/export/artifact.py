"""Artifact: what an exporter left behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder made from a Program for one target.

    target: "c", "device", "onnx" …   folder: where it lies.   files: all of it.   main: the file that is the model.
    program: the Program's name.   facts: what else one may want to know, as JSON values (the arena's bytes, for C).
    """

    target: str
    folder: Path
    files: tuple[Path, ...]
    main: Path
    program: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def moved(self, old: Path, new: Path) -> "Artifact":
        """The same artifact after its folder was renamed."""
        folder, main, *files = (new / path.relative_to(old) for path in (self.folder, self.main, *self.files))
        return replace(self, folder=folder, main=main, files=tuple(files))
