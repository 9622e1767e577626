"""Line 5: what a teacher costs in time: an epoch without one, with its answers from the disk, and asked live; in turn, in one run."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness import Row, at_most, skipped
from benchmarks.trainings import fresh
from karui import datasets, zoo
from karui.compress.distill.hinton import Distill
from karui.compress.technique import Technique
from karui.data import ArrayPart, Data
from karui.datasets.augment import pad_crop_flip
from karui.errors import DataError
from karui.finetune.attach import attach_all
from karui.finetune.loop import finetune
from karui.finetune.training import Training
from karui.graph.network import Network

SAMPLES, ROUNDS, SEED = 2560, 5, 0  # of an epoch; of each way
TRAINING = Training(epochs=1, batch_size=128, lr=0.05, channels_last=True)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A student, its teacher and their data."""

    student: str
    shape: tuple[int, ...]
    teacher: str
    data: Callable[[], Data]


LESSONS: Mapping[str, Lesson] = {
    "lenet5 from resnet20": Lesson(
        student="lenet5", shape=(1, 28, 28), teacher="resnet20", data=lambda: datasets.load("fashion-mnist", sample=True)
    ),
    "resnet8 from resnet20_cifar10": Lesson(
        student="resnet8", shape=(3, 32, 32), teacher="resnet20_cifar10", data=lambda: datasets.load("cifar-10")
    ),
}


def rows(quick: bool) -> Iterator[Row]:
    """Seconds of an epoch in each way, and their ratios. The samples are augmented: each epoch's answers are its own."""
    for name, lesson in LESSONS.items():
        case = f"5 {name}, {SAMPLES} samples, augmented"
        try:
            data = _shortened(lesson.data())
        except DataError as reason:
            yield skipped(case, str(reason))
            continue
        teacher = zoo.load(lesson.teacher)
        student = fresh(lesson.student, SEED, lesson.shape)
        with TemporaryDirectory() as folder:
            cached = Distill(teacher=teacher, cache=str(Path(folder) / "targets"))
            cold = _epoch(student, data, cached)
            ways: Mapping[str, Technique | None] = {"no teacher": None, "cached": cached, "live": Distill(teacher=teacher)}
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(2 if quick else ROUNDS):
                for way, technique in ways.items():
                    times[way].append(_epoch(student, data, technique))
            stored = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
        for way, seconds in times.items():
            yield Row(case=case, figure=f"an epoch, {way}", value=median(seconds), unit="s", spread=max(seconds) - min(seconds))
        base = median(times["no teacher"])
        yield Row(case=case, figure="an epoch that fills the cache / no teacher", value=cold / base, unit="x")
        yield Row(case=case, figure="live / no teacher", value=median(times["live"]) / base, unit="x")
        yield Row(case=case, figure="cache, bytes a sample", value=stored / SAMPLES, unit="B")
        yield at_most(case, "cached / no teacher", median(times["cached"]) / base, 1.15, "x", peer="the same epoch without a teacher")


def _shortened(data: Data) -> Data:
    """An epoch that takes seconds, and next to no validation in it."""
    assert isinstance(data.train, ArrayPart) and isinstance(data.validation, ArrayPart)
    count = min(SAMPLES, len(data.train))
    rows = [i % count for i in range(SAMPLES)]
    train = data.train.subset(rows)
    train.augment = pad_crop_flip
    return replace(data, train=train, validation=data.validation.take(16))


def _epoch(student: Network, data: Data, technique: Technique | None) -> float:
    """Seconds of one epoch of a fresh copy; attaching, which is once a run, not counted."""
    network = student.copy()
    techniques = [] if technique is None else [technique]
    attached = attach_all(network, techniques, data, teacher=student, steps=TRAINING.count(data.train), seed=SEED)
    started = time.perf_counter()
    finetune(network, data, TRAINING, attached, seed=SEED)
    for each in attached:
        each.finish()
    return time.perf_counter() - started
