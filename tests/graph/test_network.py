import pytest
import torch

from karui.errors import DataError, RunError
from karui.graph.doors.torch import capture
from karui.graph.edit import put_on_parameter
from karui.graph.network import Network
from karui.zoo.lenet import lenet5
from tests.graph.nets import network_of

MASK = torch.ops.karui.mask.default


@pytest.fixture
def network() -> Network:
    return network_of("mlp")


def test_switching_modes_back_and_forth_restores_every_argument(network: Network) -> None:
    def arguments() -> list[object]:
        return [(node.name, tuple(map(str, node.args))) for node in network.module.graph.nodes]

    training = arguments()
    assert not network.eval().training
    evaluation = arguments()
    assert evaluation != training
    assert network.train().eval().eval().train().training
    assert arguments() == training
    x = torch.randn(4, 1, 4, 4)
    assert not torch.equal(network(x)[0], network(x)[0])  # dropout
    network.eval()
    assert torch.equal(network(x)[0], network(x)[0])


def test_an_edit_in_evaluation_survives_the_switch(network: Network) -> None:
    network.eval()
    put_on_parameter(network, "a.weight", MASK, state={"mask": torch.zeros(32, 16)})
    node = next(n for n in network.module.graph.nodes if n.target is torch.ops.aten.dropout.default)
    assert node.args[1:] == (0.3, False)
    network.train()
    assert node.args[1:] == (0.3, True)
    assert network.node_of("a.weight_mask").users


def test_a_copy_is_independent(network: Network) -> None:
    network.eval()
    twin = network.copy()
    assert not twin.training
    assert [network.layer_of(n) for n in network.module.graph.nodes] == [twin.layer_of(n) for n in twin.module.graph.nodes]
    put_on_parameter(twin, "a.weight", MASK, state={"mask": torch.zeros(32, 16)})
    twin.get("c.bias").data.fill_(7)
    twin.train()
    assert not network.training
    assert "a.weight_mask" not in network.buffers()
    assert not bool((network.get("c.bias") == 7).any())
    twin.train()
    assert next(n for n in twin.module.graph.nodes if n.target is torch.ops.aten.dropout.default).args[2] is True


def test_become_keeps_the_object(network: Network) -> None:
    other = capture(lenet5(), torch.randn(2, 1, 28, 28))
    network.become(other)
    assert network.inputs == other.inputs
    assert network.get("conv1.weight") is other.get("conv1.weight")


def test_state_goes_out_and_comes_back(network: Network) -> None:
    saved = {name: tensor.clone() for name, tensor in network.state().items()}
    assert "b.running_mean" in saved
    network(torch.randn(8, 1, 4, 4))
    network.get("a.weight").data.add_(1)
    network.load_state(saved)
    for name, tensor in network.state().items():
        assert torch.equal(tensor, saved[name])
    with pytest.raises(RunError, match="'a.bias'"):
        network.load_state({k: v for k, v in saved.items() if k != "a.bias"})
    with pytest.raises(RunError, match="another network"):
        network.load_state({**saved, "a.bias": torch.zeros(3)})


def test_set_counts_changes_of_structure_and_keeps_trainability(network: Network) -> None:
    network.get("a.bias").requires_grad_(False)
    network.set("a.bias", torch.ones(32))
    assert network.structure == 0
    assert not network.get("a.bias").requires_grad
    network.set("a.bias", torch.ones(16))
    assert network.structure == 1
    network.set("b.running_mean", torch.ones(32))
    assert "b.running_mean" in network.buffers()


def test_names_that_are_wrong(network: Network) -> None:
    for name in ("none", "a.none", "none.weight"):
        with pytest.raises(KeyError, match=name):
            network.get(name)
    with pytest.raises(KeyError, match="already has"):
        network.add_buffer("a.weight", torch.zeros(1))
    network.add_buffer("new.deep.state", torch.ones(2))
    assert torch.equal(network.get("new.deep.state"), torch.ones(2))


def test_wrong_inputs_are_named(network: Network) -> None:
    with pytest.raises(DataError, match=r"captured for 'x' \[N, 1, 4, 4\], got 'x' \[2, 1, 5, 5\]"):
        network(torch.randn(2, 1, 5, 5))
    with pytest.raises(DataError, match="takes 1 inputs"):
        network(torch.randn(2, 1, 4, 4), torch.randn(2, 1))


def test_values_compute_nothing(network: Network) -> None:
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    shapes = {node.name: tuple(value.shape) for node, value in network.values(batch=7).items() if isinstance(value, torch.Tensor)}
    assert shapes["linear_1"] == (7, 4)
    for name, tensor in network.state().items():
        assert torch.equal(tensor, before[name])


def test_a_network_compiles(network: Network) -> None:
    x = torch.randn(4, 1, 4, 4)
    network.eval()
    compiled = torch.compile(network.module, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], network(x)[0], rtol=1e-5, atol=1e-6)
