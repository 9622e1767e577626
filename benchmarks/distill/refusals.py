"""Line 6: bad input. What can't be learned from is refused in one line that names it; a full disk ends the cache, not the training."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from benchmarks.harness import Row
from benchmarks.refusals import Cases, refused
from karui.compress.distill import cache
from karui.compress.distill.exits import EarlyExits
from karui.compress.distill.features import Features
from karui.compress.distill.hinton import Distill
from karui.compress.technique import Technique
from karui.data import ArrayPart, Data
from karui.errors import RunError
from karui.finetune.attach import attach_all
from karui.finetune.phases import Phase, run_phases
from karui.finetune.training import Training
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.testing.subjects import small_data, small_network


def rows(quick: bool) -> Iterator[Row]:
    """Each mistake with the message that it gets."""
    yield from refused("6", small_network(), CASES)
    yield from full_disk()


def put(technique: Technique, data: Data | None = None) -> Callable[[Network], object]:
    """The technique, attached as a phase of four steps would."""
    return lambda network: attach_all(network, [technique], data or small_data(), teacher=network, steps=4, seed=0)


def _flat(classes: int, channels: int = 1) -> Network:
    return capture(nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes)), torch.zeros(2, channels, 8, 8), name="other").eval()


def _noisy(x: Tensor) -> Tensor:
    return torch.rand(len(x), 4)


def _nan(x: Tensor) -> Tensor:
    return torch.full((len(x), 4), float("nan"))


def _of_another(what: str) -> Callable[[Network], object]:
    """A cache that was filled by another teacher, or with other data."""

    def call(network: Network) -> object:
        teacher, data = (small_network(1), small_data()) if what == "teacher" else (small_network(), small_data(48))
        with TemporaryDirectory() as folder:
            put(Distill(teacher=small_network(), cache=folder))(network)
            try:
                return put(Distill(teacher=teacher, cache=folder), data)(network)
            except RunError as error:
                raise RunError(str(error).replace(folder, "targets")) from None  # no table names a folder of this machine

    return call


CASES: Cases = {
    "teacher of another number of classes": (put(Distill(teacher=_flat(3))), "the teacher answers (3,), the student (4,)"),
    "teacher of other channels": (put(Distill(teacher=_flat(4, channels=3))), "can't take the student's inputs"),
    "teacher that draws random numbers": (put(Distill(teacher=_noisy)), "isn't deterministic"),
    "teacher that isn't trained to an end": (put(Distill(teacher=_nan)), "NaN or infinity"),
    "teacher's file missing": (put(Distill(teacher="nowhere.pt2")), "nowhere.pt2"),
    "teacher's file of an unknown kind": (put(Distill(teacher="teacher.h5")), "give a .pt2 or .onnx file"),
    "cache of another teacher": (_of_another("teacher"), "soft targets.teacher"),
    "cache of other data": (_of_another("data"), "soft targets."),
    "unknown way of matching": (lambda network: Distill(match="cosine"), "is not a way of matching"),  # type: ignore[arg-type]
    "temperature of zero": (lambda network: Distill(temperature=0.0), "temperature"),
    "layer that isn't there": (put(Features(layers=(("conv9", "conv2"),))), "no layer 'conv9'"),
    "layers that can't be compared": (put(Features(layers=(("fc1", "conv2"),))), "can't be compared"),
    "exit after a layer that isn't there": (put(EarlyExits(after=("conv9",))), "no layer 'conv9'"),
}


@contextmanager
def _disk_of(files: int) -> Iterator[None]:
    """A disk that is full after so many files of the cache."""
    save, written = cache.save_arrays, list[str]()

    def limited(path: Path, arrays: object) -> None:
        if len(written) >= files:
            raise RunError(f"can't write '{path.name}': the disk is full") from OSError(errno.ENOSPC, "No space left on device")
        written.append(str(path))
        save(path, arrays)  # type: ignore[arg-type]

    cache.save_arrays = limited  # type: ignore[assignment]
    try:
        yield
    finally:
        cache.save_arrays = save


def full_disk() -> Iterator[Row]:
    """A training whose cache can't grow on ends as one whose cache could, bit by bit; what was written is used by the next."""
    data, batches = _augmented(), cache.BATCHES
    cache.BATCHES = 2
    try:
        with TemporaryDirectory() as whole, TemporaryDirectory() as full:
            expected = _trained(data, whole)
            with _disk_of(1):
                found = _trained(data, full)
            again = _trained(data, full)
            left = len(list(Path(full).glob(cache.PATTERN)))
    finally:
        cache.BATCHES = batches
    same = expected == found == again
    yield Row(
        case="6 disk full in the middle of caching", figure="training ends with the same bits, and next time", value=str(same), ok=same
    )
    yield Row(case="6 disk full in the middle of caching", figure="files after the next run", value=left, goal="> 1", ok=left > 1)


def _augmented() -> Data:
    data = small_data()
    inputs, targets = data.example(64)[0], torch.arange(64) % 4
    train = ArrayPart(inputs, targets, augment=lambda x, generator: x + 0.1 * torch.rand(1, generator=generator))
    return Data.of(train=train, validation=(inputs, targets), test=(inputs, targets))


def _trained(data: Data, folder: str) -> str:
    phase = Phase(techniques=(Distill(cache=folder),), training=Training(steps=16, batch_size=16, lr=0.02))
    return run_phases(small_network(), data, [phase], teacher=small_network(1), seed=0).network.fingerprint()
