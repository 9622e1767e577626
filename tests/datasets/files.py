"""Small files of data sets, and what a refusal looks like."""

import functools
import gzip
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest

from karui.datasets import sets
from karui.errors import DataError, KaruiError


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


def write_cifar(folder: Path, *, labels: int = 10) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in sets.CIFAR:
        records = random.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % labels
        (folder / name).write_bytes(records.tobytes())


def write_pictures(folder: Path, classes: dict[str, int], *, size: tuple[int, int] = (20, 12)) -> None:
    image = pytest.importorskip("PIL.Image")
    for i, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            image.new("RGB", size, (100 * i, k, 0)).save(folder / name / f"{k:03}.png")
