"""Data: the samples a network is trained, judged and calibrated on, and the metric it is judged by.

A ``Part`` gives batches; it is either arrays in memory (``ArrayPart``) or the user's own loader (``IterablePart``). Everything a ``Batch``
holds is exactly what the network takes: normalised float32, channels first.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from karui.errors import DataError
from karui.pixels import Pixels

Array = NDArray[Any] | Tensor
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """N samples.

    inputs: one tensor per input of the network, [N, …], float32 (whole numbers such as token ids: int64).
    targets: [N] int64 for classes, any tensor [N, …] or a tuple of such.
    index: [N] int64, each sample's place in its part, where samples are not augmented; else None.
    stored: the inputs before they were normalised: the bytes that a device would see, where the data are bytes.
    """

    inputs: tuple[Tensor, ...]
    targets: Any
    index: Tensor | None = None
    stored: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs[0])


class Part(ABC):
    """Samples that can be gone through again and again."""

    @abstractmethod
    def batches(self, size: int, *, seed: int | None = None, skip: int = 0) -> Iterator[Batch]:
        """Batches of ``size`` samples; the last may be smaller.

        seed: shuffled and augmented, the same way for the same seed; None: in order, untouched. skip: leave out that many first batches
        (of the same sequence: batch ``k`` is the same with any ``skip ≤ k``).
        """

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def steps(self, size: int) -> int:
        """How many batches ``batches(size, seed=…)`` gives: the training steps of one epoch."""

    def fingerprint(self) -> bytes:
        """A hash of shapes and a few samples: enough to notice that other data was put in place."""
        return _digest(next(iter(self.batches(16))))


class ArrayPart(Part):
    """Arrays in memory.

    inputs: one array [N, …] or a tuple of them: uint8 pixels (NCHW), floats, or int64 token ids. targets: [N, …] or a tuple of such.
    pixels: how bytes become numbers; without it a byte is its own value. augment: a function of (the first input's samples *as stored*,
    generator), used on shuffled batches only. name: what messages call this part.
    Raises DataError: no samples, lengths that differ, a value that is not finite.
    """

    def __init__(
        self,
        inputs: Array | tuple[Array, ...],
        targets: Any,
        *,
        pixels: Pixels | None = None,
        augment: Augment | None = None,
        name: str = "data",
    ) -> None:
        self.inputs = tuple(_tensor(x) for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
        self.targets = _targets(targets)
        self.pixels, self.augment, self.name = pixels, augment, name
        for place, x in enumerate(self.inputs):
            _check_pixels(x, pixels, name)
            _check_finite(x, f"{name}: input {place}")
        _check_lengths(self.inputs, self.targets, name)
        for y in _flat(self.targets):
            _check_finite(y, f"{name}: targets")

    def __len__(self) -> int:
        return len(self.inputs[0])

    def steps(self, size: int) -> int:
        """As ``Part.steps``: every sample once, but for a lone last one."""
        whole, rest = divmod(len(self), size)
        return whole + (rest > 1 or (rest == 1 and whole == 0))

    def batches(self, size: int, *, seed: int | None = None, skip: int = 0) -> Iterator[Batch]:
        """As ``Part.batches``. A shuffled last batch of one lone sample is left out: batch-norm can't train on it."""
        if seed is None:
            for start in range(skip * size, len(self), size):
                yield self._batch(torch.arange(start, min(start + size, len(self))), None)
            return
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for step in range(skip, self.steps(size)):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + step + 1) % 2**63)
            yield self._batch(order[step * size : (step + 1) * size], generator)

    def _batch(self, index: Tensor, generator: torch.Generator | None) -> Batch:
        inputs = [x[index] for x in self.inputs]
        if augmented := self.augment is not None and generator is not None:
            inputs[0] = self.augment(inputs[0], generator)
        targets = tuple(y[index] for y in self.targets) if isinstance(self.targets, tuple) else self.targets[index]
        numbers = tuple(_numbers(x, self.pixels) for x in inputs)
        return Batch(inputs=numbers, targets=targets, index=None if augmented else index, stored=tuple(inputs))

    def subset(self, index: Sequence[int] | NDArray[np.int64] | Tensor | slice, *, name: str | None = None) -> "ArrayPart":
        """The samples at ``index``, in its order."""
        at = index if isinstance(index, slice) else torch.as_tensor(index)
        targets = tuple(y[at] for y in self.targets) if isinstance(self.targets, tuple) else self.targets[at]
        return ArrayPart(tuple(x[at] for x in self.inputs), targets, pixels=self.pixels, augment=self.augment, name=name or self.name)

    def take(self, count: int, *, name: str | None = None) -> "ArrayPart":
        """The first ``count`` samples."""
        return self.subset(slice(0, count), name=name)

    def fingerprint(self) -> bytes:
        """As ``Part.fingerprint``, of samples all over the part."""
        few = torch.linspace(0, len(self) - 1, min(16, len(self))).long()
        return _digest(self._batch(few, None), str(len(self)))


class IterablePart(Part):
    """The user's own loader: whatever gives ``(input, target)`` or ``((input, …), target)`` batches each time it is iterated.

    The loader decides the batch size, the order and the augmentation. Whatever it draws from torch's generator is repeatable: while it
    works, that generator is put to the seed (0 without one), and put back after. name: what messages call this part.
    Raises DataError, on construction: an iterator that can be used only once; on use: a batch of other shapes than the first, or with a
    value that is not finite, by its number.
    """

    def __init__(self, batches: Iterable[Any], *, pixels: Pixels | None = None, name: str = "data") -> None:
        if not isinstance(batches, Iterable):
            raise DataError(
                f"{name}: expected an iterable of (input, target) batches, got {type(batches).__name__}; pass a DataLoader or a list"
            )
        if isinstance(batches, Iterator):
            raise DataError(
                f"{name}: {type(batches).__name__} can be gone through only once; pass a list, a DataLoader or an object with __iter__"
            )
        self.loader, self.pixels, self.name = batches, pixels, name
        self._size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self._counted()[0]

    def steps(self, size: int) -> int:
        """As ``Part.steps``; the loader's own number of batches, whatever ``size`` is."""
        return self._counted()[1]

    def _counted(self) -> tuple[int, int]:
        """Samples and batches, counted once by going through the loader."""
        if self._size is None:
            lengths = [len(batch) for batch in self.batches(1)]
            self._size = sum(lengths), len(lengths)
        return self._size

    def batches(self, size: int, *, seed: int | None = None, skip: int = 0) -> Iterator[Batch]:
        """As ``Part.batches``; the loader's own batches, whatever ``size`` is."""
        shapes: list[torch.Size] | None = None
        number = -1
        for number, item in enumerate(_with_seed(self.loader, seed or 0)):
            if number < skip:
                continue
            batch = self._batch(item, number)
            found = [x.shape[1:] for x in batch.inputs]
            if shapes is not None and found != shapes:
                wanted, got = ([list(s) for s in each] for each in (shapes, found))
                raise DataError(f"{self.name}: batch {number} has samples of shape {got}, the batches before it {wanted}; make them equal")
            shapes = found
            yield batch
        if number < 0:
            raise DataError(f"{self.name}: the loader gave no batch; an iterable must give its batches again each time it is iterated")

    def _batch(self, item: Any, number: int) -> Batch:
        where = f"{self.name}: batch {number}"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{where} is a {type(item).__name__}, expected a pair (input, target)")
        first, target = item
        inputs = tuple(_tensor(x, where) for x in (first if isinstance(first, tuple | list) else (first,)))
        targets = _targets(target, where)
        _check_lengths(inputs, targets, where)
        for x in inputs:
            _check_pixels(x, self.pixels, where)
        for x in (*inputs, *_flat(targets)):
            _check_finite(x, where)
        return Batch(inputs=tuple(_numbers(x, self.pixels) for x in inputs), targets=targets, stored=inputs)


def top1(outputs: tuple[Tensor, ...], targets: Any) -> Tensor:
    """1 where the greatest score of the first output ([N, classes]) is the target's, else 0: [N] float32."""
    hits: Tensor = outputs[0].argmax(1) == targets
    return hits.float()


def cross_entropy(outputs: tuple[Tensor, ...], targets: Any) -> Tensor:
    """The mean cross-entropy of the first output ([N, classes] logits) with the targets ([N] int64)."""
    return F.cross_entropy(outputs[0], targets)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What "good" means: ``function(outputs, targets)`` gives one score per sample, [N]; their mean × ``scale`` is reported in ``unit``."""

    name: str
    function: Callable[[tuple[Tensor, ...], Any], Tensor]
    unit: str = "%"
    scale: float = 100.0
    higher_is_better: bool = True


ACCURACY = Metric(name="accuracy", function=top1)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Four parts and what they are judged by. Choices are made on ``validation``, results are told on ``test``.

    loss: ``(outputs, targets)`` → a scalar. pixels: how the device's bytes become the network's inputs (None: it is fed numbers).
    labels: the classes' names, in order.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    calibration: Part
    metric: Metric = ACCURACY
    loss: Callable[[tuple[Tensor, ...], Any], Tensor] = cross_entropy
    pixels: Pixels | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        train: Any,
        validation: Any,
        test: Any,
        calibration: Any = None,
        metric: Metric = ACCURACY,
        loss: Callable[[tuple[Tensor, ...], Any], Tensor] = cross_entropy,
        pixels: Pixels | None = None,
        labels: Sequence[str] = (),
        augment: Augment | None = None,
        name: str = "data",
    ) -> Self:
        """The user's own data. Each part: a tuple ``(inputs, targets)`` of arrays, or any re-iterable of such batches, or a Part.

        inputs may itself be a tuple, for a network of several inputs. calibration: the train part where it is left out. augment: for a
        train part of arrays.
        """
        trained = _part(train, "train", pixels, augment)
        return cls(
            name=name,
            train=trained,
            validation=_part(validation, "validation", pixels, None),
            test=_part(test, "test", pixels, None),
            calibration=trained if calibration is None else _part(calibration, "calibration", pixels, None),
            metric=metric,
            loss=loss,
            pixels=pixels,
            labels=tuple(labels),
        )

    def example(self, n: int = 2) -> tuple[Tensor, ...]:
        """The first ``n`` samples of the calibration part (fewer where it holds fewer)."""
        found: list[tuple[Tensor, ...]] = []
        for batch in self.calibration.batches(n):
            found.append(batch.inputs)
            if sum(len(inputs[0]) for inputs in found) >= n:
                break
        return tuple(torch.cat(each)[:n] for each in zip(*found, strict=True))

    def fingerprint(self) -> str:
        """A hash of shapes, a few samples of each part and the metric's name: a resumed run refuses other data."""
        total = hashlib.sha256(repr((self.metric.name, self.pixels, self.labels)).encode())
        for part in (self.train, self.validation, self.test, self.calibration):
            total.update(part.fingerprint())
        return total.hexdigest()[:16]


def _part(value: Any, name: str, pixels: Pixels | None, augment: Augment | None) -> Part:
    if isinstance(value, Part):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return ArrayPart(value[0], value[1], pixels=pixels, augment=augment, name=name)
    return IterablePart(value, pixels=pixels, name=name)


def _tensor(value: Any, where: str = "data") -> Tensor:
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


def _targets(value: Any, where: str = "data") -> Any:
    """Targets as a tensor, or a tuple of tensors; whole numbers as int64."""
    if isinstance(value, tuple) or (isinstance(value, list) and value and isinstance(value[0], np.ndarray | Tensor)):
        return tuple(_targets(each, where) for each in value)
    tensor = _tensor(value, where)
    return tensor.long() if tensor.dtype is torch.uint8 else tensor


def _flat(targets: Any) -> tuple[Tensor, ...]:
    return targets if isinstance(targets, tuple) else (targets,)


def _numbers(x: Tensor, pixels: Pixels | None) -> Tensor:
    """Bytes to the network's numbers, with the same two roundings as ``Pixels.normalise``."""
    if x.dtype is not torch.uint8:
        return x
    if pixels is None:
        return x.float()
    shape = (1, -1, *(1,) * (x.ndim - 2))
    factor, offset = (torch.from_numpy(each).reshape(shape) for each in pixels.affine())
    return x.float() * factor + offset


def _check_pixels(x: Tensor, pixels: Pixels | None, where: str) -> None:
    if x.dtype is not torch.uint8 or pixels is None:
        return
    channels = x.shape[1] if x.ndim > 1 else 0
    for word, values in (("mean", pixels.mean), ("std", pixels.std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"{where}: pictures of shape {list(x.shape[1:])} have {channels} channels (NCHW), pixels.{word} has {len(values)}"
            )


def _check_lengths(inputs: tuple[Tensor, ...], targets: Any, where: str) -> None:
    everything = (*inputs, *_flat(targets))
    if any(x.ndim == 0 for x in everything):
        raise DataError(f"{where}: inputs and targets need a batch dimension [N, …]; wrap a data set of single samples in a DataLoader")
    lengths = [len(x) for x in everything]
    if len(set(lengths)) != 1:
        raise DataError(f"{where}: inputs and targets hold {lengths} samples; expected as many of each")
    if lengths[0] == 0:
        raise DataError(f"{where}: holds no samples")


def _check_finite(x: Tensor, where: str) -> None:
    """Refuse NaN and infinity by the number of the sample; in pieces, so that no second copy of the data is held."""
    if not x.is_floating_point():
        return
    for start in range(0, len(x), 4096):
        good = torch.isfinite(x[start : start + 4096].flatten(1) if x.ndim > 1 else x[start : start + 4096, None]).all(1)
        if not bool(good.all()):
            at = start + int((~good).nonzero()[0])
            raise DataError(f"{where}: sample {at} holds NaN or infinity; clean the data (for example with numpy.isfinite) and try again")


def _digest(batch: Batch, extra: str = "") -> bytes:
    total = hashlib.sha256(extra.encode())
    for x in (*batch.inputs, *_flat(batch.targets)):
        total.update(repr((tuple(x.shape[1:]), x.dtype)).encode())
        total.update(x.cpu().contiguous().numpy().tobytes())
    return total.digest()


def _with_seed(items: Iterable[Any], seed: int) -> Iterator[Any]:
    """Go through ``items`` with torch's generator in a state of its own, so that a shuffling loader repeats itself and disturbs nobody."""
    inside, end = torch.Generator().manual_seed(seed).get_state(), object()
    iterator: Iterator[Any] | None = None
    while True:
        outside = torch.get_rng_state()
        torch.set_rng_state(inside)
        try:
            iterator = iter(items) if iterator is None else iterator
            item = next(iterator, end)
            inside = torch.get_rng_state()
        finally:
            torch.set_rng_state(outside)
        if item is end:
            return
        yield item
