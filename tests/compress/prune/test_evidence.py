from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.compress.prune.evidence import Evidence
from karui.compress.prune.weights import Prune
from karui.data import Batch, Data
from karui.errors import DataError, RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from tests.compress.tiny import context, data, small


def by_hand(network: Any, on: Data, name: str, samples: int) -> torch.Tensor:
    """dL/dw with torch alone; the parameter must have no form."""
    batch = next(on.calibration.batches(samples))
    network = network.copy().eval()
    on.loss(network(*batch.inputs), batch.targets).backward()
    return network.get(name).grad


def test_the_gradient_is_the_mean_over_the_first_samples() -> None:
    network, on = small(), data()
    found = Evidence(network, on, samples=50, batch_size=16)  # 16, 16, 16 and 2
    for name in ("conv1.weight", "bn1.weight", "fc2.bias"):
        torch.testing.assert_close(found.gradient(name), by_hand(network, on, name, 50), rtol=1e-4, atol=1e-6)
    assert network.get("conv1.weight").grad is None


def test_masked_weights_have_a_gradient_too() -> None:
    network, on = small(), data()
    Prune(sparsity=0.5).attach(network, context(network)).finish()
    gone = network.get("fc1.weight_mask") == 0
    plain = network.copy()
    edit.remove_form(plain, edit.forms_on(plain, "fc1.weight")[0])
    plain.get("fc1.weight").detach().mul_(~gone)
    found = Evidence(network, on, samples=64).gradient("fc1.weight")
    torch.testing.assert_close(found, by_hand(plain, on, "fc1.weight", 64), rtol=1e-4, atol=1e-6)
    assert found[gone].abs().sum() > 0


def test_fisher_is_the_mean_square_of_gradients_of_eight() -> None:
    network, on = small(), data(32)
    found = Evidence(network, on, samples=32).fisher("fc1.weight")
    squares = []
    for batch in on.calibration.batches(8):
        twin = network.copy().eval()
        on.loss(twin(*batch.inputs), batch.targets).backward()
        squares.append(8 * twin.get("fc1.weight").grad.square())
    torch.testing.assert_close(found, torch.stack(squares).mean(0))


class Kinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(6, 8, 3, padding="same", groups=2)
        self.back = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.one = nn.Conv1d(5, 4, 3, padding=1)
        self.last = nn.Linear(4 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.back(F.relu(self.grouped(F.relu(self.plain(x)))))
        return self.last(self.one(x.flatten(2)).flatten(1))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_inputs_are_the_norms_of_what_each_weight_meets() -> None:
    """Σx² of a weight is the gradient by it of ½‖·‖² of a layer that takes squares: d/dw Σ w·x² for every output of its own."""
    torch.manual_seed(0)
    module, x = Kinds(), torch.randn(20, 3, 8, 8)
    network = capture(module, x[:2]).eval()
    y = torch.zeros(20, dtype=torch.long)
    on = Data.of(train=(x, y), validation=(x, y), test=(x, y))
    found = Evidence(network, on, samples=20, batch_size=7)
    seen: dict[str, torch.Tensor] = {}
    for name, layer in module.named_children():
        layer.register_forward_hook(lambda layer, inputs, output, name=name: seen.update({name: inputs[0].detach()}))
    module(x)
    for name, layer in module.named_children():
        twin = type(layer).__call__
        with torch.enable_grad():
            layer.zero_grad()
            twin(layer, seen[name].square()).sum().backward()
        expected = layer.weight.grad.sqrt()
        got = found.inputs(f"{name}.weight").expand_as(expected)
        if name == "back":  # each input is met at every place of the kernel
            assert found.inputs("back.weight").shape == (8, 1, 1, 1)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_with_another_value() -> None:
    network, on = small(), data()
    found = Evidence(network, on, samples=64, batch_size=20)
    batch = next(on.calibration.batches(64))
    with torch.no_grad():
        assert found.loss() == pytest.approx(float(on.loss(network(*batch.inputs), batch.targets)), rel=1e-5)
        other = network.copy()
        other.get("fc1.weight").zero_()
        assert found.loss({"fc1.weight": torch.zeros(12, 128)}) == pytest.approx(
            float(on.loss(other(*batch.inputs), batch.targets)), rel=1e-5
        )
    assert network.get("fc1.weight").abs().sum() > 0


def test_it_is_the_same_each_time_and_leaves_the_network_alone() -> None:
    network, on = small().train(), data()
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    first, second = (Evidence(network, on).gradient("conv2.weight") for _ in range(2))
    assert torch.equal(first, second)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state().items())


def test_a_loader_of_larger_batches_is_cut() -> None:
    on = data()
    batch = next(on.train.batches(64))
    loader = Data.of(
        train=[(batch.inputs[0], batch.targets)], validation=(*batch.inputs, batch.targets), test=(*batch.inputs, batch.targets)
    )
    ours, theirs = (Evidence(small(), each, samples=40, batch_size=16).fisher("fc1.weight") for each in (on, loader))
    torch.testing.assert_close(ours, theirs)


def refuses(outputs: Any, targets: Any) -> torch.Tensor:
    raise TypeError("no targets")


def test_what_lacks_is_said() -> None:
    network, on = small(), data()
    with pytest.raises(DataError, match="quarters: its loss refuses the calibration part.*no targets.*'magnitude' or 'wanda'"):
        Evidence(network, replace(on, loss=refuses)).gradient("fc1.weight")
    assert Evidence(network, replace(on, loss=refuses)).inputs("fc1.weight").shape == (1, 128)
    with pytest.raises(RecipeError, match="no such evidence of 'bn1.weight'"):
        Evidence(network, on).inputs("bn1.weight")


def test_targets_are_cut_with_their_inputs() -> None:
    seen: list[Batch] = []

    def loss(outputs: tuple[torch.Tensor, ...], targets: Any) -> torch.Tensor:
        seen.append(targets)
        return F.cross_entropy(outputs[0], targets)

    Evidence(small(), replace(data(), loss=loss), samples=37, batch_size=16).loss()
    assert [len(each) for each in seen] == [16, 16, 5]
