"""Groups, rates and state that survives a rebuild."""

import pytest
import torch

from karui.finetune.optimizer import FAKE_QUANTIZE, Optimizer
from karui.graph import edit
from tests.finetune import tiny


def train(optimizer: Optimizer, network: tiny.Network, steps: int = 3) -> None:
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.ones(4, tiny.WIDTH))[0].sum().backward()
        optimizer.step()


def test_no_decay_on_vectors_and_scales_and_a_slower_rate_for_scales() -> None:
    network = tiny.network()
    state = {"scale": torch.nn.Parameter(torch.ones(16)), "zero_point": torch.zeros(16)}
    edit.put_on_parameter(network, "fc1.weight", FAKE_QUANTIZE, state=state, args=("scale", "zero_point", -127, 127, 0))
    network.add_parameter("logit_scale", torch.ones(1, 1))  # the user's own, whatever its name
    optimizer = Optimizer(network, lr=0.1, weight_decay=0.5, scale_lr=0.01, kind="sgd", momentum=0.0)
    optimizer.zero_grad()
    before = {name: tensor.clone() for name, tensor in network.parameters().items()}
    for parameter in network.parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    network.parameters()["fc1.weight_scale"].grad = torch.ones(16)
    network.parameters()["logit_scale"].grad = torch.ones(1, 1)
    optimizer.set_factor(0.5)
    optimizer.step()
    after = network.parameters()
    for name in ("fc1.weight", "fc2.weight"):
        assert torch.allclose(after[name], before[name] * (1 - 0.1 * 0.5 * 0.5))
    for name in ("fc1.bias", "bn.weight", "bn.bias", "fc2.bias"):
        assert torch.equal(after[name], before[name])
    assert torch.allclose(after["fc1.weight_scale"], torch.full((16,), 1 - 0.1 * 0.5 * 0.01))
    assert torch.allclose(after["logit_scale"], torch.tensor(1 - 0.1 * 0.5 * (1 + 0.5)))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_state_goes_with_the_name_and_the_shape(kind: str) -> None:
    network = tiny.network()
    optimizer = Optimizer(network, kind=kind, lr=0.01)  # type: ignore[arg-type]
    train(optimizer, network)
    remembered = optimizer.state()
    network.set("fc2.weight", network.get("fc2.weight").clone())
    network.set("fc1.weight", network.get("fc1.weight")[:, :4])
    again = Optimizer(network, kind=kind, lr=0.01)  # type: ignore[arg-type]
    again.load_state(remembered)
    kept = again.state()
    assert {name for name in remembered if ".fc1.weight" not in name} == set(kept)
    assert all(torch.equal(kept[name], remembered[name]) for name in kept)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_going_on_with_loaded_state_is_the_same(kind: str) -> None:
    one, other = tiny.network(), tiny.network()
    first = Optimizer(one, kind=kind, lr=0.05)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        train(first, one, 2)
    other.load_state({name: tensor.clone() for name, tensor in one.state().items()})
    second = Optimizer(other, kind=kind, lr=0.05)  # type: ignore[arg-type]
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for optimizer, network in ((first, one), (second, other)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            train(optimizer, network, 2)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())


def test_frozen_parameters_are_left_out_and_none_at_all_is_no_error() -> None:
    network = tiny.network()
    for parameter in network.parameters().values():
        parameter.requires_grad_(False)
    optimizer = Optimizer(network)
    optimizer.set_factor(0.5)
    optimizer.step()
    assert optimizer.parameters == []
    assert optimizer.state() == {}
