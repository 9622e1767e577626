"""The networks: their shapes, with fresh weights where none are at hand, as time doesn't depend on them; calibrated, never trained."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.subjects import efficientnet_lite0
from karui import zoo
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.finetune.phases import Phase, run_phases
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program.program import Program
from karui.zoo.resnet import resnet18, resnet50

SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet8": (lambda: zoo.build("resnet8"), (3, 32, 32)),
    "ds_cnn": (lambda: zoo.build("ds_cnn"), (1, 49, 10)),
    "mobilenet_v1_025": (lambda: zoo.build("mobilenet_v1_025"), (3, 96, 96)),
    "resnet18": (resnet18, (3, 224, 224)),
    "mobilenet_v2": (lambda: zoo.build("mobilenet_v2"), (3, 224, 224)),
    "efficientnet_lite0": (efficientnet_lite0, (3, 224, 224)),
}
LARGE = {"resnet50": (resnet50, (3, 224, 224))}  # in no line but its own
SAMPLES = 16  # of noise, to calibrate with


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A network in floats, and data of its shape."""

    network: Network
    data: Data

    def integer(self, *first: Technique) -> Program:
        """As int8, after other techniques."""
        phases = [Phase(techniques=(*first,))] if first else []
        return lower(run_phases(self.network, self.data, [*phases, Phase(techniques=(Quantize(samples=SAMPLES),))]).network)


def shape(name: str) -> Shape:
    """One of ``SHAPES`` or ``LARGE``. Raises ToolError where a package is missing."""
    build, size = (SHAPES | LARGE)[name]
    torch.manual_seed(0)
    return of(build().eval(), size, name=name)


def of(module: nn.Module, size: tuple[int, ...], *, name: str) -> Shape:
    """Any module."""
    noise = torch.randn(SAMPLES, *size)
    part = (noise, torch.zeros(SAMPLES, dtype=torch.int64))
    return Shape(network=capture(module, noise[:2], name=name), data=Data.of(train=part, validation=part, test=part))
