"""Data sets by name.

A set is looked for in ``$KARUI_DATA/NAME``, where Debian's package puts it, among earlier downloads, in karui itself (a sample of
Fashion-MNIST), and at last at its official address. A validation part is always cut off from the training file: what results are told
on (``test``) never chooses anything.
"""

import functools
import hashlib
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from karui.data import ArrayPart, Augment, Data
from karui.datasets.augment import pad_crop_flip
from karui.datasets.fetch import cache, download
from karui.datasets.read import list_folder, read_cifar, read_pair, read_picture
from karui.errors import DataError, ToolError
from karui.pixels import Pixels

NAMES = ("fashion-mnist", "mnist", "cifar-10", "digits", "imagefolder")

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_TEST = "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"  # SHA-256 of the original test_batch.bin
CALIBRATION = 512

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


def load(name: str, *, sample: bool = False, size: int = 96, augment: bool = True) -> Data:
    """The data set ``name``, one of ``NAMES``; a folder of pictures is ``imagefolder:DIR`` or ``imagefolder:DIR@SIZE``.

    sample: only the bundled part of Fashion-MNIST (9,000 + 3,000 training pictures, all 10,000 of the test); also ``fashion-mnist:sample``.
    size: height and width of an image folder's pictures. augment: the set's usual augmentation of training batches, or none.
    Raises DataError when the set can't be found (and says what to install) or a file is damaged; ToolError when a package is missing.
    """
    if name == "fashion-mnist:sample":
        name, sample = "fashion-mnist", True
    if sample and name != "fashion-mnist":
        raise DataError(f"'{name}' has no bundled sample; only 'fashion-mnist' has one")
    if name == "fashion-mnist":
        return _fashion(sample, augment)
    if name == "mnist":
        return _mnist(augment)
    if name == "cifar-10":
        return _cifar(augment)
    if name == "digits":
        return _digits()
    if name.startswith("imagefolder:"):
        folder, at, number = name.removeprefix("imagefolder:").rpartition("@")
        if not (at and number.isdecimal() and int(number)):
            folder, number = folder + at + number, str(size)
        return _image_folder(Path(folder), int(number), augment)
    raise DataError(f"data set '{name}' is unknown; choose one of {', '.join(NAMES)}:DIR, or bring your own with karui.Data.of")


def _fashion(sample: bool, augment: bool) -> Data:
    found = None if sample else _find("fashion-mnist", IDX, DEBIAN)
    # The whole training file is cut at row 55,000; the sample holds 9,000 rows from before and 3,000 from after that place.
    folder, validation = (Path(str(files("karui") / "assets" / "fashion-mnist")), 3000) if found is None else (found, 5000)
    return _idx(
        "fashion-mnist (sample)" if found is None else "fashion-mnist",
        folder,
        validation,
        Pixels(mean=(0.286,), std=(0.353,)),
        CLOTHES,
        functools.partial(pad_crop_flip, padding=1) if augment else None,
    )


def _mnist(augment: bool) -> Data:
    folder = _find("mnist", IDX) or _download("mnist")
    crop = functools.partial(pad_crop_flip, padding=2, flip=False)
    return _idx("mnist", folder, 5000, Pixels(mean=(0.1307,), std=(0.3081,)), DIGITS, crop if augment else None)


def _idx(name: str, folder: Path, validation: int, pixels: Pixels, labels: tuple[str, ...], augment: Augment | None) -> Data:
    train_x, train_y, test_x, test_y = (_variant(folder, file) or folder / file for file in IDX)
    train, test = read_pair(train_x, train_y, classes=len(labels)), read_pair(test_x, test_y, classes=len(labels))
    if len(train[0]) <= validation:
        raise DataError(f"'{train_x}' holds {len(train[0])} pictures; expected more than the {validation} kept for validation")
    return _split(name, train, validation, test, pixels, labels, augment)


def _cifar(augment: bool) -> Data:
    folder = _find("cifar-10", CIFAR) or _download("cifar-10")
    batches = [read_cifar(folder / file) for file in CIFAR]
    pictures, labels = (np.concatenate(each) for each in zip(*batches[:-1], strict=True))
    # A copy that is not the original (one made from JPEG files, say) gives other accuracies: its name must tell.
    digest = hashlib.sha256((folder / CIFAR[-1]).read_bytes()).hexdigest()
    name = "cifar-10" if digest == CIFAR_TEST else f"cifar-10 (a copy, {digest[:8]})"
    pixels = Pixels(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    return _split(name, (pictures, labels), len(labels) // 10, batches[-1], pixels, OBJECTS, pad_crop_flip if augment else None)


def _digits() -> Data:
    """Scikit-learn's 1,797 digits of 8 × 8 pixels, 0 to 16; the last writers are the test, those before them the validation."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ToolError("the data set 'digits' needs scikit-learn; install it with: pip install 'karui[data]'") from None
    found = load_digits()
    pictures, labels = found.images.astype(np.uint8)[:, None], found.target.astype(np.int64)
    train, test = (pictures[:1437], labels[:1437]), (pictures[1437:], labels[1437:])
    return _split("digits", train, 240, test, Pixels(scale=1 / 16, mean=(0.305,), std=(0.376,)), DIGITS, None)


def _image_folder(folder: Path, size: int, augment: bool) -> Data:
    """``DIR/train/CLASS/…`` (with ``validation`` or ``val``, and ``test``), or ``DIR/CLASS/…``; what is missing is every fifth of train."""
    if not folder.is_dir():
        raise DataError(f"'{folder}' is not a folder; imagefolder:DIR expects one folder of pictures per class")
    splits = {part: folder / part for part in ("train", "validation", "val", "test") if (folder / part).is_dir()}
    train = _listed(splits.get("train", folder))
    labels = tuple(sorted({path[0] for path in train}))
    held: dict[str, list[tuple[str, Path]]] = {}
    for part, place in (("test", splits.get("test")), ("validation", splits.get("validation") or splits.get("val"))):
        held[part] = train[4::5] if place is None else _listed(place)
        train = train if place is not None else [each for i, each in enumerate(train) if i % 5 != 4]
    parts = {}
    for part, listed in (("train", train), *held.items()):
        unknown = {label for label, _ in listed} - set(labels)
        if unknown:
            raise DataError(f"'{folder}': class '{min(unknown)}' of {part} is not among the classes of train ({', '.join(labels[:5])}, …)")
        if not listed:
            raise DataError(f"'{folder}': too few pictures to keep every fifth for {part}; add some, or make a folder '{part}'")
        parts[part] = np.stack([read_picture(path, size) for _, path in listed]), np.array([labels.index(label) for label, _ in listed])
    pixels = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return _data(folder.name, parts["train"], parts["validation"], parts["test"], pixels, labels, pad_crop_flip if augment else None)


def _listed(folder: Path) -> list[tuple[str, Path]]:
    return [(label, path) for label, paths in list_folder(folder).items() for path in paths]


Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _split(
    name: str, train: Arrays, validation: int, test: Arrays, pixels: Pixels, labels: tuple[str, ...], augment: Augment | None
) -> Data:
    """Cut the last ``validation`` rows off the training file."""
    (x, y), at = train, len(train[1]) - validation
    return _data(name, (x[:at], y[:at]), (x[at:], y[at:]), test, pixels, labels, augment)


def _data(
    name: str, train: Arrays, validation: Arrays, test: Arrays, pixels: Pixels, labels: tuple[str, ...], augment: Augment | None
) -> Data:
    part = ArrayPart(*train, pixels=pixels, augment=augment, name=f"{name} train")
    return Data(
        name=name,
        train=part,
        validation=ArrayPart(*validation, pixels=pixels, name=f"{name} validation"),
        test=ArrayPart(*test, pixels=pixels, name=f"{name} test"),
        calibration=part.take(CALIBRATION, name=f"{name} calibration"),
        pixels=pixels,
        labels=labels,
    )


def _find(name: str, wanted: tuple[str, ...], *more: Path) -> Path | None:
    """The first folder that holds every file; one that holds some but not all is refused, so that a half-copied set is noticed."""
    root = os.environ.get("KARUI_DATA")
    if root and not Path(root).is_dir():
        raise DataError(f"KARUI_DATA names '{root}', which is not a folder; make it, correct the name, or unset it")
    own = [Path(root) / each for each in (name, "cifar-10-batches-bin" if name == "cifar-10" else name)] if root else []
    for folder in (*own, *more, cache() / name):
        lacking = [file for file in wanted if _variant(folder, file) is None]
        if not lacking:
            return folder
        if len(lacking) < len(wanted):
            raise DataError(f"'{folder}' lacks {', '.join(lacking)}; copy the missing files of {name} there, or remove the folder")
    return None


def _variant(folder: Path, file: str) -> Path | None:
    return next((path for suffix in ("", ".gz", ".xz") if (path := folder / (file + suffix)).is_file()), None)


def _download(name: str) -> Path:
    try:
        return download(name)
    except DataError as error:
        lacking = {"mnist": "train-images-idx3-ubyte.gz, …", "cifar-10": "data_batch_1.bin, …"}[name]
        raise DataError(f"{name} is not on this machine ({lacking} in $KARUI_DATA/{name}) and {error}") from error
