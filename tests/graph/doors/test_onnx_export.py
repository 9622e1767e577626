"""There and back: files that karui itself wrote, in floats and in integers, and files of torch.onnx."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from karui.export import onnx as target
from karui.graph.doors.onnx import read
from karui.graph.doors.torch import capture
from karui.lower.lower import lower
from karui.program.arithmetic import quantization
from karui.program.interpreter import run
from karui.program.program import AffineValues, Program
from tests.graph.doors.onnx_models import agree, ops_of
from tests.program.builders import ALL, sample


def trained(module: nn.Module) -> nn.Module:
    """Statistics as after training."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.running_var, 0.5, 1.5)
            nn.init.normal_(each.running_mean)
    return module.eval()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(),
        nn.MaxPool2d(2), nn.Conv2d(8, 12, 1), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(12, 5),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.layer(x)[:, 0])


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutional": (convolutional, (3, 16, 16)),
    "recurrent": (Recurrent, (7, 4)),
    "attentive": (Attentive, (5, 8)),
}


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_a_file_of_torch_is_its_module(name: str, free: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, shape = trained(NETS[name][0]()), NETS[name][1]
    x, path = torch.randn(3, *shape), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter needs no further package, and says that it is old
        axes = {"x": {0: "N"}} if free else None
        torch.onnx.export(module, (x if free else x[:1],), str(path), input_names=["x"], dynamic_axes=axes, dynamo=False)
    network = read(path)
    agree(network, path, [x.numpy()])
    torch.testing.assert_close(network(x)[0], module(x), rtol=1e-4, atol=1e-5)
    (found,) = run(lower(network), [x.numpy() if len(shape) < 3 else x.permute(0, 2, 3, 1).numpy()])
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_names_survive_torchs_exporter(tmp_path: Path) -> None:
    module = Attentive().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        where, free = str(tmp_path / "net.onnx"), {"x": {0: "N"}}
        torch.onnx.export(module, (torch.randn(2, 5, 8),), where, dynamic_axes=free, input_names=["x"], dynamo=False)
    network = read(tmp_path / "net.onnx")
    assert {"token", "layer.linear1.weight", "layer.linear1.bias", "layer.norm1.weight", "head.weight"} <= set(network.parameters())
    assert "linear" in ops_of(network) and "addmm" not in ops_of(network)


@pytest.mark.parametrize("name", NETS)
def test_a_float_file_of_karui_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = NETS[name]
    x = torch.randn(3, *shape)
    original = capture(trained(make()), x[:2])
    path = target.write(lower(original.eval()), tmp_path).main
    network = read(path)
    agree(network, path, [x.numpy()])
    torch.testing.assert_close(network(x)[0], original(x)[0], rtol=1e-4, atol=1e-5)
    (found,) = run(lower(network), [x.numpy() if len(shape) < 3 else x.permute(0, 2, 3, 1).numpy()])
    np.testing.assert_allclose(found, original(x)[0].detach().numpy(), rtol=1e-3, atol=1e-4)


def real(program: Program, output: np.ndarray) -> np.ndarray:
    tensor = program.tensor(program.outputs[0].tensor)
    if tensor.dtype != "int8":
        return output
    scale, zero_point = quantization(tensor)
    return (output.astype(np.float32) - zero_point) * scale


def integers(program: Program) -> list[list[int]]:
    """The codes of each weight that has any, whatever their layout."""
    return sorted(sorted(w.values.codes.ravel().tolist()) for w in program.weights.values() if isinstance(w.values, AffineValues))


@pytest.mark.parametrize("name", ["lenet", "residual"])
def test_an_int8_file_of_karui_comes_back_with_the_same_integers(name: str, tmp_path: Path) -> None:
    program = ALL[name](integer=True)
    network = read(target.write(program, tmp_path).main)
    again = lower(network)
    weights = [w for w in integers(program) if len(w) > 16]  # biases are reals on the way
    assert [w for w in integers(again) if len(w) > 16] == weights and weights
    inputs = sample(program, 50)
    first = run(again, inputs)[0]
    gap = np.abs(real(program, run(program, inputs)[0]) - real(again, first))
    step = float(quantization(program.tensor("fc_y" if name == "residual" else program.outputs[0].tensor))[0])
    assert gap.max() <= 1.01 * step and (gap > 0.01 * step).mean() < 0.1  # the file rounds biases to the sums' grid
    third = lower(read(target.write(again, tmp_path, name="again").main))
    np.testing.assert_array_equal(run(third, inputs)[0], first)  # and once they are rounded, nothing changes any more
    network.train()(*network.example(2))[0].square().sum().backward()
    assert all(p.grad is not None for p in network.parameters().values() if p.dim() > 1)
