import gc
import inspect
import re
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from karui.errors import CaptureError
from karui.graph.doors.torch import capture
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8
from tests.graph.nets import NETS, ResNet, module_and_network, network_of
from tests.graph.odd import ODD


def leaves(outputs: object) -> list[torch.Tensor]:
    return [y for y in torch.utils._pytree.tree_leaves(outputs) if isinstance(y, torch.Tensor)]


@pytest.mark.parametrize("name", NETS)
def test_the_graph_trains_like_the_module(name: str) -> None:
    example = NETS[name][1]
    module, network = module_and_network(name)
    assert network.training
    torch.manual_seed(1)
    found = network(*example)
    torch.manual_seed(1)
    expected = leaves(module(*example))
    assert len(found) == len(expected) == len(network.outputs)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    sum(y.square().sum() for y in found).backward()
    sum(y.square().sum() for y in expected).backward()
    for key, parameter in module.named_parameters():
        torch.testing.assert_close(network.get(key).grad, parameter.grad, rtol=0, atol=0)
    for key, buffer in module.named_buffers():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(network.get(key), buffer, rtol=0, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_evaluation_is_the_modules_at_any_batch_size(name: str) -> None:
    example = NETS[name][1]
    module, network = module_and_network(name)
    network.eval()
    module.eval()
    five = tuple(torch.cat([x, x, x])[:5] for x in example)
    for a, b in zip(network(*five), leaves(module(*five))):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_the_graph_is_canonical(name: str) -> None:
    network = network_of(name)
    graph = network.module.graph
    attributes = [node.target for node in graph.find_nodes(op="get_attr")]
    assert len(attributes) == len(set(attributes))
    assert set(attributes) == network.parameters().keys() | network.buffers().keys()
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable
            assert all(a.kwarg_only for a in node.target._schema.arguments if a.name in node.kwargs)
        assert node.op in ("placeholder", "output") or node.users
        assert not node.meta.keys() - {"karui_layer", "karui_source"}
    assert not any("num_batches_tracked" in str(target) for target in attributes)


@pytest.mark.parametrize("make", [lenet5, resnet8])
def test_parameter_names_and_layers_are_the_users(make: object) -> None:
    module = make()
    network = capture(module, torch.randn(2, 1 if make is lenet5 else 3, 32 if make is resnet8 else 28, 32 if make is resnet8 else 28))
    assert network.parameters().keys() == dict(module.named_parameters()).keys()
    layers = [network.layer_of(node) for node in network.module.graph.nodes if node.op == "call_function"]
    assert {name for name, child in module.named_modules() if isinstance(child, nn.Conv2d | nn.Linear)} <= set(layers)


def test_the_users_module_is_left_alone_and_let_go() -> None:
    module = ResNet().eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    example = torch.randn(2, 3, 8, 8)
    rng = torch.get_rng_state()
    network = capture(module, example)
    assert torch.equal(rng, torch.get_rng_state())
    assert not module.training
    assert not network.training
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    network.get("c.weight").data.zero_()
    assert module.c.weight.abs().sum() > 0
    alive = weakref.ref(module)
    del module
    gc.collect()
    assert alive() is None


def test_ties_are_one_parameter() -> None:
    network = network_of("shared")
    assert network.ties == {"e.weight": ("d.weight",)}
    assert network.get("d.weight") is network.get("e.weight")
    assert "d.weight" not in network.parameters()
    assert len(network.node_of("l.weight").users) == 2


def test_outputs_have_the_users_names() -> None:
    assert network_of("named_outputs").outputs == ("age", "kind")
    assert len(network_of("two_outputs").outputs) == 2
    network = network_of("two_inputs")
    assert [(spec.name, spec.shape) for spec in network.inputs] == [("x", (4,)), ("y", (2, 9))]


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_what_cannot_be_captured_is_refused_in_one_line(make: type[nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    word, names_line = ODD[make]
    with pytest.raises(CaptureError) as caught:
        capture(make(), torch.randn(2, 4))
    message = str(caught.value)
    assert word in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    if names_line:
        lines, first = inspect.getsourcelines(make)
        marked = first + next(i for i, line in enumerate(lines) if "# here" in line)
        assert re.search(rf"odd\.py:{marked}\b", message), message


@pytest.mark.parametrize(
    "example", [None, (), 3.0, torch.tensor(1.0), (torch.randn(2, 4), torch.randn(3, 4)), torch.randn(0, 4)], ids=lambda e: str(type(e))
)
def test_an_example_that_is_none(example: object) -> None:
    with pytest.raises(CaptureError, match="example"):
        capture(nn.Linear(4, 2), example)


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Conv1d(3, 4, 3), dim=None)


NORMED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv1d(3, 4, 3)),
    "orthogonal": lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.orthogonal(nn.Linear(24, 4))),
    "weight norm by a hook": old_weight_norm,
    "spectral norm by a hook": lambda: nn.utils.spectral_norm(nn.Conv1d(3, 4, 3)),
}


@pytest.mark.parametrize("name", NORMED)
def test_a_computed_weight_becomes_a_plain_one(name: str) -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(NORMED[name](), nn.ReLU()), torch.randn(2, 3, 8)
    module(x)  # a hook leaves its weight on the layer
    module.eval()
    names, kind = [key for key, _ in module.named_parameters()], type(module[0])
    expected = module(x)
    network = capture(module, x)
    torch.testing.assert_close(network(x)[0], expected)
    assert sorted(network.parameters()) in (["0.bias", "0.weight"], ["0.1.bias", "0.1.weight"])
    torch.testing.assert_close(module(x), expected)  # the user's own module still is what it was
    assert ([key for key, _ in module.named_parameters()], type(module[0])) == (names, kind)
    module.train()(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


class Auxiliary(nn.Module):
    """A second output in training alone, and layers that must still know that they train."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.bn, self.d, self.aux = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> object:
        y = self.d(self.bn(self.l(x)))
        return (y, self.aux(y)) if self.training else y


class DropConnect(Auxiliary):
    """Stochastic depth as EfficientNet's ports write it."""

    def forward(self, x: torch.Tensor) -> object:
        y = self.d(self.bn(self.l(x)))
        return x + (y / 0.8 * torch.floor(0.8 + torch.rand(len(y), 1)) if self.training else y)


class LayerDrop(Auxiliary):
    def forward(self, x: torch.Tensor) -> object:
        if self.training and torch.rand(1) < 0.5:
            return x
        return self.d(self.bn(self.l(x)))


@pytest.mark.parametrize("make", [Auxiliary, DropConnect, LayerDrop])
def test_a_branch_on_training_is_captured_as_it_evaluates(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = make(), torch.randn(6, 4)
    network = capture(module, x)
    assert network.training
    before = network.get("bn.running_mean").clone()
    (one,), (other,) = network(x), network(x)
    assert not torch.equal(one, other)  # dropout
    assert not torch.equal(network.get("bn.running_mean"), before)
    network.eval()
    module.eval()
    module.load_state_dict({k: v for k, v in network.state().items() if k in module.state_dict()}, strict=False)
    torch.testing.assert_close(network(x)[0], module(x))
    assert "aux.weight" not in network.parameters()
