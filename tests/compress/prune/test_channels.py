import pytest
import torch

from karui.analyse.cost import measure
from karui.compress.prune.channels import PruneChannels, kept_count
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.errors import RecipeError
from karui.graph.doors.torch import capture
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8
from tests.compress.tiny import context, data, small, train
from tests.lower.networks import NETWORKS, made


def test_half_of_every_group_goes() -> None:
    network = small()
    facts = PruneChannels(pruning_ratio=0.5).attach(network, context(network)).finish()
    assert facts["groups"] == {"conv1.weight": {"channels": 8, "kept": 4}, "fc1.weight": {"channels": 12, "kept": 6}}
    assert facts["fixed"] == {"fc2.weight": "it is an output of the network"}
    assert network.get("conv1.weight").shape == (4, 1, 3, 3)
    assert network.get("deep.weight").shape == (4, 1, 3, 3)
    assert network.get("bn1.running_var").shape == (4,)
    assert network.get("fc1.weight").shape == (6, 64)
    assert network.get("fc2.weight").shape == (4, 6)
    assert network(torch.randn(5, 1, 8, 8))[0].shape == (5, 4)


def test_the_strongest_channels_stay_in_their_order() -> None:
    network = small()
    producers = [network.get(name).detach().clone() for name in ("conv1.weight", "conv2.weight")]
    scores = sum(w.flatten(1).norm(dim=1) for w in producers)
    PruneChannels(pruning_ratio=0.75).attach(network, context(network))
    best = scores.topk(2).indices.sort().values
    assert torch.equal(network.get("conv1.weight"), producers[0][best])
    assert torch.equal(network.get("conv2.weight"), producers[1][best][:, best])


def test_known_counts() -> None:
    """The parameter counts of torch-pruning at one half, for the same networks."""
    network = capture(lenet5(), torch.randn(2, 1, 28, 28)).eval()
    PruneChannels(pruning_ratio=0.5).attach(network, context(network))
    assert sum(p.numel() for p in network.parameters().values()) == 109_295
    network = capture(resnet8(), torch.randn(2, 3, 32, 32)).eval()
    before = measure(network).macs
    PruneChannels(pruning_ratio=0.5).attach(network, context(network))
    assert measure(network).macs < 0.3 * before


def test_round_to() -> None:
    assert [kept_count(32, r, 8) for r in (0.1, 0.5, 0.9, 0.99)] == [32, 16, 8, 8]
    assert kept_count(6, 0.5, 8) == 6
    assert kept_count(10, 0.99, 1) == 1
    assert kept_count(10, 0.0, 4) == 10 or kept_count(10, 0.0, 4) == 8


def test_patterns_protect_a_group() -> None:
    network = small()
    facts = PruneChannels(exclude=("conv2",)).attach(network, context(network)).finish()
    assert list(facts["groups"]) == ["fc1.weight"]
    assert network.get("conv1.weight").shape[0] == 8
    with pytest.raises(RecipeError, match="no group"):
        PruneChannels(include=("nothing",)).attach(small(), context(network))


def test_trains_on_and_other_techniques_follow() -> None:
    network, on = small(), data()
    Prune(sparsity=0.5).attach(network, context(network)).finish()
    Quantize().attach(network, context(network, on=on)).finish()
    attached = PruneChannels(pruning_ratio=0.5).attach(network, context(network, steps=5, on=on))
    assert network.get("conv2.weight_mask").shape == (4, 4, 1, 1)
    assert network.get("conv2.weight_scale").shape == (4,)
    train(network, attached, on, steps=5)


@pytest.mark.parametrize("name", NETWORKS)
def test_odd_networks_shrink_or_stay_and_still_run(name: str) -> None:
    module, example = made(name)
    network = capture(module, example).eval()
    before = [y.shape for y in network(*example)]
    free = bool(PruneChannels().attach(network, context(network)).finish()["groups"])
    assert free != (name in ("gru", "lstm", "shared"))
    assert [y.shape for y in network(*example)] == before


@pytest.mark.parametrize(
    ("settings", "message"), [({"pruning_ratio": 1.0}, "pruning_ratio"), ({"round_to": 0}, "round_to"), ({"importance": "x"}, "importance")]
)
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(RecipeError, match=message):
        PruneChannels(**settings)


def test_an_importance_of_the_users_own() -> None:
    network = small()
    first = network.get("fc1.weight").detach().clone()
    PruneChannels(include=("fc1",), importance=lambda producers: torch.arange(len(producers[0])).float()).attach(network, context(network))
    assert torch.equal(network.get("fc1.weight"), first[6:])
    with pytest.raises(RecipeError, match=r"gave shape \[8, 9\]|gave shape"):
        PruneChannels(importance=lambda producers: producers[0]).attach(small(), context(network))
