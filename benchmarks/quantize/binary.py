"""Lines 1 and 1b: BinaryConnect against the same networks in floats; no regularizer in any. Epoch and weights are the last ones'.

The paper's recipes, smaller. MNIST, permutation-invariant: 3 hidden layers of 512 units (1,024 there), 60 epochs (1,000 there), batches of
100, Adam, squared hinge loss, the rate falling exponentially; three seeds. CIFAR-10: the paper's VGG-like network with a quarter of
its channels (32 to 128; 128 to 512 there), one hidden layer of 256 (two of 1,024), 4 epochs (500) of shifted and mirrored pictures; one
seed.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Row, at_most, skipped
from benchmarks.trainings import SEEDS, Errors, error, trained
from karui import datasets
from karui.compress.quantize.binaryconnect import BinaryConnect
from karui.compress.technique import Technique
from karui.data import Data
from karui.errors import DataError
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.doors.torch import capture
from karui.graph.network import Network

HIDDEN, EPOCHS = 512, 60
TRAINING = Training(epochs=EPOCHS, batch_size=100, optimizer="adamw", lr=1e-3, weight_decay=0.0, schedule="exponential", gamma=3e-3)
WAYS: dict[str, tuple[Technique, ...]] = {
    "float": (),
    "deterministic": (BinaryConnect(H=1.0),),
    "stochastic": (BinaryConnect(H=1.0, stochastic=True),),
}
VGG_TRAINING = replace(TRAINING, epochs=4, lr=2e-3, channels_last=True)
CHANNELS = (32, 64, 128)
PUBLISHED = {"float": "BinaryConnect, table 2: 1.30 ± 0.04", "deterministic": "1.29 ± 0.08", "stochastic": "1.18 ± 0.04"}


def on_mnist(quick: bool) -> Iterator[Row]:
    """Line 1: all three ways, over three seeds: the mean test error, and how far the binary ones are from the floats."""
    try:
        data = replace(datasets.load("mnist", augment=False), loss=squared_hinge)
    except DataError as reason:
        yield skipped("1 mnist", str(reason))
        return
    found = {}
    for way in WAYS:
        found[way] = Errors(each=tuple(error(trained_mlp(data, way, seed), data) for seed in SEEDS))
        case = f"1 mnist, MLP 3 x {HIDDEN}, {EPOCHS} epochs, {way}"
        yield Row(
            case=case, figure="test error", value=found[way].mean, unit="%", peer=PUBLISHED[way], seeds=len(SEEDS), spread=found[way].spread
        )
        if way != "float":
            gap = found[way].mean - found["float"].mean
            yield at_most(case, "test error - float's", gap, 0.1, "points", peer="float", seeds=len(SEEDS), spread=found[way].spread)


def on_cifar(quick: bool) -> Iterator[Row]:
    """Line 1b: the float network and the deterministic way, whose weights are binary on the device too."""
    try:
        data = replace(datasets.load("cifar-10"), loss=squared_hinge)
    except DataError as reason:
        yield skipped("1b cifar-10", str(reason))
        return
    found = {}
    for way in ("float", "deterministic"):
        found[way] = error(trained_vgg(data, way), data)
        case = f"1b cifar-10, VGG-like of {CHANNELS[0]} to {CHANNELS[-1]} channels, {VGG_TRAINING.epochs} epochs, {way}"
        yield Row(case=case, figure="test error", value=found[way], unit="%")
    yield at_most(case, "test error - float's", found["deterministic"] - found["float"], 1.5, "points", peer="float")


def trained_mlp(data: Data, way: str, seed: int) -> Network:
    """On MNIST."""
    return trained(mlp(seed), data, [Phase(techniques=WAYS[way], training=TRAINING)], f"binaryconnect/{way}-{seed}", seed=seed)


def trained_vgg(data: Data, way: str) -> Network:
    """On CIFAR-10."""
    return trained(vgg(seed=0), data, [Phase(techniques=WAYS[way], training=VGG_TRAINING)], f"binaryconnect/vgg-{way}")


def squared_hinge(outputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """``mean max(0, 1 − t·y)²`` with t = ±1, over samples and classes."""
    scores = outputs[0]
    signs = 2 * F.one_hot(targets, scores.shape[1]).to(scores) - 1
    return F.relu(1 - signs * scores).square().mean()


def mlp(seed: int) -> Network:
    """784 → 3 × hidden → 10, a batch-norm behind each layer, ReLU between."""

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, eps=1e-4, momentum=0.15)]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [module for inputs in (784, HIDDEN, HIDDEN) for module in (*layer(inputs, HIDDEN), nn.ReLU())]
        return capture(nn.Sequential(nn.Flatten(), *hidden, *layer(HIDDEN, 10)), torch.zeros(2, 1, 28, 28), name="mlp")


def vgg(seed: int, channels: tuple[int, ...] = CHANNELS, hidden: int = 256) -> Network:
    """Two 3 × 3 convolutions for each of ``channels``, pooling behind each pair, and a hidden layer; batch-norm and ReLU between."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in channels:
            for _ in range(2):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Flatten(), nn.Linear(16 * inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        layers += [nn.Linear(hidden, 10, bias=False), nn.BatchNorm1d(10)]
        return capture(nn.Sequential(*layers), torch.zeros(2, 3, 32, 32), name="vgg")
