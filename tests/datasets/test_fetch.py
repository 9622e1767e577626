"""Downloads from a server on this machine: checked by their content, whole or not there."""

import functools
import gzip
import hashlib
import http.server
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from karui import datasets
from karui.datasets import fetch, read
from karui.errors import RunError
from tests.datasets.files import idx, refused


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder on a local web server, and its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


CONTENT = idx(np.arange(30).reshape(5, 2, 3))
NAME = "x-ubyte.gz"


def source(address: str, **change: object) -> fetch.Source:
    settings = {"address": address, "files": {NAME: hashlib.sha256(CONTENT).hexdigest()}, "limit": 2**20}
    return fetch.Source(**{**settings, **change})


def test_a_download_is_checked_by_its_content(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    (folder / NAME).write_bytes(gzip.compress(CONTENT, mtime=5))  # another header than the authors': the content counts
    fetch.fetch(source(address), "x", tmp_path / "got")
    assert np.array_equal(read.read_idx(tmp_path / "got" / NAME).flatten(), np.arange(30))
    assert [each.name for each in (tmp_path / "got").iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(CONTENT[:-1] + b"!"), ("SHA-256", "again")),
        (gzip.compress(CONTENT)[:-9], ("truncated",)),
        (b"<html>not found</html>", ("damaged",)),
        (bytes(2**20 + 1), ("larger than 1 MiB",)),
        (None, ("404", "KARUI_DATA")),
    ],
    ids=["other content", "cut short", "a page", "too large", "absent"],  # a packed file holds the time: no name for a test
)
def test_a_bad_download_leaves_nothing(server: tuple[Path, str], tmp_path: Path, content: bytes | None, words: tuple[str, ...]) -> None:
    folder, address = server
    if content is not None:
        (folder / NAME).write_bytes(content)
    with refused(*words):
        fetch.fetch(source(address), "x", tmp_path / "got", quiet=True)
    assert not list((tmp_path / "got").iterdir())


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with refused("can't be downloaded", "KARUI_DATA/x"):
        fetch.fetch(source(f"http://127.0.0.1:{port}"), "x", tmp_path / "got", quiet=True)


def test_an_archive_is_unpacked_flat_and_nowhere_else(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in (("deep/data.bin", b"1234"), ("../../evil.bin", b"out"), ("readme.html", b"no")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (folder / "a.tar.gz").write_bytes(packed.getvalue())
    files = {"a.tar.gz": hashlib.sha256(packed.getvalue()).hexdigest()}
    fetch.fetch(source(address, files=files), "a", tmp_path / "one" / "two", quiet=True)
    assert sorted(each.name for each in tmp_path.rglob("*.*") if each.is_file() and "served" not in each.parts) == ["data.bin", "evil.bin"]
    assert {each.name for each in (tmp_path / "one" / "two").iterdir()} == {"data.bin", "evil.bin"}


def test_a_place_that_can_not_be_written(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    (folder / NAME).write_bytes(gzip.compress(CONTENT))
    (tmp_path / "got" / NAME).mkdir(parents=True)
    with refused("can't write", kind=RunError):
        fetch.fetch(source(address), "x", tmp_path / "got", quiet=True)


def test_downloads_by_name(root: Path) -> None:
    with refused("'digits' can't be downloaded", "mnist"):
        datasets.download("digits")
    with refused("no network in tests"):
        datasets.download("fashion-mnist", quiet=True)
