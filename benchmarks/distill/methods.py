"""Line 2, on CIFAR-10: ResNet-8 learns from ResNet-20 in each way that karui knows, beside the same training without a teacher.

Every student of a seed sees the same samples, augmented the same way, in the same order; the teacher is asked about each once.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from benchmarks.harness import Row, skipped
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
from karui.graph.network import Network

# what two cores have time for: the papers train 200 epochs and more
TRAINING = Training(epochs=2, batch_size=128, lr=0.1, weight_decay=5e-4, schedule="onecycle", warmup=0.2, channels_last=True)

# weights and temperatures as the papers give them for CIFAR, but that ours share one between label and teacher: nothing is tuned
METHODS: Mapping[str, Callable[[Network, str], tuple[Technique, ...]]] = {
    "Hinton": lambda teacher, cache: (Distill(teacher=teacher, cache=cache),),
    "Hinton, T 8 to 1": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, temperature=(8.0, 1.0)),),
    "DKD": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, match="dkd", alpha=0.5),),
    "DIST": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, match=partial(dist, between=2.0, within=2.0), alpha=0.5),),
    "label-free": lambda teacher, cache: (Distill(teacher=teacher, cache=cache, alpha=1.0),),
    "hint": lambda teacher, cache: (Features(teacher=teacher, method="hint"),),
    "attention": lambda teacher, cache: (Features(teacher=teacher, method="attention"),),
    "relation": lambda teacher, cache: (Features(teacher=teacher, method="relation"),),
}
GOAL = ("Hinton", "DKD", "DIST")  # Hinton and two others


def rows(quick: bool) -> Iterator[Row]:
    """The table, the student alone first."""
    try:
        data = datasets.load("cifar-10")
    except DataError as reason:
        yield skipped("2 cifar-10", str(reason))
        return
    teacher = zoo.load("resnet20_cifar10")
    case = f"2 {data.name}, resnet8"
    yield Row(case=f"{case}, teacher resnet20_cifar10", figure="test accuracy", value=100 - error(teacher, data), unit="%")
    alone = _accuracy(teacher, data, "alone")
    yield _row(f"{case}, alone", "test accuracy", alone)
    for name in METHODS:
        taught = _accuracy(teacher, data, name)
        yield _row(f"{case}, {name}", "test accuracy", taught)
        gain = Errors(each=tuple(b - a for a, b in zip(alone.each, taught.each, strict=True)))
        spread = max(alone.spread or 0.0, taught.spread or 0.0)
        goal = {"goal": "> spread", "ok": gain.mean > spread} if name in GOAL else {}
        yield _row(f"{case}, {name}", "accuracy above the student alone", gain, unit="points", peer="the student alone", **goal)


def student(teacher: Network, data: Data, name: str, seed: int) -> Network:
    """ResNet-8 of this seed, taught in this way; "alone": by nobody."""
    cache = str(FOLDER / "distill" / f"targets-{seed}")
    techniques = METHODS[name](teacher, cache) if name in METHODS else ()
    folder = f"distill/resnet8/{name.replace(', ', '-').replace(' ', '-')}/{seed}"
    return trained(fresh("resnet8", seed, (3, 32, 32)), data, [Phase(techniques=techniques, training=TRAINING)], folder, seed=seed)


def _accuracy(teacher: Network, data: Data, name: str) -> Errors:
    return Errors(each=tuple(100 - error(student(teacher, data, name, seed), data) for seed in SEEDS))


def _row(case: str, figure: str, found: Errors, unit: str = "%", **more: object) -> Row:
    settings: dict[str, object] = {"unit": unit, "seeds": len(found.each), "spread": found.spread} | more
    return Row(case=case, figure=figure, value=found.mean, **settings)  # type: ignore[arg-type]
