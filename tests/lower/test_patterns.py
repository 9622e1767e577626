"""A mask with a pattern lowers to that pattern; the file gets smaller by it and C computes the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from karui.export import onnx
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec, interpreter
from karui.program.program import Block, Element, NofM, Program
from karui.run import onnxruntime
from karui.testing.subjects import small_inputs
from tests.export.many import check
from tests.lower.quantized import quantized

Mask = Callable[[torch.Tensor], torch.Tensor]


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """The two greatest of each four input channels."""
    last = weight.detach().abs().movedim(1, -1)
    order = last.reshape(-1, 4).argsort(1, descending=True).argsort(1)
    return (order < 2).reshape(last.shape).movedim(-1, 1).float()


def one_by_four(weight: torch.Tensor) -> torch.Tensor:
    """The greater half of the blocks of four input channels."""
    last = weight.detach().abs().movedim(1, -1)
    sums = last.reshape(-1, 4).sum(1)
    return (sums > sums.median())[:, None].expand(-1, 4).reshape(last.shape).movedim(-1, 1).float()


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4, 64)
        self.fc2 = nn.Linear(64, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(torch.relu(self.first(x))))
        x = torch.flatten(torch.nn.functional.max_pool2d(x, 4), 1)
        return self.fc2(torch.relu(self.fc1(x)))


def masked(pattern: Mask, *, integer: bool) -> Network:
    torch.manual_seed(0)
    module, example = Masked(), torch.randn(8, 1, 8, 8)
    network = quantized(module, example) if integer else capture(module, example).eval()
    for name in ("conv.weight", "fc2.weight"):
        edit.put_on_parameter(network, name, torch.ops.karui.mask.default, state={"mask": pattern(network.get(name))})
    return network


def as_elements(program: Program) -> Program:
    weights = {n: w if w.stored == w.mask.size else replace(w, support=Element(mask=w.mask)) for n, w in program.weights.items()}
    return replace(program, weights=weights)


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize(("pattern", "kind"), [(two_of_four, NofM), (one_by_four, Block)])
def test_a_pattern_is_stored_as_one(pattern: Mask, kind: type, integer: bool, tmp_path: Path) -> None:
    program = lower(masked(pattern, integer=integer))
    supports = {name: type(w.support) for name, w in program.weights.items() if "weight" in name}
    assert supports["conv.weight"] is supports["fc2.weight"] is kind, supports
    elements = as_elements(program)
    assert len(codec.encode(program)) < len(codec.encode(elements)) - 50
    inputs = small_inputs(program, 6)
    for a, b in zip(interpreter.run(program, inputs), interpreter.run(elements, inputs), strict=True):
        assert np.array_equal(a, b)
    check(program, tmp_path / "c", inputs)
    found = onnxruntime.load(onnx.write(program, tmp_path / "onnx")).run(inputs)[0]
    wanted = interpreter.run(program, inputs)[0]
    assert np.abs(found.astype(np.float64) - wanted).max() <= (2 if integer else 1e-4 * np.abs(wanted).max())
