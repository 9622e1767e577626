"""The user's arrays as tensors, and what is refused of them: every message names the part, and the batch or sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from karui.errors import DataError
from karui.names import LONGEST, is_label
from karui.pixels import Pixels


def as_tensor(value: Any, where: str = "data") -> Tensor:
    """Any array as a tensor: bytes stay bytes, other whole numbers become int64, the rest float32."""
    if isinstance(value, np.ndarray) and not (value.flags.writeable and value.flags.c_contiguous and value.dtype.isnative):
        value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")  # torch warns about arrays that it must not write to
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{where}: a {type(value).__name__} can't become a tensor ({str(error).splitlines()[0]}); pass NumPy arrays or tensors"
        ) from None
    if tensor.is_floating_point():
        return tensor.float()
    return tensor if tensor.dtype is torch.uint8 else tensor.long()


def as_targets(value: Any, where: str = "data") -> Any:
    """Targets as a tensor, or a tuple of tensors; whole numbers as int64."""
    if isinstance(value, tuple) or (isinstance(value, list) and value and isinstance(value[0], np.ndarray | Tensor)):
        return tuple(as_targets(each, where) for each in value)
    tensor = as_tensor(value, where)
    return tensor.long() if tensor.dtype is torch.uint8 else tensor


def flat(targets: Any) -> tuple[Tensor, ...]:
    """Targets, one or many, as a tuple."""
    return targets if isinstance(targets, tuple) else (targets,)


def normalised(x: Tensor, pixels: Pixels | None) -> Tensor:
    """Bytes to the network's numbers, with the same two roundings as ``Pixels.normalise``."""
    if x.dtype is not torch.uint8:
        return x
    if pixels is None:
        return x.float()
    shape = (1, -1, *(1,) * (x.ndim - 2))
    factor, offset = (torch.from_numpy(each).reshape(shape) for each in pixels.affine())
    return x.float() * factor + offset


def check_pixels(x: Tensor, pixels: Pixels | None, where: str) -> None:
    """Refuse pictures whose channels are not as many as ``pixels`` has numbers for, and floats that ``pixels`` makes of no byte."""
    if pixels is None or not (x.dtype is torch.uint8 or x.is_floating_point()):
        return
    channels = x.shape[1] if x.ndim > 1 else 0
    for word, values in (("mean", pixels.mean), ("std", pixels.std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"{where}: pictures of shape {list(x.shape[1:])} have {channels} channels (NCHW), pixels.{word} has {len(values)}"
            )
    if x.is_floating_point():
        factor, offset = (torch.from_numpy(v).view(1, -1, *[1] * (x.ndim - 2)) for v in pixels.affine())
        bytes_ = (x[:256].float() - offset) / factor
        low, high = float(bytes_.min()), float(bytes_.max())
        if not (low > -1 and high < 256):
            raise DataError(
                f"{where}: with these pixels, its numbers stand for bytes {low:.0f} to {high:.0f}, expected 0 to 255; "
                "leave pixels out for numbers that aren't pictures, or normalise them as pixels says"
            )


def check_lengths(inputs: tuple[Tensor, ...], targets: Any, where: str) -> None:
    """Refuse what has no batch dimension, no samples, or not as many inputs as targets."""
    everything = (*inputs, *flat(targets))
    if any(x.ndim == 0 for x in everything):
        raise DataError(f"{where}: inputs and targets need a batch dimension [N, …]; wrap a data set of single samples in a DataLoader")
    lengths = [len(x) for x in everything]
    if len(set(lengths)) != 1:
        raise DataError(f"{where}: inputs and targets hold {lengths} samples; expected as many of each")
    if lengths[0] == 0:
        raise DataError(f"{where}: holds no samples")


def check_finite(x: Tensor, where: str) -> None:
    """Refuse NaN and infinity by the number of the sample; in pieces, so that no second copy of the data is held."""
    if not x.is_floating_point():
        return
    for start in range(0, len(x), 4096):
        good = torch.isfinite(x[start : start + 4096].flatten(1) if x.ndim > 1 else x[start : start + 4096, None]).all(1)
        if not bool(good.all()):
            at = start + int((~good).nonzero()[0])
            raise DataError(f"{where}: sample {at} holds NaN or infinity; clean the data (for example with numpy.isfinite) and try again")


def check_labels(labels: Sequence[Any]) -> None:
    """Refuse class names that can't stand in a program: they are printed, and written into source code."""
    if isinstance(labels, str):
        raise DataError(f"labels: one text ({labels[:40]!r}), expected one name a class; pass a tuple of names")
    for place, label in enumerate(labels):
        if not isinstance(label, str):
            raise DataError(f"labels: label {place} is a {type(label).__name__}, expected a text; pass labels=tuple(map(str, …))")
        if not is_label(label):
            raise DataError(
                f"labels: label {place} is {label[:40]!r}, expected at most {LONGEST} printable characters on one line; rename the class"
            )
