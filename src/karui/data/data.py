"""Data: four parts, and the metric and loss they are judged by."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from karui.data.checks import check_labels
from karui.data.identity import identity
from karui.data.parts import ArrayPart, Augment, IterablePart, Part
from karui.errors import DataError, KaruiError, first_line
from karui.pixels import Pixels


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

    def scores(self, outputs: tuple[Tensor, ...], targets: Any) -> NDArray[np.float64]:
        """One score per sample, [N], not yet times ``scale``. Raises DataError where the user's function fails or gives anything else."""
        count = len(outputs[0])
        try:
            found: Any = self.function(outputs, targets)  # Tensor, if the user keeps to it
        except (KaruiError, MemoryError):
            raise
        except Exception as error:  # the function is the user's: it may raise anything
            shapes = ", ".join(str(list(o.shape)) for o in outputs)
            raise DataError(
                f"metric '{self.name}' failed on outputs of shape {shapes}: {first_line(error)}; check it and the targets"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (count,):
            what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise DataError(f"metric '{self.name}' gave {what} for {count} samples; return one score per sample, [N]")
        return found.detach().double().cpu().numpy()


ACCURACY = Metric(name="accuracy", function=top1)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Four parts and what they are judged by. Choices are made on ``validation``, results are told on ``test``.

    loss: ``(outputs, targets)`` → a scalar. pixels: how the device's bytes become the network's inputs (None: it is fed numbers).
    labels: the classes' names, in order.
    Raises DataError: a label that is no printable text.
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

    def __post_init__(self) -> None:
        check_labels(self.labels)

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

    def without_test(self) -> Self:
        """The same data for those who may not know the result: whoever asks the test part for anything gets a DataError."""
        return replace(self, test=_Sealed())

    def fingerprint(self) -> str:
        """A hash of shapes, a few samples of each part, the metric and the loss: a resumed run refuses other data."""
        total = hashlib.sha256(repr((identity((self.metric, self.loss)), self.pixels, self.labels)).encode())
        for part in (self.train, self.validation, self.test, self.calibration):
            total.update(part.fingerprint())
        return total.hexdigest()[:16]


class _Sealed(Part):
    """A test part that nobody reads."""

    def _refuse(self) -> NoReturn:
        raise DataError("a technique asks for the test part, which only the result is told on; choose on validation, observe calibration")

    def batches(self, size: int, *, seed: int | None = None, skip: int = 0) -> NoReturn:
        self._refuse()

    def __len__(self) -> NoReturn:
        self._refuse()

    def steps(self, size: int) -> NoReturn:
        self._refuse()

    def fingerprint(self) -> NoReturn:
        self._refuse()


def _part(value: Any, name: str, pixels: Pixels | None, augment: Augment | None) -> Part:
    if isinstance(value, Part):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return ArrayPart(value[0], value[1], pixels=pixels, augment=augment, name=name)
    return IterablePart(value, pixels=pixels, name=name)
