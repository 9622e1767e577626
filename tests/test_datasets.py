"""Data sets by name: where they are looked for, what a damaged file says, what is downloaded, and how samples are augmented."""

import functools
import gzip
import hashlib
import http.server
import io
import lzma
import socket
import struct
import tarfile
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from karui import datasets
from karui.datasets import augment, fetch, read, sets
from karui.errors import DataError, KaruiError, RunError

SETS = "karui.datasets.sets"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty KARUI_DATA, and no Debian folder and no network besides."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("KARUI_DATA", str(data))
    monkeypatch.setattr(f"{SETS}.DEBIAN", tmp_path / "debian")

    def refuse(*args: object, **settings: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return data


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, train: int = 5010, test: int = 8, suffix: str = ".gz") -> None:
    """A small set in MNIST's files: picture i is filled with i mod 256, its label is i mod 10."""
    folder.mkdir(parents=True, exist_ok=True)
    pack = {".gz": functools.partial(gzip.compress, compresslevel=1), ".xz": functools.partial(lzma.compress, preset=0), "": bytes}[suffix]
    for part, n in (("train", train), ("t10k", test)):
        labels = np.arange(n)
        pictures = np.broadcast_to((labels % 256)[:, None, None], (n, 28, 28))
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(pictures)))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels % 10)))


def refused(*words: str, kind: type[KaruiError] = DataError) -> "pytest.RaisesExc[KaruiError]":
    """Expect one line with all of ``words``."""
    return pytest.raises(kind, check=lambda error: "\n" not in str(error) and all(word in str(error) for word in words))


# ── found ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_bundled_sample_is_real_and_loads_fast(root: Path) -> None:
    start = time.process_time()
    data = datasets.load("fashion-mnist", sample=True)
    assert time.process_time() - start < 4
    assert [len(part) for part in (data.train, data.validation, data.test, data.calibration)] == [9000, 3000, 10000, 512]
    assert data.name == "fashion-mnist (sample)" and len(data.labels) == 10
    # the test part is the whole, untouched test file of the authors
    x, y = data.test.inputs[0].numpy(), data.test.targets.numpy().astype(np.uint8)
    assert hashlib.sha256(idx(x[:, 0])).hexdigest() == fetch.SOURCES["fashion-mnist"].files["t10k-images-idx3-ubyte.gz"]
    assert hashlib.sha256(idx(y)).hexdigest() == fetch.SOURCES["fashion-mnist"].files["t10k-labels-idx1-ubyte.gz"]
    pixels = next(data.train.batches(2000)).inputs[0]
    assert abs(pixels.mean()) < 0.05 and abs(pixels.std() - 1) < 0.05


def test_the_sample_stays_small_and_carries_its_licence() -> None:
    folder = Path(datasets.__file__).parents[1] / "assets" / "fashion-mnist"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10_000_000
    assert "MIT License" in (folder / "LICENSE").read_text()


@pytest.mark.skipif(not sets.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_sample_is_a_part_of_the_whole_set() -> None:
    whole, sample = datasets.load("fashion-mnist"), datasets.load("fashion-mnist:sample")
    assert [len(part) for part in (whole.train, whole.validation, whole.test)] == [55000, 5000, 10000]
    for part, n in (("train", 9000), ("validation", 3000), ("test", 10000)):
        a, b = getattr(whole, part).take(n), getattr(sample, part)
        assert torch.equal(a.inputs[0], b.inputs[0]) and torch.equal(a.targets, b.targets)
    assert torch.equal(whole.example(3)[0], sample.example(3)[0])


def test_without_any_other_copy_fashion_mnist_is_the_sample(root: Path) -> None:
    assert datasets.load("fashion-mnist").name == "fashion-mnist (sample)"


def test_karui_data_comes_before_debian(root: Path, tmp_path: Path) -> None:
    write_idx(tmp_path / "debian", test=3)
    assert len(datasets.load("fashion-mnist").test) == 3
    write_idx(root / "fashion-mnist", test=8)
    data = datasets.load("fashion-mnist")
    assert len(data.test) == 8 and data.name == "fashion-mnist"


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_idx_files_split_at_the_end_of_the_training_file(root: Path, suffix: str) -> None:
    write_idx(root / "mnist", suffix=suffix)
    data = datasets.load("mnist")
    assert [len(part) for part in (data.train, data.validation, data.test, data.calibration)] == [10, 5000, 8, 10]
    first = next(data.validation.batches(1))
    assert first.targets.item() == 0  # row 10
    byte = (first.inputs[0] * 0.3081 + 0.1307) * 255
    assert torch.allclose(byte, torch.full((1, 1, 28, 28), 10.0), atol=1e-3)


def test_augmentation_can_be_left_out(root: Path) -> None:
    write_idx(root / "mnist")
    assert next(datasets.load("mnist", augment=False).train.batches(5, seed=0)).index is not None
    assert next(datasets.load("mnist").train.batches(5, seed=0)).index is None


def write_cifar(folder: Path, *, labels: int = 10) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in sets.CIFAR:
        records = random.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % labels
        (folder / name).write_bytes(records.tobytes())


@pytest.mark.parametrize("folder", ["cifar-10", "cifar-10-batches-bin"])
def test_cifar_10_in_either_folder(root: Path, folder: str) -> None:
    write_cifar(root / folder)
    data = datasets.load("cifar-10")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [90, 10, 20]
    assert "a copy" in data.name  # these are not the original files, and the name says so
    record = np.frombuffer((root / folder / "data_batch_1.bin").read_bytes(), np.uint8)[:3073]
    assert np.array_equal(data.train.inputs[0][0].numpy(), record[1:].reshape(3, 32, 32)) and data.train.targets[0] == record[0]


def test_digits() -> None:
    pytest.importorskip("sklearn")
    data = datasets.load("digits")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1197, 240, 360]
    assert data.example(2)[0].shape == (2, 1, 8, 8)


# ── folders of pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_pictures(folder: Path, classes: dict[str, int], *, size: tuple[int, int] = (20, 12)) -> None:
    image = pytest.importorskip("PIL.Image")
    for i, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            image.new("RGB", size, (100 * i, k, 0)).save(folder / name / f"{k:03}.png")


def test_an_image_folder_without_parts_keeps_every_fifth(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"cat": 13, "dog": 12})
    data = datasets.load(f"imagefolder:{tmp_path}@8")
    assert data.labels == ("cat", "dog")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 5]
    seen = [
        (int(y), int(x[1, 0, 0]))
        for part in (data.train, data.validation, data.test)
        for x, y in zip(part.inputs[0], part.targets, strict=True)
    ]
    assert len(set(seen)) == 25  # no picture is in two parts
    assert data.example(2)[0].shape == (2, 3, 8, 8)


def test_an_image_folder_with_parts(tmp_path: Path) -> None:
    for part, counts in (("train", (4, 3)), ("val", (2, 2)), ("test", (1, 1))):
        write_pictures(tmp_path / part, dict(zip(("cat", "dog"), counts, strict=True)))
    data = datasets.load(f"imagefolder:{tmp_path}", size=16)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [7, 4, 2]
    assert data.test.targets.tolist() == [0, 1] and data.test.inputs[0][1, 0].unique().tolist() == [100]


def test_a_picture_is_cut_out_of_the_middle(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    array = np.zeros((8, 20, 3), np.uint8)
    array[:, 6:14] = 255
    image.fromarray(array).save(tmp_path / "wide.png")
    assert read.read_picture(tmp_path / "wide.png", 8).min() == 255
    smaller = read.read_picture(tmp_path / "wide.png", 4, resize=8)
    assert smaller.shape == (3, 4, 4) and smaller.min() == 255


def test_broken_image_folders(tmp_path: Path) -> None:
    with refused("not a folder"):
        datasets.load(f"imagefolder:{tmp_path / 'none'}")
    write_pictures(tmp_path, {"cat": 6})
    with refused("1 folders", "two classes"):
        datasets.load(f"imagefolder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    with refused("'dog' has no picture"):
        datasets.load(f"imagefolder:{tmp_path}")
    (tmp_path / "dog" / "0.jpg").write_bytes(b"not a picture")
    with refused("0.jpg", "not a whole picture"):
        datasets.load(f"imagefolder:{tmp_path}")


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with refused("cut.png"):
        read.read_picture(tmp_path / "cut.png", 8)


# ── damaged files ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
@pytest.mark.parametrize("keep", [0, 3, 9, 60, -1])
def test_a_truncated_idx_file_is_named(tmp_path: Path, suffix: str, keep: int) -> None:
    write_idx(tmp_path, train=9, suffix=suffix)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(path.read_bytes()[:keep])
    with refused(path.name, "again"):
        read.read_idx(path)


def test_bytes_that_are_no_idx_file(tmp_path: Path) -> None:
    for name, content, word in (
        ("a", b"\x00\x00\x0d\x03" + bytes(40), "not an idx file"),  # floats
        ("b.gz", b"hello, this is no archive", "damaged"),
        ("c", idx(np.zeros((3, 2))) + b"more", "more bytes"),
        ("d", struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "damaged"),  # would need 10²⁸ bytes
    ):
        (tmp_path / name).write_bytes(content)
        with refused(name, word):
            read.read_idx(tmp_path / name)
    with refused("absent"):
        read.read_idx(tmp_path / "absent")


def test_an_archive_is_not_unpacked_beyond_its_header(tmp_path: Path) -> None:
    bomb = idx(np.zeros((1, 1))) + bytes(1 << 28)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bomb, 1))
    with refused("bomb.gz", "more bytes"):
        read.read_idx(tmp_path / "bomb.gz")


def test_labels_out_of_range_and_unequal_counts(root: Path) -> None:
    write_idx(root / "mnist")
    path = root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.array([0, 1, 2, 11, 4, 5, 6, 7]))))
    with refused("t10k-labels", "sample 3", "label 11"):
        datasets.load("mnist")
    path.write_bytes(gzip.compress(idx(np.zeros(7))))
    with refused("8 pictures", "7 labels"):
        datasets.load("mnist")


def test_a_short_training_file_and_a_half_copied_set(root: Path) -> None:
    write_idx(root / "mnist", train=100)
    with refused("100 pictures", "5000"):
        datasets.load("mnist")
    (root / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with refused("lacks train-labels-idx1-ubyte"):
        datasets.load("mnist")


def test_truncated_cifar_and_foreign_labels(root: Path) -> None:
    write_cifar(root / "cifar-10", labels=11)
    with refused("data_batch_1.bin", "sample 10", "label 10"):
        datasets.load("cifar-10")
    path = root / "cifar-10" / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with refused("data_batch_1.bin", "truncated"):
        datasets.load("cifar-10")


def test_unknown_names_and_missing_sets_say_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("'imagenet' is unknown", "fashion-mnist", "karui.Data.of"):
        datasets.load("imagenet")
    with refused("no bundled sample"):
        datasets.load("mnist", sample=True)
    for name, file in (("mnist", "train-images"), ("cifar-10", "data_batch_1.bin")):
        with refused("not on this machine", file, f"KARUI_DATA/{name}", "no network in tests"):
            datasets.load(name)
        assert not list(root.rglob("*.gz")) and not list(root.rglob(".*"))  # nothing half-written is left
    monkeypatch.setenv("KARUI_DATA", str(root / "nowhere"))
    with refused("KARUI_DATA", "nowhere"):
        datasets.load("mnist")


# ── downloads ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder on a local web server, and its address."""
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


# ── augmentation ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pad_crop_flip_moves_and_mirrors_whole_pictures() -> None:
    x = torch.arange(1, 1 + 2 * 5 * 6, dtype=torch.uint8).reshape(1, 2, 5, 6).expand(200, -1, -1, -1)
    y = augment.pad_crop_flip(x, generator(0), padding=2)
    assert y.dtype is torch.uint8 and y.shape == x.shape
    padded = torch.nn.functional.pad(x[0], (2, 2, 2, 2))
    allowed = {tuple(view[:, i : i + 5, j : j + 6].flatten().tolist()) for i in range(5) for j in range(5) for view in (padded,)}
    allowed |= {tuple(torch.tensor(each).reshape(2, 5, 6).flip(2).flatten().tolist()) for each in allowed}
    seen = {tuple(each.flatten().tolist()) for each in y}
    assert seen <= allowed and len(seen) > 30  # of 50
    assert torch.equal(y, augment.pad_crop_flip(x, generator(0), padding=2))
    assert not torch.equal(y, augment.pad_crop_flip(x, generator(1), padding=2))


def test_flip_can_be_left_out_and_zero_padding_keeps_the_place() -> None:
    x = torch.rand(50, 1, 4, 4)
    assert torch.equal(augment.pad_crop_flip(x, generator(0), padding=0, flip=False), x)
    flipped = augment.pad_crop_flip(x, generator(0), padding=0)
    same = (flipped == x).flatten(1).all(1)
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all()) and 10 < int(mirrored.sum()) < 40


def test_jitter_keeps_shape_and_is_repeatable() -> None:
    x = torch.randn(64, 6, 128)
    y = augment.jitter(x, generator(0))
    assert y.shape == x.shape and torch.equal(y, augment.jitter(x, generator(0)))
    still = augment.jitter(x, generator(0), shift=0, stretch=0.0, noise=0.0)
    assert torch.equal(still, x)
    moved = augment.jitter(x, generator(0), shift=3, stretch=0.0, noise=0.0)
    assert all(any(torch.equal(a[:, 3:-3], torch.roll(b, s, 1)[:, 3:-3]) for s in range(-3, 4)) for a, b in zip(moved, x, strict=True))
