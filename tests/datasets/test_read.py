"""A damaged file is named in one line, and never unpacked beyond its header."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from karui.datasets import read
from tests.datasets.files import idx, refused, write_idx


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


def test_a_picture_is_cut_out_of_the_middle(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    array = np.zeros((8, 20, 3), np.uint8)
    array[:, 6:14] = 255
    image.fromarray(array).save(tmp_path / "wide.png")
    assert read.read_picture(tmp_path / "wide.png", 8).min() == 255
    smaller = read.read_picture(tmp_path / "wide.png", 4, resize=8)
    assert smaller.shape == (3, 4, 4) and smaller.min() == 255


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with refused("cut.png"):
        read.read_picture(tmp_path / "cut.png", 8)
