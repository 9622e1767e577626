"""Downloads from the official addresses; a file is in its place only when its SHA-256 is the known one."""

import gzip
import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from karui.errors import DataError
from karui.workspace import replacing


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a set is kept. files: name → SHA-256 of the *unpacked* content for ``.gz`` files, of the file itself for archives."""

    address: str
    files: Mapping[str, str]
    limit: int


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "fashion-mnist": Source(
            address="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            limit=2**26,
            files={
                "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            },
        ),
        "mnist": Source(
            address="https://ossci-datasets.s3.amazonaws.com/mnist",  # the authors' own site no longer hands the files out
            limit=2**26,
            files={
                "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            },
        ),
        "cifar-10": Source(
            address="https://www.cs.toronto.edu/~kriz",
            limit=2**28,
            files={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        ),
    }
)


def cache() -> Path:
    """Where downloads go: ``$KARUI_DATA`` where it is set, else the user's cache folder."""
    if root := os.environ.get("KARUI_DATA"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "karui"


def download(name: str, folder: Path | None = None, *, quiet: bool = False) -> Path:
    """Fetch the set ``name`` into ``folder`` (default: ``cache()/name``) and return that folder.

    Raises DataError: an unknown name, no connection, or other content than expected; RunError: the folder can't be written.
    """
    if name not in SOURCES:
        raise DataError(f"'{name}' can't be downloaded; choose one of {', '.join(SOURCES)}")
    folder = cache() / name if folder is None else folder
    fetch(SOURCES[name], name, folder, quiet=quiet)
    return folder


def fetch(source: Source, name: str, folder: Path, *, quiet: bool = False) -> None:
    """Put the files of ``source`` into ``folder``, each whole and checked, or not at all; archives are unpacked."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        for file, digest in source.files.items():
            place = folder / file
            with replacing(place) as temporary:
                _fetch(f"{source.address}/{file}", temporary, source.limit, progress, name)
                _check(temporary, file, digest)
            if file.endswith(".tar.gz"):
                _unpack(place, folder)


def _fetch(address: str, place: Path, limit: int, progress: Progress, name: str) -> None:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 (the address is https, or checked by its content)
            length = answer.headers.get("Content-Length", "")
            task = progress.add_task(address.rsplit("/", 1)[-1], total=int(length) if length.isdigit() else None)
            with place.open("wb") as file:
                while piece := answer.read(1 << 18):
                    file.write(piece)
                    progress.advance(task, len(piece))
                    if file.tell() > limit:
                        raise DataError(f"{address} is larger than {limit >> 20} MiB; that is not the file of '{name}'")
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        raise DataError(f"{name}: {address} can't be downloaded ({reason}); put the files into $KARUI_DATA/{name} yourself") from error


def _check(path: Path, name: str, expected: str) -> None:
    total = hashlib.sha256()
    try:
        with gzip.open(path, "rb") if name.endswith("-ubyte.gz") else path.open("rb") as file:
            while piece := file.read(1 << 20):
                total.update(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: what was downloaded is damaged or truncated ({error}); try again") from error
    if total.hexdigest() != expected:
        raise DataError(f"{name}: what was downloaded has SHA-256 {total.hexdigest()[:12]}…, expected {expected[:12]}…; try again")


def _unpack(archive: Path, folder: Path) -> None:
    """Put an archive's ``.bin`` and ``.txt`` files beside it, whatever folders it names, and delete it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if member.isreg() and name.endswith((".bin", ".txt")) else None
            if content is not None:
                with replacing(folder / name) as temporary:
                    temporary.write_bytes(content.read())
    archive.unlink()
