"""Lines 2 and 2b: a student learns in each way that karui knows, beside the same training without a teacher.

2: ResNet-8 from the zoo's ResNet-20 on CIFAR-10. 2b: a convolutional network of 2,254 parameters from LeNet-5 on MNIST, where two cores
have time for features too. Every student of a seed sees the same samples, augmented the same way, in the same order.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from benchmarks.distill.kept import KEPT
from benchmarks.harness import Row, skipped
from benchmarks.prune.mnist import dense
from benchmarks.trainings import FOLDER, SEEDS, Errors, error, fresh, trained
from karui import datasets, zoo
from karui.compress.distill.features import Features
from karui.compress.distill.hinton import Distill
from karui.compress.distill.soft import dist
from karui.compress.technique import Technique
from karui.data import Data
from karui.errors import DataError
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.doors.torch import capture
from karui.graph.network import Network

# what two cores have time for: the papers train 200 epochs and more
CIFAR = Training(epochs=2, batch_size=128, lr=0.1, weight_decay=5e-4, schedule="onecycle", warmup=0.2, channels_last=True)

# weights and temperatures as the papers give them for CIFAR, but that ours share one between label and teacher: nothing is tuned
SMALL = Training(
    epochs=3, batch_size=128, lr=0.05, weight_decay=5e-4, schedule="onecycle", warmup=0.2, clip=1.0, channels_last=True
)  # clipped: so narrow a network without batch-norm bears no large loss (DKD)

# weights and temperatures as the papers give them, but that the two losses share a weight of 1: nothing is tuned
Ways = Mapping[str, Callable[[Network, str | None], tuple[Technique, ...]]]
SCORES: Ways = {
    "alone": lambda teacher, cache: (),
    "Hinton": lambda teacher, cache: (Distill(teacher=teacher, cache=cache),),
    "DKD": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, match="dkd", alpha=0.5),),
    "DIST": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, match=partial(dist, between=2.0, within=2.0), alpha=0.5),),
    "label-free": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, alpha=1.0),),
}
ALL: Ways = {
    **SCORES,
    "Hinton, T 8 to 1": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, temperature=(8.0, 1.0)),),
    "mean square": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, match="mse", alpha=0.5),),
    "hint": lambda teacher, cache: (Features(teacher=teacher, method="hint"),),
    "attention": lambda teacher, cache: (Features(teacher=teacher, method="attention"),),
    "relation": lambda teacher, cache: (Features(teacher=teacher, method="relation"),),
    "Hinton + attention": lambda teacher, cache: (Distill(teacher=teacher, cache=cache), Features(teacher=teacher, method="attention")),
}
BETTER = 3  # ways have to be, Hinton's among them


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A student, what it learns from, and how long. cached: keep what the teacher said on the disk, for augmented samples."""

    name: str
    data: Data
    teacher: Network
    student: Callable[[int], Network]
    training: Training
    ways: Ways
    cached: bool = False
    seeds: tuple[int, ...] = SEEDS

    def taught(self, way: str, seed: int) -> Network:
        """The student of this seed, taught in this way."""
        cache = str(FOLDER / "distill" / f"targets-{seed}") if self.cached else None
        phase = Phase(techniques=self.ways[way](self.teacher, cache), training=self.training)
        folder = f"distill/{self.name}/{way.replace(', ', '-').replace(' + ', '-').replace(' ', '-')}/{seed}"
        return trained(self.student(seed), self.data, [phase], folder, seed=seed)

    def accuracy(self, way: str) -> Errors:
        """Test accuracies, one a seed."""
        return Errors(each=tuple(100 - error(self.taught(way, seed), self.data) for seed in self.seeds))


def rows(line: str, make: Callable[[], Setting], *, goals: bool = False) -> Callable[[bool], Iterator[Row]]:
    """A line's table, or a row that says what is missing."""

    def measured(quick: bool) -> Iterator[Row]:
        try:
            setting = make()
        except DataError as reason:
            yield skipped(f"{line} {make.__name__}", str(reason))
            return
        yield from table(line, setting, goals=goals)

    return measured


def cifar() -> Setting:
    """ResNet-20 teaches ResNet-8."""
    return Setting(
        name="resnet8",
        data=datasets.load("cifar-10"),
        teacher=zoo.load("resnet20_cifar10"),
        student=lambda seed: fresh("resnet8", seed, (3, 32, 32)),
        training=CIFAR,
        ways=SCORES,
        cached=True,
    )


def mnist() -> Setting:
    """LeNet-5 teaches a network of two narrow convolutions."""
    data = datasets.load("mnist", augment=False)
    return Setting(name="narrow", data=data, teacher=dense("lenet5", data, 0), student=narrow, training=SMALL, ways=ALL, seeds=SEEDS[:1])


def narrow(seed: int) -> Network:
    """LeNet-5's form with 4 and 8 channels and no hidden layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = (nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2))
        module = nn.Sequential(*first, nn.Conv2d(4, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
        return capture(module, torch.zeros(2, 1, 28, 28), name="narrow")


def table(line: str, setting: Setting, *, goals: bool) -> Iterator[Row]:
    """The teacher, the student alone, and what each way brings."""
    case, epochs = f"{line} {setting.data.name}, {setting.name}", setting.training.epochs
    teacher = 100 - error(setting.teacher, setting.data)
    yield Row(case=f"{case}, teacher {setting.teacher.name}", figure="test accuracy", value=teacher, unit="%")
    alone = setting.accuracy("alone")
    yield _row(f"{case}, alone", f"test accuracy after {epochs:g} epochs", alone)
    better: list[str] = []
    for way in (way for way in setting.ways if way != "alone"):
        taught = setting.accuracy(way)
        if way == "Hinton":
            KEPT.keep(f"{setting.name}-distilled", setting.taught(way, SEEDS[0]))
        yield _row(f"{case}, {way}", "test accuracy", taught)
        gain = Errors(each=tuple(b - a for a, b in zip(alone.each, taught.each, strict=True)))
        yield _row(f"{case}, {way}", "accuracy above the student alone", gain, unit="points", peer="the student alone")
        better += [way] if gain.mean > max(alone.spread or 0.0, taught.spread or 0.0) else []
    if goals:
        ok = len(better) >= BETTER and "Hinton" in better
        goal = f">= {BETTER}, Hinton among them"
        yield Row(
            case=case, figure=f"ways that are better by more than the spread: {', '.join(better)}", value=len(better), goal=goal, ok=ok
        )


def _row(case: str, figure: str, found: Errors, unit: str = "%", **more: object) -> Row:
    settings: dict[str, object] = {"unit": unit, "seeds": len(found.each), "spread": found.spread} | more
    return Row(case=case, figure=figure, value=found.mean, **settings)  # type: ignore[arg-type]
