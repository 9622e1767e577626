"""Parts: samples in memory or from the user's own loader, in batches that a seed repeats."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from karui.data.checks import as_targets, as_tensor, check_finite, check_lengths, check_pixels, flat, normalised
from karui.data.identity import identity
from karui.errors import DataError, KaruiError, first_line
from karui.pixels import Pixels

Array = NDArray[Any] | Tensor
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """N samples.

    inputs: one tensor per input of the network, [N, …], float32 (whole numbers such as token ids: int64).
    targets: [N] int64 for classes, any tensor [N, …] or a tuple of such.
    index: [N] int64, each sample's place in its part, where samples have one; else None.
    drawn: the seed that the whole batch was augmented with; None: the samples are as they lie in the part.
    stored: the inputs before they were normalised: the bytes that a device would see, where the data are bytes.
    """

    inputs: tuple[Tensor, ...]
    targets: Any
    index: Tensor | None = None
    drawn: int | None = None
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
        self.inputs = tuple(as_tensor(x) for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
        self.targets = as_targets(targets)
        self.pixels, self.augment, self.name = pixels, augment, name
        check_lengths(self.inputs, self.targets, name)
        for place, x in enumerate(self.inputs):
            if place == 0 or x.dtype is torch.uint8:  # the first is the picture
                check_pixels(x, pixels, name)
            check_finite(x, f"{name}: input {place}")
        for y in flat(self.targets):
            check_finite(y, f"{name}: targets")

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
            yield self._batch(order[step * size : (step + 1) * size], (seed * 1_000_003 + step + 1) % 2**63)

    def _batch(self, index: Tensor, seed: int | None) -> Batch:
        inputs = [x[index] for x in self.inputs]
        drawn = None if self.augment is None else seed
        if self.augment is not None and drawn is not None:
            inputs[0] = self.augment(inputs[0], torch.Generator().manual_seed(drawn))
        targets = tuple(y[index] for y in self.targets) if isinstance(self.targets, tuple) else self.targets[index]
        numbers = tuple(normalised(x, self.pixels) for x in inputs)
        return Batch(inputs=numbers, targets=targets, index=index, drawn=drawn, stored=tuple(inputs))

    def subset(self, index: Sequence[int] | NDArray[np.int64] | Tensor | slice, *, name: str | None = None) -> "ArrayPart":
        """The samples at ``index``, in its order."""
        at = index if isinstance(index, slice) else torch.as_tensor(index)
        targets = tuple(y[at] for y in self.targets) if isinstance(self.targets, tuple) else self.targets[at]
        return ArrayPart(tuple(x[at] for x in self.inputs), targets, pixels=self.pixels, augment=self.augment, name=name or self.name)

    def take(self, count: int, *, name: str | None = None) -> "ArrayPart":
        """The first ``count`` samples."""
        return self.subset(slice(0, count), name=name)

    def fingerprint(self) -> bytes:
        """As ``Part.fingerprint``, of samples all over the part, and of how they are augmented."""
        few = torch.linspace(0, len(self) - 1, min(16, len(self))).long()
        return _digest(self._batch(few, None), repr((len(self), identity(self.augment))))


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
        for number, item in enumerate(self._items(seed or 0)):
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

    def _items(self, seed: int) -> Iterator[Any]:
        """What the loader gives. A loader's own error becomes a DataError that says after which batch."""
        given = 0
        try:
            for item in _with_seed(self.loader, seed):
                yield item
                given += 1
        except (KaruiError, OSError, MemoryError):  # these say by themselves what to do
            raise
        except Exception as error:  # the loader is the user's: it may raise anything
            raise DataError(
                f"{self.name}: the loader failed at batch {given}: {first_line(error)}; run it by itself to see where"
            ) from error

    def _batch(self, item: Any, number: int) -> Batch:
        where = f"{self.name}: batch {number}"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{where} is a {type(item).__name__}, expected a pair (input, target)")
        first, target = item
        inputs = tuple(as_tensor(x, where) for x in (first if isinstance(first, tuple | list) else (first,)))
        targets = as_targets(target, where)
        check_lengths(inputs, targets, where)
        for x in inputs:
            if x.dtype is torch.uint8 or (x is inputs[0] and self.name != "train"):  # what a loader augments may leave the range
                check_pixels(x, self.pixels, where)
        for x in (*inputs, *flat(targets)):
            check_finite(x, where)
        return Batch(inputs=tuple(normalised(x, self.pixels) for x in inputs), targets=targets, stored=inputs)


def _digest(batch: Batch, extra: str = "") -> bytes:
    total = hashlib.sha256(extra.encode())
    for x in (*batch.inputs, *flat(batch.targets)):
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
