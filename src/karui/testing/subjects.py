"""A small network and small data that contract suites try things on: real enough to train, quick enough to do so many times."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.finetune.attach import attach_all
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower.lower import lower
from karui.pixels import Pixels
from karui.program.program import Array, Program


class Small(nn.Module):
    """Convolution, batch-norm, depthwise, a shortcut, pooling, flatten, two linear layers: ``[N, 1, 8, 8]`` → ``[N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.conv2 = nn.Conv2d(8, 8, 1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 16, 12)
        self.fc2 = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of four classes."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(F.relu(self.deep(x)))) + x)
        x = torch.flatten(F.max_pool2d(x, 2), 1)
        return self.fc2(F.relu(self.fc1(x)))


def small_network(seed: int = 0) -> Network:
    """``Small`` with batch statistics that aren't trivial, captured, in evaluation mode; the same for the same seed."""
    return _captured(seed).copy()


@cache
def _captured(seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Small()
        for _ in range(3):
            module(torch.randn(16, 1, 8, 8))
        return capture(module, torch.randn(2, 1, 8, 8), name="small").eval()


def small_data(samples: int = 64) -> Data:
    """Noise with one bright quarter, which is the class; every part holds the same samples."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, 1, 8, 8, generator=generator)
    y = torch.arange(samples) % 4
    for i, c in enumerate(y.tolist()):
        x[i, :, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 2
    return Data.of(train=(x, y), validation=(x, y), test=(x, y), calibration=(x, y), name="quarters")


def small_programs() -> dict[str, Program]:
    """``Small`` as programs: floats, 8 bits, both with most weights gone, and one that takes pixels and knows its classes' names."""
    return dict(_programs())


@cache
def _programs() -> dict[str, Program]:
    sparse, int8 = Prune(sparsity=0.8, schedule="one_shot"), Quantize()
    labels = ('say "a"', "k_means K_x", "b\\", "ç??/ */")  # what a target that quotes badly stumbles over
    return {
        "float": _lowered("float"),
        "int8": _lowered("int8", int8),
        "sparse": _lowered("sparse", sparse),
        "sparse int8": _lowered("sparse int8", sparse, int8),
        "pixels": _lowered("pixels", int8, pixels=Pixels(mean=(0.3,), std=(0.5,)), labels=labels),
    }


def _lowered(name: str, *techniques: Technique, pixels: Pixels | None = None, labels: tuple[str, ...] = ()) -> Program:
    network, data = small_network(), small_data()
    for each in attach_all(network, techniques, data, teacher=network.copy(), steps=0, seed=0):
        each.step(1.0)
        each.finish()
    return replace(lower(network, pixels=pixels, labels=labels), name=name)


def small_inputs(program: Program, samples: int = 48) -> list[Array]:
    """Random inputs of a program, [samples, *shape], the same each time: bytes, codes, or numbers about zero."""
    rng = np.random.default_rng(3)
    arrays: list[Array] = []
    for entry in program.inputs:
        tensor = program.tensor(entry.tensor)
        shape = (samples, *tensor.shape)
        low, high = (0, 256) if tensor.dtype == "uint8" else (-128, 128)
        floats = tensor.dtype == "float32"
        arrays.append(rng.standard_normal(shape).astype(np.float32) if floats else rng.integers(low, high, shape).astype(tensor.dtype))
    return arrays
