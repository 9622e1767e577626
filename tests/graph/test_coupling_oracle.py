"""torch-pruning as the oracle: for each channel of each layer, both remove the same entries of the same parameters.

Where theirs gives a network that doesn't run, the network stands in ``OURS``, with the reason, and ours has to run.
"""

import pytest
import torch
from torch import nn

from karui import zoo
from karui.graph.coupling import coupling, remove_channels
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.zoo.resnet import resnet18, resnet50
from tests.graph import nets

tp = pytest.importorskip("torch_pruning", reason="pip install torch-pruning")

Cut = dict[tuple[str, int], frozenset[int]]


def theirs(module: nn.Module, example: tuple[torch.Tensor, ...], layer: str, channel: int) -> Cut:
    """What torch-pruning removes with one output channel of a layer: (weight, axis) → entries."""
    graph = tp.DependencyGraph().build_dependency(module, example)
    target = module.get_submodule(layer)
    group = graph.get_pruning_group(target, graph.get_pruner_of_module(target).prune_out_channels, idxs=[channel])
    names = {each: name for name, each in module.named_modules()}
    found: dict[tuple[str, int], set[int]] = {}
    for dependency, entries in group:
        each = dependency.target.module
        if each in names and hasattr(each, "weight") and each.weight is not None:
            out = dependency.handler.__name__ != "prune_in_channels" or getattr(each, "groups", 1) > 1
            axis = 0 if each.weight.dim() == 1 or (out != isinstance(each, nn.ConvTranspose2d)) else 1
            found.setdefault((f"{names[each]}.weight", axis), set()).update(entries)
    return {key: frozenset(entries) for key, entries in found.items()}


def ours(network: Network, layer: str, channel: int) -> Cut:
    """The same of karui."""
    found = coupling(network)
    maker = next(m for m in found.members if m.parameter == f"{layer}.weight" and m.role == "out")
    unit = found.units[maker.ids[channel]]
    cut = {}
    for member in found.members:
        entries = [i for i, each in enumerate(member.ids.tolist()) if each >= 0 and found.units[each] == unit]
        if entries and member.parameter.endswith("weight"):
            cut[member.parameter, member.axis] = frozenset(entries)
    return cut


def layers_of(network: Network) -> list[tuple[str, int]]:
    """Each layer that makes channels which may go, with one of them."""
    found = coupling(network)
    made = [(name, g) for g in found.groups.values() if not g.fixed for name, _ in g.producers]
    return [(name.removesuffix(".weight"), g.channels // 2) for name, g in made]


SAME = {
    "lenet5": (lambda: zoo.build("lenet5"), (1, 28, 28)),
    "resnet8": (lambda: zoo.build("resnet8"), (3, 32, 32)),
    "resnet18": (lambda: resnet18(classes=10), (3, 64, 64)),
    "mobilenet_v1": (lambda: zoo.build("mobilenet_v1_025"), (3, 32, 32)),
    "mobilenet_v2": (lambda: zoo.build("mobilenet_v2", size=32, width=0.35, classes=10), (3, 32, 32)),
    "ds_cnn": (lambda: zoo.build("ds_cnn"), (1, 49, 10)),
    "concatenated": (nets.DenseNet, (1, 16, 16)),
    "u-net": (nets.UNet, (1, 16, 16)),
    "inverted": (nets.MobileNetV2, (3, 16, 16)),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_entries_leave(name: str) -> None:
    build, shape = SAME[name]
    torch.manual_seed(0)
    module = build().eval()
    example = torch.randn(2, *shape)
    network = capture(module, example).eval()
    layers = layers_of(network)
    assert layers
    for layer, channel in layers[:8]:
        assert ours(network, layer, channel) == theirs(module, (example,), layer, channel), layer


@pytest.mark.slow
def test_every_layer_of_resnet50() -> None:
    module, example = resnet50(classes=10).eval(), torch.randn(2, 3, 64, 64)
    network = capture(module, example).eval()
    for layer, channel in layers_of(network):
        assert ours(network, layer, channel) == theirs(module, (example,), layer, channel), layer


class Written(nn.Module):
    """Sizes that are written out: 8 channels in a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).view(-1, 8, 3, 12)).mean((2, 3))


class Shuffled(nn.Module):
    """ShuffleNet's exchange between groups, its sizes taken from the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)).view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)).mean((2, 3))


class Heads(nn.Module):
    """Attention whose heads are a number in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv, self.b = nn.Linear(8, 12), nn.Linear(12, 36), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.a(x)).view(-1, 8, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.b(y.transpose(1, 2).reshape(-1, 8, 12)).mean(1)


OURS = {"written": (Written, "a", (3, 8, 8)), "shuffled": (Shuffled, "b", (3, 8, 8)), "heads": (Heads, "qkv", (8, 8))}


@pytest.mark.parametrize("name", OURS)
def test_ours_runs_where_theirs_does_not(name: str) -> None:
    build, layer, shape = OURS[name]
    torch.manual_seed(0)
    module = build().eval()
    example = torch.randn(2, *shape)
    network = capture(module, example).eval()
    found = coupling(network)
    number, group = next((n, g) for n, g in found.groups.items() if g.name == f"{layer}.weight")
    assert not group.fixed
    remove_channels(network, found, {number: torch.arange(len(group.units)) > 0})
    assert network(example)[0].shape == module(example).shape
    with pytest.raises((RuntimeError, AssertionError, ValueError, IndexError, KeyError)):
        graph = tp.DependencyGraph().build_dependency(module, (example,))
        target = module.get_submodule(layer)
        graph.get_pruning_group(target, graph.get_pruner_of_module(target).prune_out_channels, idxs=[0]).prune()
        module(example)
