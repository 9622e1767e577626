"""Line 2: ResNet-8 (three seeds) and ResNet-20 (one) in one and two bits, with and without a teacher, and the whole C program's bytes.

First and last layers keep 8 bits, as in the literature; so does what shortcuts carry. All ways, and the float control, start from the zoo's
weights and have the same training: what two cores have time for, two epochs of ResNet-8, a quarter of one of ResNet-20. Papers take some
hundred: set EPOCHS, and amp on a GPU or a processor that multiplies bfloat16.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Row, at_least, skipped
from benchmarks.quantize.kept import KEPT
from benchmarks.trainings import SEEDS, Errors, error, only, trained
from karui import datasets, zoo
from karui.compress.distill.hinton import Distill
from karui.compress.quantize.binarize import Binarize
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.errors import DataError
from karui.export import c as c_target
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.network import Network
from karui.lower import lower
from karui.run import host
from karui.search.scores import program_scores

ENDS = ("conv1", "fc")
TRAINING = Training(batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=0.0, channels_last=True)
EPOCHS = {"resnet8": 2, "resnet20_cifar10": 0.25}
NETWORKS = {"resnet8": SEEDS, "resnet20_cifar10": SEEDS[:1]}
ASKED = {"resnet8": None, "resnet20_cifar10": 1000}  # of the test's pictures, of the C program: it is made for size, not for speed
FOR_SIZE = ("-Os", "-fPIC")
EDGES = Quantize(include=ENDS)
WAYS: dict[str, tuple[Technique, ...]] = {
    "1w1a": (Binarize(exclude=ENDS), Quantize(activation_bits=1, observer="mse", learn_scales=True, exclude=ENDS), EDGES),
    "1w2a": (Binarize(exclude=ENDS), Quantize(activation_bits=2, observer="mse", learn_scales=True, exclude=ENDS), EDGES),
    "ternary": (Quantize(bits=2, weight_range="mse", exclude=ENDS), EDGES),
}


def rows(quick: bool) -> Iterator[Row]:
    """Both networks."""
    try:
        data = datasets.load("cifar-10")
    except DataError as reason:
        yield skipped("2 cifar-10", str(reason))
        return
    for name, seeds in NETWORKS.items():
        yield from narrowed(name, data, seeds)


def narrowed(name: str, data: Data, seeds: tuple[int, ...]) -> Iterator[Row]:
    """The float control, then each way."""
    case = f"2 {data.name}, {name}, {EPOCHS[name]:g} epochs"
    controls = [control(name, data, seed) for seed in seeds]
    whole = size_in_c(controls[0])
    yield _accuracy(f"{case}, float control", controls, data)
    yield Row(case=f"{case}, float control", figure="C program, code and all, -Os", value=whole, unit="B")
    for way in WAYS:
        for taught in (False, True):
            made = [narrow(name, data, way, seed, taught=taught) for seed in seeds]
            yield _accuracy(f"{case}, {way}" + ", taught" * taught, made, data)
            if not taught:
                KEPT.keep(f"{name}-{way}", made[0])
                size, asked = size_in_c(made[0]), ASKED[name]
                accuracy, of = accuracy_in_c(made[0], data, asked), f", on {asked:,} pictures" if asked else ""
                yield Row(case=f"{case}, {way}", figure="C program, code and all, -Os", value=size, unit="B")
                yield Row(case=f"{case}, {way}", figure=f"its test accuracy, of seed 0{of}", value=accuracy, unit="%")
                yield at_least(f"{case}, {way}", "float's bytes / its own", whole / size, 12, "x")


def control(name: str, data: Data, seed: int) -> Network:
    """The float network, trained as long."""
    training = replace(TRAINING, epochs=EPOCHS[name])
    return trained(zoo.load(name), data, [only(training)], f"few-bits/{name}/control-{seed}", seed=seed)


def narrow(name: str, data: Data, way: str, seed: int, *, taught: bool) -> Network:
    """The network in few bits; taught: by what it was."""
    dense, techniques = zoo.load(name), WAYS[way]
    phase = Phase(techniques=(*techniques, Distill(alpha=0.7)) if taught else techniques, training=replace(TRAINING, epochs=EPOCHS[name]))
    folder = f"few-bits/{name}/{way}" + "-taught" * taught
    return trained(dense, data, [phase], f"{folder}-{seed}", seed=seed, teacher=dense)


def _accuracy(case: str, networks: list[Network], data: Data) -> Row:
    errors = Errors(each=tuple(error(network, data) for network in networks))
    return Row(case=case, figure="test accuracy", value=100 - errors.mean, unit="%", seeds=len(networks), spread=errors.spread)


def size_in_c(network: Network) -> int:
    """Bytes of the compiled program: code, weights, tables; made for size, as one does for such a device."""
    with TemporaryDirectory() as scratch:
        return host.build(c_target.write(lower(network), Path(scratch)), flags=FOR_SIZE).bytes


def accuracy_in_c(network: Network, data: Data, asked: int | None) -> float:
    """What that program answers on the test's first pictures (None: on all), in per cent."""
    program, part = lower(network), data.test.subset(slice(asked), name="test")  # type: ignore[attr-defined]
    with TemporaryDirectory() as scratch:
        library = host.build(c_target.write(program, Path(scratch)), flags=FOR_SIZE)
        return float(program_scores(library.run, program, part, data.metric).mean()) * data.metric.scale
