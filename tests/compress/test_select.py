import pytest
import torch
from torch import nn

from karui.compress.select import chosen, patterns, weights
from karui.errors import RecipeError
from karui.graph.doors.torch import capture
from tests.compress.tiny import small


def test_patterns_are_names_of_layers_or_parameters() -> None:
    assert chosen("blocks.0.conv1.weight", ("*",), ())
    assert chosen("blocks.0.conv1.weight", ("blocks.0.*",), ("*.bias",))
    assert chosen("conv1.weight", ("conv1",), ())
    assert not chosen("conv10.weight", ("conv1",), ())
    assert not chosen("conv1.weight", ("*",), ("conv?",))


def test_one_pattern_or_many() -> None:
    assert patterns("conv1", "include") == ("conv1",)
    assert patterns(["a", "b"], "include") == ("a", "b")
    with pytest.raises(RecipeError, match="exclude: expected names"):
        patterns([3], "exclude")  # type: ignore[list-item]


def test_weights_of_layers_with_their_users() -> None:
    network = small()
    found = weights(network, ("*",), ("deep",))
    assert list(found) == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
    assert all(len(nodes) == 1 for nodes in found.values())


def test_a_network_without_layers_is_named() -> None:
    network = capture(nn.Embedding(3, 4), torch.zeros(2, 5, dtype=torch.int64), name="net")
    with pytest.raises(RecipeError, match="'net' has no convolution or linear layer"):
        weights(network, ("*",), ())
