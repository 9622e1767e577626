import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.analyse.cost import macs_by_node, measure
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.zoo.lenet import lenet5, lenet300
from karui.zoo.resnet import resnet8, resnet18, resnet20
from tests.graph.nets import NETS, network_of

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


def test_macs_by_node_are_those_of_the_report(lenet: Network) -> None:
    found = macs_by_node(lenet)
    assert [lenet.layer_of(node) for node in found] == ["conv1", "conv2", "fc1", "fc2"]
    assert list(found.values()) == [row.macs for row in measure(lenet).rows if row.macs]


def test_the_published_counts() -> None:
    assert measure(capture(lenet300(), torch.randn(2, 1, 28, 28))).params == 266_610
    report = measure(capture(lenet5(), torch.randn(2, 1, 28, 28)))
    assert (report.params, report.macs) == (431_080, 288_000 + 1_600_000 + 400_000 + 5_000)
    assert report.weight_bytes == 4 * 431_080
    # He et al. 2016: ResNet-20 has 0.27 M parameters and 40.8 M multiply–adds (option A shortcuts; ours project).
    twenty = measure(capture(resnet20(), torch.randn(2, 3, 32, 32)))
    assert 0.27e6 < twenty.params < 0.28e6
    assert 40.5e6 < twenty.macs < 41.5e6


def test_resnet18_in_small() -> None:
    """1.814 G at 224 × 224 (torchvision's count), all but the last layer in proportion to the area."""
    network = capture(resnet18(), torch.randn(1, 3, 64, 64))
    report = measure(network)
    assert report.params == 11_689_512
    assert report.macs == pytest.approx((1_814_073_344 - 512_000) * (64 / 224) ** 2 + 512_000, rel=1e-9)
    assert network.eval()(*network.example(3))[0].shape == (3, 1000)


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
    gru = measure(network_of("gru"))
    assert gru.macs == 7 * (3 * 8 * (3 + 8) + 3 * 8 * (8 + 8)) + 8 * 2
    lstm = measure(network_of("lstm"))
    assert lstm.macs == 7 * (4 * 8 * (3 + 8) + 4 * 8 * (8 + 8)) + 8 * 2
    unet = {row.name: row for row in measure(network_of("unet")).rows}
    assert unet["u"].macs == 8 * 4 * 4 * 4 * 2 * 2


def test_a_shared_parameter_counts_once_and_its_macs_each_time() -> None:
    report = measure(network_of("shared"))
    assert report.params == 20 * 8 + 8 * 8 + 8
    assert report.macs == 2 * 6 * 8 * 8 + 8 * 20


@pytest.mark.parametrize("name", NETS)
def test_every_network_is_counted_and_left_as_it_was(name: str) -> None:
    network = network_of(name)
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


def test_an_einsum_multiplies_once_for_each_combination_of_letters() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bic,bjc->bij", x, x)

    assert measure(capture(Net(), torch.randn(2, 5, 3))).macs == 5 * 5 * 3
