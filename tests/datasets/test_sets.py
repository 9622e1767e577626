"""Data sets by name: where they are looked for, how they are cut, what is said of one that is broken."""

import gzip
import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from karui import datasets
from karui.datasets import fetch, sets
from tests.datasets.files import idx, refused, write_cifar, write_idx, write_pictures


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
    assert next(datasets.load("mnist", augment=False).train.batches(5, seed=0)).drawn is None
    assert next(datasets.load("mnist").train.batches(5, seed=0)).drawn is not None


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
