"""A module, captured and quantized after training with its example."""

from typing import Any

import torch

from karui.compress.quantize.int8 import Quantize
from karui.data import Data
from karui.finetune.phases import Phase, run_phases
from karui.graph.doors.torch import capture
from karui.graph.network import Network


def data_of(example: torch.Tensor) -> Data:
    part = (example, torch.zeros(len(example), dtype=torch.int64))
    return Data.of(train=part, validation=part, test=part)


def quantized(module: torch.nn.Module, example: torch.Tensor, *first: Any) -> Network:
    network = capture(module, example[:2])
    phases = [Phase(techniques=(t,)) for t in (*first, Quantize())]
    return run_phases(network, data_of(example), phases).network.eval()
