import torch

from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.graph.placement import activation_points, is_fused, shared_scales
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8
from tests.graph.nets import network_of


def net(name: str) -> Network:
    return network_of(name)


def names(network: Network) -> list[str]:
    return [node.name for node in activation_points(network)]


def test_lenet() -> None:
    network = capture(lenet5(), torch.randn(2, 1, 28, 28))
    assert names(network) == ["x", "relu", "relu_1", "relu_2", "linear_1"]
    assert [n.name for n in network.module.graph.nodes if is_fused(n)] == ["conv2d", "conv2d_1", "linear"]


def test_resnet_quantizes_both_sides_of_an_add_and_its_end() -> None:
    network = capture(resnet8(), torch.randn(2, 3, 32, 32))
    expected = ["x", "relu", "relu_1", "batch_norm_2", "relu_2", "relu_3", "batch_norm_4", "batch_norm_5", "relu_4"]
    assert names(network)[:9] == expected
    assert names(network)[-2:] == ["adaptive_avg_pool2d", "linear"]


def test_a_chain_ends_where_a_value_has_two_users() -> None:
    network = net("densenet")
    found = names(network)
    assert "cat" in found  # its batch-norm can't be folded into it
    assert "batch_norm" not in found
    assert network.layer_of(activation_points(network)[1]) == "c0"


def test_integer_inputs_are_not_quantized() -> None:
    assert "t" not in names(net("shared"))


def test_quantizers_that_are_there_do_not_hide_the_points() -> None:
    network = net("resnet")
    before = activation_points(network)
    for node in before:
        state = {"scale": torch.tensor(0.1), "zero_point": torch.tensor(0.0)}
        op = torch.ops.karui.fake_quantize.default
        edit.put_on_edge(network, node, op, state=state, args=("scale", "zero_point", -128, 127, None))
    assert activation_points(network) == before


def test_what_shares_a_scale() -> None:
    assert [[n.name for n in group] for group in shared_scales(net("unet"))] == [["relu", "conv_transpose2d", "cat"]]
    (group,) = shared_scales(net("densenet"))  # both cats hang together
    assert len(group) == 5
    assert [[n.name for n in group] for group in shared_scales(net("ds_cnn"))] == [["relu_2", "avg_pool2d"]]
    assert shared_scales(net("resnet")) == []
