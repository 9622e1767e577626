"""Line 5: int8 on the zoo's networks, after training and with a short training, beside a control that is trained as long.

Line 5c: ResNet-8 while training again, over three seeds: of one, the test set says the accuracy to ± 0.4 points, and the goal is 0.1.
"""

from collections.abc import Iterator
from statistics import mean

from benchmarks.harness import Row, at_most, skipped
from benchmarks.trainings import SEEDS, Errors, error, only, trained
from karui import datasets, zoo
from karui.compress.distill.hinton import Distill
from karui.compress.quantize.int8 import Quantize
from karui.data import Data
from karui.errors import DataError
from karui.finetune.evaluate import score
from karui.finetune.phases import Phase, run_phases
from karui.finetune.training import Training
from karui.graph.network import Network
from karui.zoo.catalogue import entry

NETWORKS = ("lenet5", "resnet8", "resnet20", "resnet20_cifar10")
QAT = Training(epochs=1, batch_size=128, lr=1e-3, weight_decay=5e-4, schedule="cosine", channels_last=True)
CHOICES = {
    "minmax": Quantize(),
    "mse": Quantize(observer="mse", weight_range="mse"),
    "mse, biases corrected": Quantize(observer="mse", weight_range="mse", bias_correction=True),
}
WHILE_TRAINING = {
    "as it is": Quantize(),
    "batch-norm held": Quantize(hold_batch_norm=0.3),
    "learned steps": Quantize(learn_scales=True, observer="mse", weight_range="mse", hold_batch_norm=0.3),
}


def rows(quick: bool) -> Iterator[Row]:
    """Each network, and the data it was trained on."""
    for name in NETWORKS:
        data_name = entry(name).data
        assert data_name is not None
        try:
            data = datasets.load(data_name)
        except DataError as reason:
            yield skipped(f"5 {name}", str(reason))
            continue
        yield from quantized(f"5 {name}, {data_name}", name, zoo.load(name), data)


def quantized(case: str, name: str, network: Network, data: Data) -> Iterator[Row]:
    """After training, by the settings that are best on validation; then with the same training as a control."""
    dense = 100 - error(network, data)
    yield Row(case=f"{case}, float", figure="test accuracy", value=dense, unit="%")
    made = {label: run_phases(network, data, [Phase(techniques=(each,))]).network for label, each in CHOICES.items()}
    best = max(made, key=lambda label: score(made[label], data.validation, data.metric))
    after = 100 - error(made[best], data)
    yield at_most(f"{case}, after training ({best})", "accuracy lost", dense - after, 0.2, "points", peer="float")
    control = 100 - error(trained(network, data, [only(QAT)], f"zoo/{name}/control"), data)
    yield Row(case=f"{case}, float, trained on", figure="test accuracy", value=control, unit="%")
    learnt = {
        label: trained(network, data, [Phase(techniques=(each,), training=QAT)], f"zoo/{name}/{label.replace(' ', '-')}")
        for label, each in WHILE_TRAINING.items()
    }
    for label, each in learnt.items():
        accuracy = score(each, data.validation, data.metric)
        yield Row(case=f"{case}, quantized while training, {label}", figure="validation accuracy", value=accuracy, unit="%")
    best = max(learnt, key=lambda label: score(learnt[label], data.validation, data.metric))
    lost = control - (100 - error(learnt[best], data))
    yield at_most(f"{case}, quantized while training ({best})", "accuracy lost", lost, 0.1, "points", peer="float, trained on")


def over_seeds(quick: bool) -> Iterator[Row]:
    """Line 5c: the way that line 5 chose for it, and the control; both also taught by what they start from. Validation chooses."""
    name, way = "resnet8", "batch-norm held"
    try:
        data = datasets.load("cifar-10")
    except DataError as reason:
        yield skipped(f"5c {name}", str(reason))
        return
    made = {(label, taught): _each_seed(name, data, label, taught=taught) for taught in (False, True) for label in ("control", way)}
    valid = {key: mean(score(network, data.validation, data.metric) for network in networks) for key, networks in made.items()}
    for (label, taught), accuracy in valid.items():
        yield Row(case=_case(name, label, taught), figure="validation accuracy", value=accuracy, unit="%", seeds=len(SEEDS))
    taught = valid[way, True] > valid[way, False]
    control, learnt = (Errors(each=tuple(error(network, data) for network in made[label, taught])) for label in ("control", way))
    for label, found in (("control", control), (way, learnt)):
        accuracy = 100 - found.mean
        yield Row(case=_case(name, label, taught), figure="test accuracy", value=accuracy, unit="%", seeds=len(SEEDS), spread=found.spread)
    lost, peer = learnt.mean - control.mean, "the control, trained as long"
    yield at_most(_case(name, way, taught), "accuracy lost", lost, 0.1, "points", peer=peer, seeds=len(SEEDS), spread=learnt.spread)


def _case(name: str, way: str, taught: bool) -> str:
    return f"5c {name}, cifar-10, " + ("float control" if way == "control" else f"quantized while training ({way})") + ", taught" * taught


def _each_seed(name: str, data: Data, way: str, *, taught: bool) -> list[Network]:
    return [seeded(name, data, way, seed, taught=taught) for seed in SEEDS]


def seeded(name: str, data: Data, way: str, seed: int, *, taught: bool) -> Network:
    """The network after the short training: "control" in floats, or a way of ``WHILE_TRAINING``. taught: by what it was."""
    dense = zoo.load(name)
    techniques = (*((WHILE_TRAINING[way],) if way in WHILE_TRAINING else ()), *((Distill(alpha=0.9),) if taught else ()))
    folder = f"zoo/{name}/{way.replace(' ', '-')}" + "-taught" * taught
    return trained(dense, data, [Phase(techniques=techniques, training=QAT)], f"{folder}-{seed}", seed=seed, teacher=dense)
