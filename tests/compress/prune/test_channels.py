import pytest
import torch

from karui.analyse.cost import measure
from karui.compress.prune.channels import PruneChannels, kept_count
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program.interpreter import run
from karui.search.scores import feeds, outputs_of
from karui.testing.techniques import check_technique
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
    expected = network(*example)
    assert [y.shape for y in expected] == before
    program = lower(network)
    batch = Batch(inputs=example, targets=torch.zeros(len(example[0])))
    for ours, theirs in zip(expected, outputs_of(program, run(program, feeds(program, batch))), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruning_ratio": 1.0}, "pruning_ratio"),
        ({"pruning_ratio": -0.1}, "pruning_ratio"),
        ({"round_to": 0}, "round_to"),
        ({"importance": "x"}, "importance"),
        ({"macs": 0.0}, "macs"),
        ({"macs": 1.5}, "macs"),
        ({"allocation": "all"}, "allocation"),
        ({"floor": 2.0}, "floor"),
        ({"samples": 0}, "samples"),
    ],
)
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(RecipeError, match=message):
        PruneChannels(**settings)


def test_an_importance_of_the_users_own() -> None:
    network = small()
    first = network.get("fc1.weight").detach().clone()
    PruneChannels(include=("fc1",), importance=lambda seen: torch.arange(seen.units).float()).attach(network, context(network))
    assert torch.equal(network.get("fc1.weight"), first[6:])
    with pytest.raises(RecipeError, match=r"gave shape \[8, 9\]|gave shape"):
        PruneChannels(importance=lambda seen: seen.weights[0]).attach(small(), context(network))


# ── a budget of MACs, ranking over groups ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_a_share_of_the_macs(share: float, allocation: str) -> None:
    torch.manual_seed(0)
    network = capture(resnet8(), torch.randn(2, 3, 32, 32)).eval()
    before = measure(network).macs
    facts = PruneChannels(macs=share, allocation=allocation).attach(network, context(network)).finish()
    left = measure(network).macs / before
    assert share - 0.08 < left <= share
    assert facts["macs"] == pytest.approx(left)


def test_macs_that_cannot_be_reached_are_told_before_anything_is_cut() -> None:
    network = small()
    with pytest.raises(RecipeError, match=r"macs: 0.001 can't be reached: 0\.\d+ of the MACs stay"):
        PruneChannels(macs=0.001).attach(network, context(network))
    assert network.get("conv1.weight").shape[0] == 8


def test_ranked_together_the_weaker_group_loses_more() -> None:
    network = small()
    weak = {"conv1.weight": 1.0, "conv2.weight": 1.0}
    with torch.no_grad():
        for name in weak:
            network.get(name)[2:] *= 1e-3  # six of eight channels hold nothing
    facts = PruneChannels(pruning_ratio=0.3, allocation="global").attach(network, context(network)).finish()
    assert facts["groups"]["conv1.weight"]["kept"] == 2
    assert facts["groups"]["fc1.weight"]["kept"] == 12
    floored = small()
    facts = PruneChannels(pruning_ratio=0.95, allocation="global", floor=0.5).attach(floored, context(floored)).finish()
    assert all(group["kept"] >= group["channels"] // 2 for group in facts["groups"].values())


def test_equal_scores_are_ranked_all_the_same() -> None:
    network = small()
    facts = PruneChannels(pruning_ratio=0.4, allocation="global", floor=0.0, importance=lambda seen: torch.zeros(seen.units)).attach(
        network, context(network)
    )
    assert (
        sum(group["kept"] for group in facts.finish()["groups"].values()) == 13
    )  # the first eight of 20 leave, but for one of their group


# ── importance from norms and gradients ─────────────────────────────────────────────────────────────────────────────────────────


def test_batch_norm_gains_decide() -> None:
    network = small()
    with torch.no_grad():
        network.get("bn1.weight").copy_(torch.arange(8.0))
        network.get("bn2.weight").fill_(0.5)
    second = network.get("conv2.weight").detach().clone()
    PruneChannels(importance="bn_scale", include=("conv1", "conv2")).attach(network, context(network))
    assert torch.equal(network.get("conv2.weight"), second[4:, 4:])


@pytest.mark.parametrize("importance", ["taylor", "taylor_bn"])
def test_gradients_keep_what_the_loss_needs(importance: str) -> None:
    """Channels that the next layer doesn't read have no gradient, however large their weights are."""
    network, on = small(), data()
    with torch.no_grad():
        network.get("fc2.weight")[:, :6] = 0
        network.get("fc1.weight")[:6] *= 100
    kept = network.get("fc1.weight").detach()[7:].clone()  # unit 6 is never active
    PruneChannels(importance=importance, include=("fc1",), pruning_ratio=7 / 12).attach(network, context(network, on=on))
    assert torch.equal(network.get("fc1.weight"), kept)


def test_importance_sees_readers_and_scales() -> None:
    shapes = {}

    def look(seen):
        shapes[seen.name] = [[tuple(t.shape) for t in part] for part in (seen.weights, seen.readers, seen.scales)]
        return torch.ones(seen.units)

    PruneChannels(importance=look).attach(small(), context(small()))
    assert shapes["conv1.weight"] == [[(8, 9), (8, 8)], [(8, 8), (8, 16 * 12)], [(8, 1), (8, 1)]]
    assert shapes["fc1.weight"] == [[(12, 128)], [(12, 4)], []]


def test_nan_scores_are_refused() -> None:
    with pytest.raises(RecipeError, match="gave NaN for 'conv1.weight'"):
        PruneChannels(importance=lambda seen: torch.full((seen.units,), torch.nan)).attach(small(), context(small()))


def test_a_split_keeps_some_of_each_part() -> None:
    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.a(x).chunk(2, 1)
            return self.head((left * right.sigmoid()).mean((2, 3)))

    class Parts(Halves):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.a(x).chunk(2, 1)
            return self.head(left.mean((2, 3))) + right.mean((1, 2, 3))[:, None]

    for build, kept in ((Halves, 4), (Parts, 5)):
        network = capture(build(), torch.randn(2, 3, 8, 8)).eval()
        with torch.no_grad():
            network.get("a.weight")[4:] *= 1e-3
        facts = PruneChannels().attach(network, context(network)).finish()
        assert facts["groups"]["a.weight"]["kept"] == kept
        assert network(torch.randn(3, 3, 8, 8))[0].shape == (3, 2)


@pytest.mark.parametrize("settings", [{"allocation": "global"}, {"macs": 0.5}, {"importance": "taylor"}, {"importance": "bn_scale"}])
def test_the_contract_holds(settings) -> None:
    check_technique(PruneChannels, **settings)
