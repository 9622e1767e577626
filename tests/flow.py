"""A small network, trained on a little of the bundled Fashion-MNIST: what the tests of the whole flow compress."""

from functools import cache

import torch
from torch import nn

from karui import datasets
from karui.data import ArrayPart, Data
from karui.finetune.loop import Training, finetune
from karui.graph.doors.torch import capture
from karui.graph.network import Network


class Small(nn.Module):
    """Two convolutions and two linear layers, 52,000 parameters: ``[N, 1, 28, 28]`` → ``[N, 10]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.fc1, self.fc2 = nn.Linear(16 * 49, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


@cache
def data() -> Data:
    """2,000 training, 600 validation and 600 test pictures."""
    whole = datasets.load("fashion-mnist", sample=True, augment=False)
    parts = {name: getattr(whole, name) for name in ("train", "validation", "test")}
    few = {name: part.take(2000 if name == "train" else 600) for name, part in parts.items() if isinstance(part, ArrayPart)}
    return Data(
        name="few",
        calibration=few["train"].take(128),
        metric=whole.metric,
        loss=whole.loss,
        pixels=whole.pixels,
        labels=whole.labels,
        **few,
    )


@cache
def _trained() -> Network:
    torch.manual_seed(0)
    network = capture(Small(), data().example(2), name="small")
    finetune(network, data(), Training(epochs=8, lr=0.05, schedule="onecycle"), seed=0)
    return network.eval()


def network() -> Network:
    """The trained network, a copy of one's own."""
    return _trained().copy()
