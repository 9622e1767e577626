"""Line 1: BinaryConnect on MNIST, permutation-invariant, against the same network in floats; no regularizer in either.

The paper's recipe, smaller: 3 hidden layers of 512 units (1,024 there), 60 epochs (1,000 there), batches of 100, Adam, squared hinge loss,
the rate falling exponentially. Epoch and weights are the last ones', for all three; the test set is opened once.
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
PUBLISHED = {"float": "BinaryConnect, table 2: 1.30 ± 0.04", "deterministic": "1.29 ± 0.08", "stochastic": "1.18 ± 0.04"}


def rows(quick: bool) -> Iterator[Row]:
    """Each way's mean test error over three seeds, and how far the binary ones are from the floats."""
    try:
        data = replace(datasets.load("mnist", augment=False), loss=squared_hinge)
    except DataError as reason:
        yield skipped("1 mnist", str(reason))
        return
    found = {}
    for way, techniques in WAYS.items():
        phase = Phase(techniques=techniques, training=TRAINING)
        each = tuple(error(trained(mlp(seed), data, [phase], f"binaryconnect/{way}-{seed}", seed=seed), data) for seed in SEEDS)
        found[way] = Errors(each=each)
        case = f"1 mnist, MLP 3 x {HIDDEN}, {EPOCHS} epochs, {way}"
        yield Row(case=case, figure="test error", value=found[way].mean, unit="%", peer=PUBLISHED[way], seeds=3, spread=found[way].spread)
        if way != "float":
            gap = found[way].mean - found["float"].mean
            yield at_most(case, "test error - float's", gap, 0.1, "points", peer="float", seeds=3, spread=found[way].spread)


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
