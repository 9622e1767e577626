import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.analyse.cost import measure
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.zoo.lenet import lenet5, lenet300
from karui.zoo.resnet import resnet8, resnet18, resnet20
from tests.graph.nets import NETS

K = torch.ops.karui


@pytest.fixture
def lenet() -> Network:
    return capture(lenet5(), torch.randn(2, 1, 28, 28))


def quantize(network: Network, name: str, bits: int = 8) -> None:
    top = 2 ** (bits - 1) - 1
    scale = network.get(name).detach().abs().flatten(1).amax(1) / top
    state = {"scale": scale, "zero_point": torch.zeros_like(scale)}
    op = K.fake_quantize.default
    edit.put_on_parameter(network, name, op, state=state, args=("scale", "zero_point", -top, top, 0))


def test_the_published_counts() -> None:
    assert measure(capture(lenet300(), torch.randn(2, 1, 28, 28))).params == 266_610
    report = measure(capture(lenet5(), torch.randn(2, 1, 28, 28)))
    assert (report.params, report.macs) == (431_080, 288_000 + 1_600_000 + 400_000 + 5_000)
    assert report.weight_bytes == 4 * 431_080
    # He et al. 2016: ResNet-20 has 0.27 M parameters and 40.8 M multiply–adds (option A shortcuts; ours project).
    twenty = measure(capture(resnet20(), torch.randn(2, 3, 32, 32)))
    assert 0.27e6 < twenty.params < 0.28e6
    assert 40.5e6 < twenty.macs < 41.5e6


def test_resnet18_has_1_8_billion_macs() -> None:
    report = measure(capture(resnet18(), torch.randn(1, 3, 224, 224)))
    assert report.params == 11_689_512
    assert abs(report.macs / 1.814e9 - 1) < 0.01


def test_rows_name_the_layers(lenet: Network) -> None:
    rows = {row.name: row for row in measure(lenet).rows}
    assert (rows["conv2"].params, rows["conv2"].macs, rows["conv2"].output_shape) == (25_050, 1_600_000, (50, 8, 8))
    assert rows["fc1"].op == "linear"
    assert sum(row.params for row in rows.values()) == 431_080


def test_bytes_follow_the_forms(lenet: Network) -> None:
    size = lenet.get("fc1.weight").numel()
    before = measure(lenet).weight_bytes
    mask = torch.zeros(size)
    mask[: size // 10] = 1
    edit.put_on_parameter(lenet, "fc1.weight", K.mask.default, state={"mask": mask.reshape(500, 800)})
    pruned = measure(lenet)
    assert pruned.stored == pruned.params - size + size // 10
    assert before - pruned.weight_bytes == 4 * (size - size // 10)
    quantize(lenet, "fc1.weight")
    assert before - measure(lenet).weight_bytes == 4 * size - size // 10 - 4 * 500
    quantize(lenet, "conv2.weight", bits=4)
    row = next(row for row in measure(lenet).rows if row.name == "conv2")
    assert row.weight_bytes == 25_000 // 2 + 4 * 50 + 4 * 50
    edit.put_on_parameter(lenet, "fc2.weight", K.binarize.default, state={"scale": torch.ones(10)})
    row = next(row for row in measure(lenet).rows if row.name == "fc2")
    assert row.weight_bytes == 5000 // 8 + 4 * 10 + 4 * 10


def test_activation_bytes_follow_the_quantizers(lenet: Network) -> None:
    rows = {row.name: row for row in measure(lenet).rows if row.op != "relu"}
    assert rows["conv1"].activation_bytes == 0  # the relu's output is what is kept
    assert rows["flatten"].activation_bytes == 0
    assert rows["fc2"].activation_bytes == 40
    relu = next(n for n in lenet.module.graph.nodes if n.name == "relu")
    state = {"scale": torch.tensor(0.1), "zero_point": torch.tensor(0.0)}
    edit.put_on_edge(lenet, relu, K.fake_quantize.default, state=state, args=("scale", "zero_point", -128, 127, None))
    after = [row for row in measure(lenet).rows if row.op in ("relu", "max_pool2d")]
    assert [row.activation_bytes for row in after[:2]] == [20 * 24 * 24, 20 * 12 * 12]  # the pool keeps its input's codes


class Products(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.scaled_dot_product_attention(x, x, x)
        return torch.matmul(y, x.transpose(-1, -2))


def test_macs_of_products_and_recurrences() -> None:
    heads, length, width = 2, 5, 8
    report = measure(capture(Products(), torch.randn(2, heads, length, width)))
    assert report.macs == 3 * heads * length * length * width
    gru = measure(capture(NETS["gru"][0](), NETS["gru"][1]))
    assert gru.macs == 7 * (3 * 8 * (3 + 8) + 3 * 8 * (8 + 8)) + 8 * 2
    lstm = measure(capture(NETS["lstm"][0](), NETS["lstm"][1]))
    assert lstm.macs == 7 * (4 * 8 * (3 + 8) + 4 * 8 * (8 + 8)) + 8 * 2
    unet = {row.name: row for row in measure(capture(NETS["unet"][0](), NETS["unet"][1])).rows}
    assert unet["u"].macs == 8 * 4 * 4 * 4 * 2 * 2


def test_a_shared_parameter_counts_once_and_its_macs_each_time() -> None:
    report = measure(capture(NETS["shared"][0](), NETS["shared"][1]))
    assert report.params == 20 * 8 + 8 * 8 + 8
    assert report.macs == 2 * 6 * 8 * 8 + 8 * 20


@pytest.mark.parametrize("name", NETS)
def test_every_network_is_counted_and_left_as_it_was(name: str) -> None:
    network = capture(NETS[name][0](), NETS[name][1])
    before = {key: value.clone() for key, value in network.state().items()}
    report = measure(network)
    assert report.params == sum(p.numel() for p in network.parameters().values())
    assert report.stored == report.params
    assert json.loads(json.dumps(report.as_dict()))["params"] == report.params
    assert all(torch.equal(value, before[key]) for key, value in network.state().items())


def test_resnet8_row_by_row() -> None:
    report = measure(capture(resnet8(), torch.randn(2, 3, 32, 32)))
    assert report.macs == 12_501_632
    assert report.params == 78_042
