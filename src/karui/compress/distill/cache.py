"""Soft targets on the disk: what a teacher said is asked for once, however many students, trials and resumed runs learn from it.

A folder belongs to one teacher and one data set; files in it hold some batches' answers each, in float16, and are written whole or not at
all. Whoever asks gets the rounded answer the first time too, so that a resumed run sees the same numbers. A full folder, or a full disk,
ends the writing, not the training.
"""

import hashlib
import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from karui.compress.distill.teachers import Answers
from karui.data import Part
from karui.errors import FileError, RecipeError, RunError
from karui.workspace import Run, load_arrays, save_arrays

BATCHES = 64  # answers to that many batches make a file: what a kill loses at most
LARGEST = 65504.0  # of float16
PATTERN = "soft-targets-*.safetensors"


class SoftTargets:
    """The answers of one teacher to one part of data. limit: bytes of the folder, at most. note: where a person is told."""

    def __init__(self, run: Run, limit: int, note: Callable[[str], None]) -> None:
        self.folder, self.limit, self.note = run.directory, limit, note
        self.places: dict[bytes, tuple[Path, int]] = {}
        self.pending: dict[bytes, Answers] = {}
        self.open: tuple[Path, list[Answers]] | None = None
        self.writing = True
        for path in sorted(self.folder.glob(PATTERN)):
            self._enter(path, load_arrays(path)[0])
        self.bytes = sum(path.stat().st_size for path in {path for path, _ in self.places.values()})

    def get(self, key: bytes) -> Answers | None:
        """What the teacher said to the batch of this key, in float32; None where nobody asked yet."""
        found = self.pending.get(key)
        if found is None and key in self.places:
            path, place = self.places[key]
            found = self._read(path)[place]
        return None if found is None else tuple(y.float() for y in found)

    def put(self, key: bytes, answers: Answers) -> Answers:
        """Keep answers; returns them as ``get`` will. Raises RecipeError where float16 can't hold them."""
        most = max(float(y.abs().max()) for y in answers)
        if not most <= LARGEST:
            raise RecipeError(f"distill: the teacher answers up to {most:.3g}, which float16 can't hold; leave cache out")
        short = tuple(y.cpu().half() for y in answers)
        if self.writing:
            self.pending[key] = short
            if len(self.pending) >= BATCHES:
                self.flush()
        return tuple(y.float() for y in short)

    def flush(self) -> None:
        """Write what is pending; where that fails, or there is no room, say so once, and go on without."""
        if not self.pending or not self.writing:
            return
        keys, answers = list(self.pending), list(self.pending.values())
        arrays: dict[str, Any] = {"keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)}
        arrays["rows"] = np.array([len(each[0]) for each in answers], np.int64)
        arrays |= {f"output_{i}": torch.cat(each).numpy() for i, each in enumerate(zip(*answers, strict=True))}
        size = sum(array.nbytes for array in arrays.values())
        path = self.folder / f"soft-targets-{hashlib.sha256(arrays['keys'].tobytes()).hexdigest()[:16]}.safetensors"
        try:
            if self.bytes + size > self.limit:
                raise RunError(f"it has {self.bytes:,} of {self.limit:,} bytes; raise cache_bytes to keep more")
            save_arrays(path, arrays)
        except RunError as error:
            self.writing = False
            self.note(f"distill: the cache '{self.folder}' takes no more, and the teacher is asked each time: {error}")
        else:
            self.bytes += path.stat().st_size
            self._enter(path, arrays)
        self.pending = {}

    def _enter(self, path: Path, arrays: dict[str, Any]) -> None:
        if arrays.keys() < {"keys", "rows", "output_0"} or sum(arrays["rows"]) != len(arrays["output_0"]):
            raise FileError(f"'{path}' is damaged or no file of soft targets; delete it and run again")
        self.places |= {key.tobytes(): (path, place) for place, key in enumerate(arrays["keys"])}

    def _read(self, path: Path) -> list[Answers]:
        """A file's answers, batch by batch; the last file that was read is at hand: a training asks in the order of writing."""
        if self.open is None or self.open[0] != path:
            arrays, _ = load_arrays(path)
            rows = arrays["rows"].tolist()
            outputs = [torch.from_numpy(arrays[f"output_{i}"]).split(rows) for i in range(len(arrays) - 2)]
            self.open = path, list(zip(*outputs, strict=True))
        return self.open[1]


def soft_targets(
    folder: str | PathLike[str], *, teacher: str, part: Part, answers: Answers, limit: int, note: Callable[[str], None]
) -> SoftTargets:
    """Open the folder, or make it. teacher: a hash of it. answers: to any samples, for their shapes.

    Raises RunError: the folder belongs to another teacher or other data, or holds something else.
    """
    shapes = [list(y.shape[1:]) for y in answers]
    config = {"soft targets": {"teacher": teacher, "data": part.fingerprint().hex()[:16], "samples": len(part), "outputs": shapes}}
    try:
        return SoftTargets(Run.create(folder, json.loads(json.dumps(config))), limit, note)
    except RunError as error:
        raise RunError(f"distill: cache: {error}") from error


def key_of(index: Tensor, drawn: int | None) -> bytes:
    """A batch's key: which samples, in which order, augmented with which seed."""
    return hashlib.sha256(f"{drawn} ".encode() + index.cpu().numpy().tobytes()).digest()[:16]
