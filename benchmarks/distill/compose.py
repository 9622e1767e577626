"""Line 3: what distillation brings to networks that are compressed hard: the same training, with the original's answers and without."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from benchmarks.distill.kept import KEPT
from benchmarks.distill.methods import mnist
from benchmarks.harness import Row, skipped
from benchmarks.prune.mnist import dense
from benchmarks.quantize import few_bits
from benchmarks.trainings import FOLDER, SEEDS, Errors, error, trained
from karui import datasets, zoo
from karui.compress.distill.hinton import Distill
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.errors import DataError
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.network import Network

ALPHA = 0.9
TRAINING = Training(epochs=3, batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=1e-4, channels_last=True)


@dataclass(frozen=True, kw_only=True)
class Hard:
    """A network, what is done to it, and how it is trained then; seeds are those of that training."""

    data: str
    start: Callable[[Data], Network]
    techniques: tuple[Technique, ...]
    training: Training
    kept: str = ""
    augmented: bool = False
    seeds: tuple[int, ...] = SEEDS


HARD: Mapping[str, Hard] = {
    "lenet5, 99 % pruned": Hard(
        data="mnist",
        start=lambda data: dense("lenet5", data, 0),
        techniques=(Prune(sparsity=0.99, schedule="cubic"),),
        training=TRAINING,
        kept="lenet5-99-distilled",
    ),
    "narrow LeNet, int4": Hard(
        data="mnist",
        start=lambda data: mnist().taught("alone", 0),
        techniques=(Quantize(bits=4, activation_bits=4),),
        training=TRAINING,
        kept="narrow-int4-distilled",
    ),
    "resnet8, 1-bit weights and activations": Hard(
        data="cifar-10",
        start=lambda data: zoo.load("resnet8"),
        techniques=few_bits.WAYS["1w1a"],
        training=replace(few_bits.TRAINING, epochs=0.3),
        augmented=True,
    ),
}


def rows(quick: bool) -> Iterator[Row]:
    """Both accuracies and their difference, for each."""
    for name, hard in HARD.items():
        case = f"3 {hard.data}, {name}"
        try:
            data = datasets.load(hard.data, augment=hard.augmented)
        except DataError as reason:
            yield skipped(case, str(reason))
            continue
        found = {
            way: Errors(each=tuple(100 - error(compressed(name, way, data, s), data) for s in hard.seeds)) for way in ("alone", "taught")
        }
        for way, label in (("alone", "without distillation"), ("taught", "distilled from the dense network")):
            yield _row(case, f"test accuracy, {label}", found[way])
        KEPT.keep(hard.kept, compressed(name, "taught", data, hard.seeds[0]))
        gains = Errors(each=tuple(b - a for a, b in zip(found["alone"].each, found["taught"].each, strict=True)))
        yield _row(case, "distillation brings", gains, unit="points")


def compressed(name: str, way: str, data: Data, seed: int) -> Network:
    """The network of this seed; "taught": by what it was before."""
    hard = HARD[name]
    cache = str(FOLDER / "distill" / f"targets-{name.partition(',')[0]}-{seed}") if hard.augmented else None
    more = (Distill(alpha=ALPHA, cache=cache),) if way == "taught" else ()
    phase = Phase(techniques=(*hard.techniques, *more), training=hard.training)
    folder = f"distill/compose/{name.replace(',', '').replace(' %', '').replace(' ', '-')}/{way}/{seed}"
    return trained(hard.start(data), data, [phase], folder, seed=seed)


def _row(case: str, figure: str, found: Errors, unit: str = "%") -> Row:
    return Row(case=case, figure=figure, value=found.mean, unit=unit, seeds=len(found.each), spread=found.spread)
