"""A lowered network computes what the network computes, in floats, whatever its kind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from karui.errors import UnsupportedOp
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.lower.lower import _Recorder
from karui.pixels import Pixels
from karui.program import interpreter
from karui.program.check import check
from karui.program.layout import to_network, to_program
from karui.program.program import Program
from karui.search.scores import outputs_of
from tests.lower.networks import NETWORKS, made, noise
from tests.lower.quantized import quantized


def outputs(program: Program, example: tuple[torch.Tensor, ...]) -> list[NDArray[np.float32]]:
    """What the program gives for a network's inputs, in the network's layout."""
    inputs = [
        np.ascontiguousarray(to_program(x.numpy(), program.tensor(i.tensor).layout)) for x, i in zip(example, program.inputs, strict=True)
    ]
    found = interpreter.run(program, inputs)
    return [to_network(y, program.tensor(o.tensor).layout) for y, o in zip(found, program.outputs, strict=True)]


def agree(network: Network, program: Program, example: tuple[torch.Tensor, ...]) -> None:
    check(program)
    with torch.no_grad():
        wanted = network.eval()(*example)
    for got, want in zip(outputs(program, example), wanted, strict=True):
        assert got.shape == tuple(want.shape)
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4 * want.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_computes_what_the_network_computes(name: str) -> None:
    module, example = made(name)
    network = capture(module, example if len(example) > 1 else example[0])
    agree(network, lower(network), example)


def kinds(program: Program) -> list[str]:
    return [op.kind for op in program.ops]


def test_batch_norm_and_relu_fold_into_the_convolution() -> None:
    module, example = made("inverted residuals")
    network = capture(module, example[0])
    assert kinds(lower(network)) == ["conv2d", "conv2d", "conv2d", "conv2d", "add", "mean", "linear"]


def test_a_flatten_that_sees_channel_order_costs_no_transpose() -> None:
    module, example = made("squeeze")
    network = capture(module, example[0])
    assert "transpose" not in kinds(lower(network))


def test_a_batch_norm_before_a_convolution_stays_an_affine() -> None:
    module, example = made("pre-activation")
    assert "affine" in kinds(lower(capture(module, example[0])))


def test_a_layer_called_twice_with_a_norm_behind_one_call_keeps_both_meanings() -> None:
    module, example = made("shared")
    program = lower(capture(module, example[0]))
    convolutions = [op.weights["weight"] for op in program.ops if op.kind == "conv2d"]
    assert len(set(convolutions)) == 2  # folding the norm into one call must not change the other


def test_pixels_go_in_as_bytes() -> None:
    pixels = Pixels(mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.3))
    module, _ = made("inverted residuals")
    bytes_ = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 12)).astype(np.uint8)
    real = torch.from_numpy(pixels.normalise(bytes_, axis=1))
    network = capture(module, real)
    program = lower(network, pixels=pixels, labels=("a", "b", "c", "d", "e"))
    assert program.tensor(program.inputs[0].tensor).dtype == "uint8"
    assert program.outputs[0].labels == ("a", "b", "c", "d", "e")
    got = interpreter.run(program, [np.ascontiguousarray(to_program(bytes_, "nhwc"))])[0]
    with torch.no_grad():
        want = network.eval()(real)[0].numpy()
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), rtol=0)


def test_pixels_of_another_number_of_channels_are_refused() -> None:
    module, example = made("inverted residuals")
    with pytest.raises(UnsupportedOp, match="3 channels.*2"):
        lower(capture(module, example[0]), pixels=Pixels(mean=(0.1, 0.2), std=(1.0, 1.0)))


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(self.inner(x), 1)[0]


def test_an_op_without_a_rule_is_named_with_what_to_do() -> None:
    with pytest.raises(UnsupportedOp, match="aten.sort.*can't be lowered.*karui list") as error:
        lower(capture(Sorted(), torch.randn(2, 6)))
    assert "\n" not in str(error.value)


class AcrossBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


def test_samples_that_depend_on_each_other_are_refused() -> None:
    with pytest.raises(UnsupportedOp, match="batch"):
        lower(capture(AcrossBatch(), torch.randn(4, 6)))


PERMUTED: dict[str, tuple[Callable[[nn.Module, torch.Tensor], Any], nn.Module, tuple[int, ...]]] = {
    "scores of each step": (lambda m, x: m(x).transpose(1, 2), nn.Conv1d(5, 4, 3), (5, 9)),
    "boxes of each pixel": (lambda m, x: m(x).permute(0, 2, 3, 1), nn.Conv2d(3, 4, 3), (3, 6, 7)),
    "width before height": (lambda m, x: m(x).transpose(2, 3), nn.Conv2d(3, 4, 3), (3, 6, 7)),
    "channels to the front": (lambda m, x: m(x).permute(0, 3, 1, 2), nn.Linear(5, 4), (6, 7, 5)),
    "features to the front": (lambda m, x: m(x).mT, nn.Linear(5, 4), (7, 5)),
    "an input too": (lambda m, x: (m(x), x.transpose(1, 2)), nn.Conv1d(5, 4, 3), (5, 9)),
}


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("name", PERMUTED)
def test_an_output_lies_as_the_network_returns_it(name: str, integers: bool) -> None:
    function, layer, shape = PERMUTED[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> Any:
            return function(self.layer, x)

    x = noise(8, *shape)
    network = quantized(Net(), x) if integers else capture(Net(), x)
    program = lower(network)
    inputs = [np.ascontiguousarray(to_program(x.numpy(), program.tensor(program.inputs[0].tensor).layout))]
    found = outputs_of(program, interpreter.run(program, inputs))
    with torch.no_grad():
        for got, want in zip(found, network.eval()(x), strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_one_value_in_two_orders_is_refused() -> None:
    class Twice(nn.Conv1d):
        def forward(self, x: torch.Tensor) -> Any:
            y = super().forward(x)
            return y, y.transpose(1, 2)

    with pytest.raises(UnsupportedOp, match="return it once"):
        lower(capture(Twice(3, 4, 3), torch.randn(2, 3, 8)))


def test_a_cast_that_cuts_numbers_off_is_refused() -> None:
    class Cut(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.int64).float()

    with pytest.raises(UnsupportedOp, match="cast of floats to torch.int64"):
        lower(capture(Cut(), torch.zeros(2, 3)))


def test_values_that_carry_the_batch_are_not_kept() -> None:
    """All of a network's at once are many times its weights."""
    network = capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)).eval()
    three = _Recorder(network.module, None)
    three.run(*network.example(3))
    two = _Recorder(network.module, three.kept)
    two.run(*network.example(2))
    assert len(two.kept) == 4 and all(value.is_meta for value in (*two.kept.values(), *three.kept.values()))


def test_integers_that_are_counted_with() -> None:
    """A mask of attention comes as whole numbers and is multiplied: to a device it is floats. What looks words up stays whole."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 2)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.words(ids) + (1 - mask[:, :, None]) * -4.0
            return self.head((x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1))

    ids, mask = torch.randint(9, (3, 5)), torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]])
    module = Masked().eval()
    network = capture(module, (ids, mask))
    program = lower(network)
    check(program)
    found = interpreter.run(program, [ids.numpy().astype(np.int32), mask.numpy().astype(np.float32)])[0]
    with torch.no_grad():
        assert np.abs(found - module(ids, mask).numpy()).max() < 1e-5
