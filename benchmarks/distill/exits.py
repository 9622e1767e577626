"""Line 4: early exits. LeNet-5 on MNIST and ResNet-20 on CIFAR-10: what it costs and saves that most samples leave early.

Line 4 trains and counts (shares, MACs, accuracies), line 4t takes the times: means over test samples, one call each. The dense control gets
the epochs that the network itself gets, not those of branches on a network that is left alone. Which branches LeNet-5 gets is chosen by
short trainings, and every threshold, on validation.

In C LeNet-5's first convolution, an eighth of its MACs, takes two fifths of its time or so, so an exit behind it, where BranchyNet has its
first, can't save the rest. The exit at the input is a small network in front of it. Both places are tried.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, at_least, at_most, skipped
from benchmarks.prune.mnist import RETRAIN, dense
from benchmarks.trainings import error, only, trained
from karui import datasets, zoo
from karui.compress.distill.exits import EarlyExits
from karui.data import Batch, Data
from karui.errors import DataError
from karui.export import c
from karui.finetune.phases import Phase, run_phases
from karui.finetune.training import Training
from karui.graph import branches, edit
from karui.graph.exits import margin
from karui.graph.network import Network
from karui.lower import lower
from karui.program.program import Program
from karui.run import host
from karui.search.scores import feeds, program_scores
from karui.verify.cost import undecided

LENET_TRIAL = replace(RETRAIN, epochs=2)
LENET_TRAINING = replace(RETRAIN, epochs=10)
LENET = {
    "input": EarlyExits(after=("x",), channels=(8,), grid=7, hidden=64),
    "input, wider": EarlyExits(after=("x",), channels=(16,), grid=7, hidden=128),
    "input, wider, and conv1": EarlyExits(after=("x", "conv1"), channels=(16,), grid=7, hidden=128),
}
BRANCHYNET = EarlyExits(after=("conv1",), grid=6, hidden=64)  # its place
RESNET_TRAINING = Training(epochs=3, batch_size=128, lr=0.03, weight_decay=5e-4, schedule="onecycle", warmup=0.1, channels_last=True)
RESNET_BRANCHES = replace(RESNET_TRAINING, epochs=8, lr=0.1)
RESNET = EarlyExits(after=("blocks.0", "blocks.4"), channels=(32, 64), depth=2, grid=4, trunk=False)
LEARNING = 1.0  # points that exits may cost which are kept after training, before thresholds are chosen for the drop that is asked for
CHUNK = 100  # samples timed in turn
PASSES = 2


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A network with exits, and its dense control. lost: points of accuracy that exits may cost. faster: what is asked for."""

    name: str
    data: Data
    control: Network
    exits: Network
    facts: Mapping[str, Any]
    lost: float
    faster: float
    dense: float


def lenet() -> Pair:
    """LeNet-5; its branches chosen by the MACs that are left after a short training."""
    data = datasets.load("mnist", augment=False)
    start, at = dense("lenet5", data, 0), f"{data.name}/lenet5/0"
    control = trained(start, data, [only(LENET_TRAINING)], f"{at}/control")
    best = min(LENET, key=lambda name: tried(start, data, name)["expected_macs"])
    network, facts = with_exits(start, data, LENET[best], LENET_TRAINING, f"{at}/exits-{_folder(best)}", drop=0.05)
    case = f"mnist, lenet5, exit at {best}"
    return Pair(name=case, data=data, control=control, exits=network, facts=facts, lost=0.1, faster=4.0, dense=100 - error(start, data))


def tried(start: Network, data: Data, name: str) -> Mapping[str, Any]:
    """What is told of a candidate after a short training."""
    return with_exits(start, data, LENET[name], LENET_TRIAL, f"{data.name}/lenet5/0/try-exits-{_folder(name)}", drop=0.05)[1]


def lenet_branchynet() -> Pair:
    """LeNet-5 with the exit where BranchyNet has its first."""
    data = datasets.load("mnist", augment=False)
    start, at = dense("lenet5", data, 0), f"{data.name}/lenet5/0"
    control = trained(start, data, [only(LENET_TRAINING)], f"{at}/control")
    network, facts = with_exits(start, data, BRANCHYNET, LENET_TRAINING, f"{at}/exits-conv1", drop=0.05)
    case = "mnist, lenet5, exit at conv1"
    return Pair(name=case, data=data, control=control, exits=network, facts=facts, lost=0.1, faster=0.0, dense=100 - error(start, data))


def resnet() -> Pair:
    """ResNet-20, trained on and then left as it is, with branches that are almost a ResNet-8."""
    data, start = datasets.load("cifar-10"), zoo.load("resnet20_cifar10")
    control = trained(start, data, [only(RESNET_TRAINING)], "resnet20/exits-control")
    network, facts = with_exits(control, data, RESNET, RESNET_BRANCHES, "resnet20/exits-branches", drop=0.4, learning=0.4)
    case = "cifar-10, resnet20, two exits, trunk as it was"
    return Pair(name=case, data=data, control=control, exits=network, facts=facts, lost=0.5, faster=1.5, dense=100 - error(start, data))


PAIRS = (lenet, resnet, lenet_branchynet)


def with_exits(
    start: Network, data: Data, exits: EarlyExits, training: Training, name: str, *, drop: float, learning: float = LEARNING
) -> tuple[Network, Mapping[str, Any]]:
    """Trained once; the thresholds are chosen for this drop."""
    learned = trained(start, data, [Phase(techniques=(replace(exits, drop=learning),), training=training)], name)
    chosen = run_phases(learned, data, [Phase(techniques=(replace(exits, drop=drop),))])
    return chosen.network, chosen.phases[0].facts[0]


def rows(quick: bool) -> Iterator[Row]:
    """Who leaves where, what is lost, MACs."""
    for pair in _pairs("4"):
        if isinstance(pair, Row):
            yield pair
            continue
        case, data, facts = f"4 {pair.name}", pair.data, pair.facts
        yield Row(case=f"{case}, dense", figure="test accuracy", value=pair.dense, unit="%")
        control, ours = (accuracy(each, data) for each in (pair.control, pair.exits))
        yield Row(case=f"{case}, dense control", figure="test accuracy", value=control, unit="%")
        yield Row(case=case, figure="test accuracy", value=ours, unit="%")
        yield Row(case=case, figure="test accuracy where nobody leaves", value=accuracy(patient(pair.exits), data), unit="%")
        yield at_most(case, "accuracy lost", control - ours, pair.lost, "points", peer="dense control")
        for name, share in leaving(pair.exits, data).items():
            yield Row(case=case, figure=f"test samples that leave at {name}", value=100 * share, unit="%")
        yield Row(case=case, figure="MACs of a validation sample, mean / all", value=facts["expected_macs"] / facts["macs"])
        yield Row(case=case, figure="MACs of an undecided sample / all", value=facts["undecided_macs"] / facts["macs"])


def timed(quick: bool) -> Iterator[Row]:
    """Mean latencies in C over test samples, in turn."""
    for pair in _pairs("4t"):
        if isinstance(pair, Row):
            yield pair
            continue
        case = f"4t {pair.name}"
        programs = {"dense control": lower(pair.control), "exits": lower(pair.exits), "undecided": undecided(lower(pair.exits))}
        times = latencies(programs, pair.data)
        for name, (mean, spread) in times.items():
            yield Row(case=f"{case}, {name}", figure="latency, mean over test samples", value=mean, unit="ms", spread=spread)
        ratio = times["dense control"][0] / times["exits"][0]
        figure = "faster than the dense control"
        yield at_least(case, figure, ratio, pair.faster, "x") if pair.faster else Row(case=case, figure=figure, value=ratio, unit="x")
        yield Row(
            case=case, figure="time of an undecided sample / dense control's", value=times["undecided"][0] / times["dense control"][0]
        )


def _pairs(line: str) -> Iterator[Row | Pair]:
    """The pairs; a row that says so for one whose data isn't there."""
    for make in PAIRS:
        try:
            yield make()
        except DataError as reason:
            yield skipped(f"{line} {make.__name__}", str(reason))


def accuracy(network: Network, data: Data) -> float:
    """On the test part, in per cent, as the compiled program answers."""
    program = lower(network)
    with TemporaryDirectory() as scratch:
        scores = program_scores(host.build(c.write(program, Path(scratch))).run, program, data.test, data.metric)
    return float(scores.mean()) * data.metric.scale


def patient(network: Network) -> Network:
    """The same network, that nobody leaves early."""
    twin = network.copy()
    for each in branches.exits_of(twin):
        twin.get(each.threshold).fill_(torch.inf)
    return twin


def leaving(network: Network, data: Data) -> dict[str, float]:
    """The share of the test samples that leave at each exit."""
    twin = network.copy().eval()
    exits = branches.exits_of(twin)
    for each in exits:
        edit.tap(twin, each.early, each.threshold)
    gone, total = dict.fromkeys((each.threshold for each in exits), 0), 0
    with torch.no_grad():
        for batch in data.test.batches(250):
            twin(*batch.inputs)
            left = torch.ones(len(batch), dtype=torch.bool)
            for each in exits:
                sure = left & (margin(twin.tapped[each.threshold]) >= twin.get(each.threshold))
                gone[each.threshold] += int(sure.sum())
                left &= ~sure
            total += len(batch)
    return {name.removesuffix(".threshold"): count / total for name, count in gone.items()}


def latencies(programs: Mapping[str, Program], data: Data) -> dict[str, tuple[float, float]]:
    """Milliseconds of a sample: the mean over the test part, and the way from the 10th to the 90th percentile over chunks of it."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    with TemporaryDirectory() as scratch:
        libraries = {name: host.build(c.write(program, Path(scratch) / name.replace(" ", "-"))) for name, program in programs.items()}
        batches: list[Batch] = list(data.test.batches(CHUNK))
        for batch in batches * PASSES:
            for name, library in libraries.items():
                arrays = feeds(programs[name], batch)
                begin = time.perf_counter()
                library.run(arrays)
                found[name].append((time.perf_counter() - begin) / len(batch) * 1e3)
    return {name: (float(np.mean(each)), float(np.percentile(each, 90) - np.percentile(each, 10))) for name, each in found.items()}


def _folder(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
