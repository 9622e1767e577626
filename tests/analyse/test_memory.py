import torch
from torch import nn

from karui.analyse.memory import peak
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.placement import activation_points
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8


def test_lenet_peaks_at_its_first_pool() -> None:
    found = peak(capture(lenet5(), torch.randn(2, 1, 28, 28)))
    assert found.nbytes == 4 * (20 * 24 * 24 + 20 * 12 * 12)
    assert found.layer == "max_pool2d"


def test_a_shortcut_lives_until_its_add() -> None:
    found = peak(capture(resnet8(), torch.randn(2, 3, 32, 32)))
    assert found.nbytes == 3 * 4 * 16 * 32 * 32
    assert len(found.alive) == 3


def test_int8_takes_a_quarter() -> None:
    network = capture(lenet5(), torch.randn(2, 1, 28, 28))
    before = peak(network).nbytes
    for node in activation_points(network):
        state = {"scale": torch.tensor(0.1), "zero_point": torch.tensor(0.0)}
        op = torch.ops.karui.fake_quantize.default
        edit.put_on_edge(network, node, op, state=state, args=("scale", "zero_point", -128, 127, None))
    assert peak(network).nbytes == before // 4
    assert peak(network).as_dict()["layer"] == "max_pool2d"


def test_the_input_counts_while_it_is_read() -> None:
    found = peak(capture(nn.Sequential(nn.Flatten(), nn.Linear(1000, 1)), torch.randn(2, 10, 100)))
    assert found.nbytes == 4 * 1000 + 4
