"""The files of data sets as arrays. A file that is missing, truncated or of another kind ends in one DataError that names it."""

import gzip
import lzma
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from karui.errors import DataError, ToolError

Bytes = NDArray[np.uint8]

CIFAR_RECORD = 1 + 3 * 32 * 32
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp")


def read_idx(path: Path) -> Bytes:
    """An idx file of bytes (LeCun's format for MNIST), plain, ``.gz`` or ``.xz``, in the shape its header tells."""
    try:
        with _open(path) as file:
            zeros, kind, rank = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or kind != 8 or not 1 <= rank <= 4:
                raise DataError(f"'{path}' is not an idx file of bytes (magic number {zeros:04x}{kind:02x}{rank:02x}); download it again")
            shape = struct.unpack(f">{rank}I", file.read(4 * rank))
            count = int(np.prod(shape, dtype=object))
            if count > 2**31:
                raise DataError(f"'{path}' claims to hold {list(shape)} bytes; that is more than any known set, so it is damaged")
            content = file.read(count + 1)  # never more than the header promises, whatever a hostile archive would unpack to
    except (OSError, EOFError, lzma.LZMAError, zlib.error, struct.error) as error:
        raise DataError(f"'{path}' is damaged or truncated ({error}); download it again") from error
    if len(content) != count:
        raise DataError(
            f"'{path}' holds {'more' if len(content) > count else 'fewer'} bytes than its header says ({count}); download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb")


def read_pair(images: Path, labels: Path, *, classes: int) -> tuple[Bytes, NDArray[np.int64]]:
    """Pictures [N, 1, H, W] and labels [N] from two idx files."""
    pictures, numbers = read_idx(images), read_idx(labels)
    if pictures.ndim != 3 or numbers.ndim != 1:
        raise DataError(
            f"'{images}' and '{labels}' have shapes {list(pictures.shape)} and {list(numbers.shape)}; expected [N, H, W] and [N]"
        )
    if len(pictures) != len(numbers):
        raise DataError(f"'{images}' holds {len(pictures)} pictures, '{labels}' {len(numbers)} labels; expected as many of each")
    return pictures[:, None], _checked(numbers, classes, labels)


def read_cifar(path: Path) -> tuple[Bytes, NDArray[np.int64]]:
    """One of CIFAR-10's binary batches: pictures [N, 3, 32, 32] and labels [N]; a record is one label and 3,072 pixels."""
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"'{path}' can't be read ({error.strerror})") from error
    if content.size == 0 or content.size % CIFAR_RECORD:
        raise DataError(
            f"'{path}' holds {content.size} bytes, not a multiple of {CIFAR_RECORD}; it is truncated or not CIFAR-10's binary version"
        )
    records = content.reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), _checked(records[:, 0], 10, path)


def _checked(labels: Bytes, classes: int, path: Path) -> NDArray[np.int64]:
    if labels.size and labels.max() >= classes:
        raise DataError(f"'{path}': sample {int(np.argmax(labels >= classes))} has label {labels.max()}; expected 0 to {classes - 1}")
    return labels.astype(np.int64)


def list_folder(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class of a folder of folders, both in sorted order."""
    classes = {
        each.name: sorted(file for file in each.rglob("*") if file.suffix.lower() in PICTURES)
        for each in sorted(folder.iterdir())
        if each.is_dir()
    }
    empty = [name for name, files in classes.items() if not files]
    if len(classes) < 2 or empty:
        found = f"class '{empty[0]}' has no picture" if empty else f"it holds {len(classes)} folders"
        raise DataError(f"'{folder}': expected one folder of pictures per class, and two classes or more; {found} ({', '.join(PICTURES)})")
    return classes


def read_picture(path: Path, size: int, *, resize: int | None = None) -> Bytes:
    """A picture as RGB bytes [3, size, size]: the shortest side made ``resize`` (default: ``size``) long, then cut out of the middle.

    Raises ToolError when Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ToolError("reading pictures needs Pillow; install it with: pip install 'karui[data]'") from None
    shortest = size if resize is None else resize
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"'{path}' is not a whole picture ({' '.join(str(error).split())}); remove or replace it") from error
    factor = shortest / min(picture.size)
    if factor != 1:
        picture = picture.resize(
            (max(size, round(picture.width * factor)), max(size, round(picture.height * factor))), Image.Resampling.BILINEAR
        )
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    cut = picture.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(cut, np.uint8).transpose(2, 0, 1))
