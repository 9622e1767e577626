"""A run's directory: files that are there whole or not at all, one process at a time, and the facts of the run.

Every file that karui leaves behind goes through ``atomic_write`` or ``replacing``: it is written beside its place under a temporary name,
flushed to the disk and renamed, so a ``kill -9`` or a full disk leaves the old file or the new one, never a part of one. Temporary files
that a killed process left are swept away when the run is next locked.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from karui.errors import FileError, RunError

Content = bytes | str | Iterable[bytes | str]
"""Of a file: all of it, or piece by piece."""

CONFIG = "karui-run.json"
LOCK = ".lock"
FORMAT = 1
TEMPORARY = ".karui-tmp"


def _failed(path: Path, error: OSError) -> RunError:
    """The one-line message for a write that the system refused."""
    cures = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
        errno.EACCES: "permission is refused; choose a directory that you may write to",
        errno.EROFS: "the file system is read-only; choose another directory",
        errno.ENOTDIR: "a part of the path is a file, not a directory; choose another path",
        errno.EEXIST: "a part of the path is a file, not a directory; choose another path",
        errno.EISDIR: "a directory of that name is in the way; choose another path",
    }
    reason = cures.get(error.errno or 0, f"{error.strerror or error}; check the path and run the same command again")
    return RunError(f"can't write '{path}': {reason}")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")


def _remove(path: Path) -> None:
    """Clean up as far as the system lets us: whatever went wrong before is the news, not this."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written, at any depth; only safe while nobody else writes there."""
    for leftover in [*folder.rglob(f".*{TEMPORARY}")]:
        _remove(leftover)


def _flush(path: Path) -> None:
    """Ask the system to put a file's content, or a directory's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same directory; what was written there takes ``path``'s place when the block ends well.

    The parent directory is made if it lacks. When the block raises, the temporary file is removed and ``path`` is as it was.
    Raises RunError when the system refuses the write (a full disk, no permission).
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        _remove(temporary)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As ``replacing``, for a whole folder: the block fills an empty folder, which then takes the place of the one at ``path``.

    A kill between the two renames leaves no folder at ``path`` (never a mixed one); doing the same again puts it there.
    """
    path = Path(path)
    fresh, old = _temporary(path), _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        yield fresh
        for file in fresh.rglob("*"):
            _flush(file)
        if path.exists():
            os.replace(path, old)
        os.replace(fresh, path)
        _flush(path.parent)
    except OSError as error:
        raise _failed(path, error) from error
    except RunError as error:  # the user knows the folder by its own name only
        if isinstance(error.__cause__, OSError):
            raise _failed(path, error.__cause__) from error.__cause__
        raise
    finally:
        _remove(fresh)
        _remove(old)


@contextlib.contextmanager
def alone_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Be the only one who writes into a folder (others wait), and sweep away first what a killed process left there.

    The folder is made if it lacks, and taken away again if the block raises and leaves it empty. Raises RunError.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _failed(folder, error) from error
    try:
        with contextlib.suppress(OSError):  # some network file systems can't lock folders: then nothing is swept
            fcntl.flock(handle, fcntl.LOCK_EX)
            _sweep(folder)
        yield
    except BaseException:
        if made:
            _remove_empty(folder)
        raise
    finally:
        os.close(handle)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it holds something
        folder.rmdir()


def atomic_write(path: str | os.PathLike[str], content: Content) -> None:
    """Write a whole file, or none of it, all at once or in pieces; text is written as UTF-8.

    Raises RunError when the disk is full or the path refused.
    """
    with replacing(path) as temporary:
        if isinstance(content, bytes | str):
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            return
        with temporary.open("wb") as file:
            file.writelines(piece.encode() if isinstance(piece, str) else piece for piece in content)


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays and text facts as one safetensors file, atomically."""
    ready = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    atomic_write(path, safetensors.numpy.save(ready, metadata=dict(metadata or {})))


def load_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read what ``save_arrays`` wrote: (arrays, metadata). Raises FileError for a missing, truncated or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"'{path}' is missing; it should be a safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise FileError(f"'{path}' is damaged or not a safetensors file ({error}); delete it and run again") from error


def _encode(value: Any, what: str, *, sort: bool = False) -> str:
    try:
        return json.dumps(value, indent=1, sort_keys=sort, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise RunError(f"{what} can't be written as JSON: {error}; use finite numbers, text, lists and dicts only") from error


def _decode(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileError(f"'{path}' is missing; run the command that writes it first") from error
    except (OSError, ValueError) as error:
        raise FileError(f"'{path}' is damaged or not JSON ({error}); delete it and run again") from error


def config_hash(config: Mapping[str, Any]) -> str:
    """A hash of a configuration that doesn't depend on the order of its keys: 16 hex digits."""
    return hashlib.sha256(_encode(dict(config), "the run's configuration", sort=True).encode()).hexdigest()[:16]


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first place where two configurations differ, as ``key.path: old → new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(k for k in sorted(old | new) if k not in old or k not in new or old[k] != new[k])
        return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    return f"{path or 'config'}: {json.dumps(old)[:60]} there, {json.dumps(new)[:60]} now"


class Run:
    """A directory that belongs to one run. Make one with ``Run.create`` (new, or going on) or ``Run.open`` (to read).

    path: the directory. config: what the run was started with (JSON values).
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.directory = path
        self.config = config

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> Self:
        """Start a run at ``path``, or go on with the one that is there if it has the same ``config``.

        Raises RunError if the directory holds other files, or a run that was started with another configuration (naming where).
        """
        path = Path(path)
        plain = json.loads(_encode(dict(config), "the run's configuration"))  # tuples become lists, as they will be when read back
        marker = path / CONFIG
        if marker.exists():
            run = cls.open(path)
            run._require(plain)
            return run
        if path.exists() and not path.is_dir():
            raise RunError(f"'{path}' is a file; a run needs a directory: choose another path")
        if path.exists() and any(not f.name.endswith(TEMPORARY) and f.name != LOCK for f in path.iterdir()):
            raise RunError(f"'{path}' holds files but is not a karui run; choose an empty or a new directory")
        made = not path.exists()
        try:
            atomic_write(marker, _encode({"format": FORMAT, "hash": config_hash(plain), "config": plain}, "the run's configuration"))
        except BaseException:
            if made:
                _remove_empty(path)
            raise
        return cls(path, plain)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a run that is there. Raises RunError if ``path`` is none, FileError if its marker is damaged."""
        path = Path(path)
        if not (path / CONFIG).is_file():
            raise RunError(f"'{path}' is not a karui run (it has no {CONFIG}); give the directory that was named with -o")
        marker = _decode(path / CONFIG)
        if not isinstance(marker, dict) or not isinstance(marker.get("config"), dict):
            raise FileError(f"'{path / CONFIG}' is damaged: it lacks 'config'; start again in a new directory")
        if marker.get("format") != FORMAT:
            raise RunError(f"'{path}' is a run of format {marker.get('format')}, this karui reads {FORMAT}; start again in a new directory")
        return cls(path, marker["config"])

    def _require(self, config: Mapping[str, Any]) -> None:
        if config_hash(config) != config_hash(self.config):
            where = _difference(self.config, dict(config))
            raise RunError(f"'{self.directory}' belongs to a run with other settings ({where}); choose another directory, or delete it")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the system frees it when the process ends, however it ends. Raises RunError if it is held."""
        path = self.directory / LOCK
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise _failed(path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise RunError(f"'{self.directory}' is in use by process {owner}; wait for it, or end it, then run again") from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self.open(self.directory)._require(self.config)  # another process may have made the run between create and lock
            _sweep(self.directory)
            yield

    def path(self, *names: str) -> Path:
        """A place inside the run; the directories on the way are made."""
        place = self.directory.joinpath(*names)
        if not place.resolve().is_relative_to(self.directory.resolve()):
            raise RunError(f"'{'/'.join(names)}' lies outside of the run '{self.directory}'; use a name without '..'")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def json(self, name: str) -> Any:
        """Read ``name`` (a path inside the run). Raises FileError if it is missing or damaged."""
        return _decode(self.path(name))

    def write_json(self, name: str, value: Any) -> None:
        """Write ``name`` atomically; dicts keep their order. Raises RunError for values that JSON hasn't (NaN, too)."""
        atomic_write(self.path(name), _encode(value, f"'{name}'"))
