from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from karui.errors import RecipeError
from karui.graph import branches, edit
from karui.graph.branches import Shape
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program import interpreter
from karui.search.scores import outputs_of
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8
from tests.graph.nets import network_of

PLAIN = Shape(channels=(), grid=4, pool="avg", hidden=0)


def lenet() -> Network:
    torch.manual_seed(0)
    return capture(lenet5(), torch.zeros(2, 1, 28, 28), name="lenet5").eval()


class Tokens(nn.Module):
    """A linear layer for each of five tokens, and scores of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(torch.relu(self.embed(x)))).mean(1))


def answers(network: Network, count: int = 40) -> Tensor:
    with torch.no_grad():
        return network.eval()(*network.example(count))[0]


def test_narrow_places_lie_between_layers_and_outside_of_residual_branches() -> None:
    assert [lenet().layer_of(n) for n in branches.narrow_places(lenet())] == [
        *("conv1", "relu", "max_pool2d", "conv2", "relu", "max_pool2d", "flatten", "fc1", "relu")
    ]
    network = capture(resnet8(), torch.zeros(2, 3, 32, 32)).eval()
    found = branches.narrow_places(network)
    convolutions = [network.layer_of(n) for n in found if n.target == torch.ops.aten.conv2d.default]
    assert convolutions == ["conv1"]  # those in blocks run beside a shortcut
    assert sum(n.target == torch.ops.aten.add.Tensor for n in found) == 3


def test_values_of_several_results_are_no_places() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = (torch.relu(x) * 2).chunk(2, 1)
            return a + b

    network = capture(Halves(), torch.zeros(2, 6)).eval()
    assert [network.layer_of(n) for n in branches.narrow_places(network)] == ["relu", "mul"]


def test_a_place_is_behind_what_finishes_its_layer() -> None:
    network = lenet()
    assert branches.place_named(network, "conv1").target == torch.ops.aten.max_pool2d.default
    assert branches.place_named(network, "fc1").target == torch.ops.aten.relu.default
    assert branches.place_named(network, "x").op == "placeholder"
    with pytest.raises(RecipeError, match="no layer 'conv3'; there are 'conv"):
        branches.place_named(network, "conv3")


@pytest.mark.parametrize(
    ("network", "layer", "shape"),
    [
        (lenet, "conv1", PLAIN),
        (lenet, "conv2", Shape(channels=(6,), grid=1, pool="max", hidden=0)),
        (lenet, "x", Shape(channels=(3,), grid=5, pool="max", hidden=7)),
        (lenet, "fc1", Shape(channels=(9,), grid=1, pool="avg", hidden=4)),
        (lenet, "x", Shape(channels=(3, 5), depth=2, grid=4, pool="avg", hidden=0)),
        (lambda: network_of("cnn1d"), "0", Shape(channels=(4,), grid=3, pool="max", hidden=0)),
        (lambda: capture(Tokens(), torch.zeros(2, 5, 6)), "embed", PLAIN),
    ],
)
def test_a_branch_gives_scores_and_changes_nothing_yet(network, layer: str, shape: Shape, tmp_path: Path) -> None:
    network = network().eval()
    before, parameters, macs = answers(network), set(network.parameters()), network.structure
    late = branches.exits_of(network)
    each = branches.put_exit(network, branches.place_named(network, layer), "exits.0", shape, seed=3)
    edit.check(network)
    assert not late and [found.node for found in branches.exits_of(network)] == [each.node] and network.structure > macs
    assert torch.equal(answers(network), before)
    added = set(network.parameters()) - parameters
    assert {"exits.0.fc.weight", "exits.0.fc.bias"} <= added and all(name.startswith("exits.0.") for name in added)
    network.get("exits.0.threshold").fill_(0.02)
    found = answers(network)
    assert not torch.equal(found, before)  # some leave now
    network.save(tmp_path / "network.pt2")
    assert torch.equal(answers(Network.load(tmp_path / "network.pt2")), found)
    program = lower(network)
    with torch.no_grad():
        x = network.example(40)[0].numpy()
    feed = x.transpose(0, *range(2, x.ndim), 1) if x.ndim == 4 or program.tensor(program.inputs[0].tensor).layout == "nlc" else x
    theirs = outputs_of(program, interpreter.run(program, [feed.copy()]))[0]
    torch.testing.assert_close(theirs, found, rtol=1e-4, atol=1e-5)
    network.get("exits.0.threshold").fill_(torch.inf)
    branches.remove_exit(network, branches.exits_of(network)[0])
    assert set(network.parameters()) == parameters and not any(name.startswith("exits.0.") for name in network.buffers())
    assert torch.equal(answers(network), before)


def test_stages_of_a_branch() -> None:
    network = lenet()
    shape = Shape(channels=(3, 5), depth=2, grid=4, pool="avg", hidden=0)
    each = branches.put_exit(network, branches.place_named(network, "x"), "exits.0", shape, seed=3)
    weights = {name: tuple(p.shape) for name, p in network.parameters().items() if name.startswith("exits.0.conv")}
    assert weights == {
        "exits.0.conv1.weight": (3, 1, 3, 3),
        "exits.0.conv2.weight": (3, 3, 3, 3),
        "exits.0.conv3.weight": (5, 3, 3, 3),
        "exits.0.conv4.weight": (5, 5, 3, 3),
    }
    strides = [n.args[3] for n in branches.ancestors(each.early) if n.target == torch.ops.aten.conv2d.default]
    assert sorted(strides) == [[1, 1], [1, 1], [2, 2], [2, 2]]


@pytest.mark.parametrize("training", [True, False])
def test_a_branchs_statistics_learn_in_training_and_rest_in_evaluation(training: bool) -> None:
    network = lenet().train(training)
    branches.put_exit(network, branches.place_named(network, "x"), "exits.0", Shape(channels=(3,), grid=4, pool="avg", hidden=0), seed=3)
    for mode in (training, False, True):
        mean = network.train(mode).get("exits.0.norm1.running_mean").clone()
        network(*network.example(8))
        assert torch.equal(network.get("exits.0.norm1.running_mean"), mean) is not mode


def test_the_seed_draws_the_branch() -> None:
    weights = []
    for seed in (1, 1, 2):
        network = lenet()
        branches.put_exit(network, branches.place_named(network, "conv1"), "exits.0", PLAIN, seed)
        weights.append(network.get("exits.0.fc.weight").detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].shape == (10, 20 * 16) and 0.9 < float(weights[0].abs().max()) * 320**0.5 <= 1


def test_exits_are_told_from_the_first_asked_to_the_last() -> None:
    network = lenet()
    for name in ("conv2", "conv1"):
        branches.put_exit(network, branches.place_named(network, name), f"exits.{name}", PLAIN, 0)
    assert [each.threshold for each in branches.exits_of(network)] == ["exits.conv1.threshold", "exits.conv2.threshold"]
    assert branches.exits_of(lenet()) == []


def test_a_value_of_too_many_axes_is_refused() -> None:
    class Volume(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).sum((2, 3, 4))

    network = capture(Volume(), torch.zeros(2, 3, 4, 4, 4)).eval()
    with pytest.raises(RecipeError, match=r"'relu' gives values \[3, 4, 4, 4\]; choose a layer of pictures"):
        branches.put_exit(network, branches.place_named(network, "relu"), "exits.0", PLAIN, 0)


def test_a_batch_size_that_is_asked_for_at_the_end_hides_no_place() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.first(x))
            y = y.view(x.shape[0], 2, 2, 6, 6).transpose(1, 2).reshape(x.shape[0], 4, 6, 6)
            return self.fc(y.mean((2, 3)))

    network = capture(Shuffled(), torch.randn(2, 1, 8, 8))
    assert "relu" in {node.name for node in branches.narrow_places(network)}
