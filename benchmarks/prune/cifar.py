"""Lines 2a and 2b, on CIFAR-10. ResNet-20: channels against torch-pruning, blocks, weights. ResNet-8: each importance by each allocation.

The dense networks are the zoo's. Seeds are those of the retraining. How channels are ranked is chosen on validation, by short trainings.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import nn

from benchmarks.harness import Row, at_least, at_most, skipped
from benchmarks.prune.kept import KEPT
from benchmarks.trainings import SEEDS, Errors, error, only, trained
from karui import datasets, zoo
from karui.analyse.cost import measure
from karui.compress.prune.blocks import PruneBlocks
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.data import Data
from karui.errors import DataError
from karui.finetune.evaluate import score
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.zoo import catalogue

RETRAIN = Training(epochs=10, batch_size=128, lr=0.05, weight_decay=5e-4, schedule="onecycle", warmup=0.1, channels_last=True, amp=True)
TRIAL = replace(RETRAIN, epochs=1, lr=0.03)
SHORT = replace(RETRAIN, epochs=0, steps=150, lr=0.02)
INNER = ("*.conv1",)  # of each block the layer between: shortcuts keep their width
CHANNELS: dict[str, PruneChannels] = {
    "l2_norm x uniform": PruneChannels(macs=0.5),
    "l2_norm x global": PruneChannels(macs=0.5, allocation="global"),
    "l2_norm x uniform, within blocks": PruneChannels(macs=0.5, include=INNER),
    "taylor x global, within blocks": PruneChannels(macs=0.5, importance="taylor", allocation="global", include=INNER),
}
SPARSITY = 0.9  # of the table: where the rules differ
IMPORTANCES = ("magnitude", "taylor", "fisher", "wanda")
ALLOCATIONS = ("uniform", "global", "erk", "lamp", "std", "sensitivity")


def rows(line: Callable[[Data], Iterator[Row]]) -> Callable[[bool], Iterator[Row]]:
    """A line on CIFAR-10, or a row that says what is missing."""

    def measured(quick: bool) -> Iterator[Row]:
        try:
            data = datasets.load("cifar-10")
        except DataError as reason:
            yield skipped("2a cifar-10" if line is resnet20 else "2b cifar-10", str(reason))
            return
        yield from line(data)

    return measured


def resnet20(data: Data) -> Iterator[Row]:
    """The headline network, one seed: every accuracy against the dense control's, which had the same training."""
    case, dense = f"2a {data.name}, resnet20", zoo.load("resnet20_cifar10")
    control = 100 - error(trained(dense, data, [only(RETRAIN)], "resnet20/control"), data)
    yield Row(case=f"{case}, dense", figure="test accuracy", value=100 - error(dense, data), unit="%")
    yield Row(case=f"{case}, dense control", figure="test accuracy", value=control, unit="%")
    macs = measure(dense).macs
    trials = {name: tried(dense, data, name) for name in CHANNELS}
    for name, accuracy in trials.items():
        yield Row(case=f"{case}, channels, {name}", figure="validation accuracy after 1 epoch", value=accuracy, unit="%")
    best = max(trials, key=lambda name: trials[name])
    ours = trained(dense, data, [Phase(techniques=(CHANNELS[best],), training=RETRAIN)], f"resnet20/channels-{_folder(best)}")
    start = torch_pruned(0.5)
    theirs = trained(start, data, [only(RETRAIN)], "resnet20/torch-pruning")
    reached = {}
    for who, network in (("karui", ours), ("torch-pruning", theirs)):
        reached[who] = 100 - error(network, data)
        yield Row(case=f"{case}, channels, {who}", figure="MACs left", value=measure(network).macs / macs)
        yield Row(case=f"{case}, channels, {who}", figure="test accuracy", value=reached[who], unit="%")
    yield at_most(f"{case}, channels", "accuracy lost at 50 % MACs", control - reached["karui"], 1.0, "points", peer="dense control")
    better = reached["karui"] - reached["torch-pruning"]
    yield Row(case=f"{case}, channels", figure="accuracy above torch-pruning's", value=better, unit="points", goal="> 0", ok=better > 0)
    for percent, goal in ((70, 0.35), (90, None)):
        phase = Phase(techniques=(Prune(sparsity=percent / 100, schedule="cubic"),), training=RETRAIN)
        name = f"resnet20-sparse-{percent}"
        sparse = trained(dense, data, [phase], f"resnet20/sparse-{percent}")
        lost = control - (100 - error(sparse, data))
        KEPT.keep(name, sparse)
        figure = f"accuracy lost at {percent} % sparsity"
        if goal is None:
            yield Row(case=f"{case}, weights", figure=figure, value=lost, unit="points", peer="dense control")
        else:
            yield at_most(f"{case}, weights", figure, lost, goal, "points", peer="dense control")
    shallow = trained(dense, data, [Phase(techniques=(PruneBlocks(ratio=1 / 3),), training=RETRAIN)], "resnet20/blocks")
    lost = control - (100 - error(shallow, data))
    yield Row(case=f"{case}, a third of the blocks", figure="MACs left", value=measure(shallow).macs / macs)
    yield Row(case=f"{case}, a third of the blocks", figure="accuracy lost", value=lost, unit="points", peer="dense control")


def tried(dense: Network, data: Data, name: str) -> float:
    """The validation accuracy of a candidate, after a short training."""
    network = trained(dense, data, [Phase(techniques=(CHANNELS[name],), training=TRIAL)], f"resnet20/try-{_folder(name)}")
    return score(network, data.validation, data.metric)


def _folder(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def torch_pruned(share: float) -> Network:
    """The same network, cut by torch-pruning's group magnitude, the same ratio in each group, to this share of the MACs."""
    import torch_pruning as tp

    def cut(ratio: float) -> nn.Module:
        module = zoo.build("resnet20_cifar10")
        catalogue.fill(module, Path(str(files("karui.zoo") / "weights" / "resnet20_cifar10.safetensors")))
        pruner = tp.pruner.MetaPruner(
            module.eval(),
            torch.zeros(1, 3, 32, 32),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[module.fc],
        )
        pruner.step()
        return module

    def network(ratio: float) -> Network:
        return capture(cut(ratio), torch.zeros(2, 3, 32, 32), name="resnet20_cifar10").eval()

    goal = share * measure(network(0.0)).macs
    low, high = 0.0, 0.9
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if measure(network(middle)).macs <= goal else (middle, high)
    return network(high)


def table(data: Data) -> Iterator[Row]:
    """ResNet-8, 90 % of the weights at once, then a short training: each importance with each allocation, three seeds."""
    dense = zoo.load("resnet8")
    found = {}
    for importance in IMPORTANCES:
        for allocation in ALLOCATIONS:
            prune = Prune(sparsity=SPARSITY, schedule="one_shot", importance=importance, allocation=allocation)  # type: ignore[arg-type]
            name = f"resnet8/{importance}-{allocation}"
            phase = Phase(techniques=(prune,), training=SHORT)
            each = tuple(100 - error(trained(dense, data, [phase], f"{name}/{seed}", seed=seed), data) for seed in SEEDS)
            found[importance, allocation] = Errors(each=each)
            case = f"2b {data.name}, resnet8, {importance} x {allocation}"
            yield Row(
                case=case,
                figure="test accuracy",
                value=found[importance, allocation].mean,
                unit="%",
                seeds=3,
                spread=found[importance, allocation].spread,
            )
    best = max(found, key=lambda key: found[key].mean)
    gain = found[best].mean - found["magnitude", "uniform"].mean
    yield at_least(f"2b {data.name}, resnet8", f"{' x '.join(best)} above magnitude x uniform", gain, 0.0, "points", seeds=3)
