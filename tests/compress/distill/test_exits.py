import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from karui.analyse.cost import measure
from karui.compress.distill.exits import Costs, EarlyExits, choose, shares
from karui.compress.prune.channels import PruneChannels
from karui.compress.quantize.int8 import Quantize
from karui.data import Data
from karui.errors import RecipeError
from karui.finetune.evaluate import score
from karui.finetune.phases import Phase, run_phases
from karui.finetune.training import Training
from karui.graph import branches
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program.check import check
from karui.zoo.lenet import lenet5
from tests.compress.tiny import context, data, small, train

TRAINING = Training(steps=40, batch_size=16, lr=0.05)


def trained(technique: EarlyExits, network: Network | None = None, training: Training = TRAINING) -> tuple[Network, dict]:
    result = run_phases(network or small(), data(), [Phase(techniques=(technique,), training=training)])
    return result.network, result.phases[0].facts[0]


def test_it_learns_and_chooses_and_tells() -> None:
    network, facts = trained(EarlyExits(after=("conv1", "bn2"), drop=2.0))
    assert json.loads(json.dumps(facts)) == facts
    told = facts["exits"]
    assert sum(each["share"] for each in told) + facts["last"] == pytest.approx(1)
    assert score(network, data().validation, data().metric) == pytest.approx(facts["metric"])
    assert facts["metric"] >= facts["metric_without"] - 2.0 - 1e-6
    assert facts["expected_macs"] < facts["macs"] == measure(small()).macs
    taken = [each for each in told if each["threshold"] is not None]
    assert taken and facts["undecided_macs"] == measure(network).macs
    ends = [*(each["macs"] for each in told), facts["undecided_macs"]]
    assert facts["expected_macs"] == pytest.approx(np.dot(ends, [*(each["share"] for each in told), facts["last"]]))
    assert not network.taps and [op.kind for op in lower(network).ops].count("exit_if") == len(taken)


def test_the_loss_is_the_tasks_and_every_branchs() -> None:
    network = small()
    technique = EarlyExits(after=("conv1", "conv2"), weights=(0.5, 2.0), distill=0.25, temperature=2.0)
    attached = technique.attach(network, context(network))
    batch = next(data().train.batches(16))
    outputs = network.train()(*batch.inputs)
    expected = F.cross_entropy(outputs[0], batch.targets)
    for weight, scores in zip((0.5, 2.0), network.tapped.values(), strict=True):
        lesson = F.kl_div((scores / 2).log_softmax(1), (outputs[0] / 2).softmax(1), reduction="batchmean") * 4
        expected = expected + weight * (0.75 * F.cross_entropy(scores, batch.targets) + 0.25 * lesson)
    found = attached.loss(batch, outputs, F.cross_entropy(outputs[0], batch.targets))
    torch.testing.assert_close(found, expected)
    lesson_only = torch.autograd.grad(attached.loss(batch, outputs, torch.zeros(())), network.get("fc2.weight"), allow_unused=True)
    assert lesson_only[0] is None  # the last scores teach, they don't learn from the branches


def test_without_the_trunk_only_branches_learn() -> None:
    network = small()
    attached = EarlyExits(trunk=False, drop=100.0, channels=(4,)).attach(network, context(network, steps=20))
    train(network, attached, data(), steps=20)
    facts = attached.finish()
    before, after = small().state(), network.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in network.parameters().values())
    assert facts["exits"][0]["share"] > 0
    assert network.get("exits.0.norm1.running_mean").abs().max() > 0  # the branch has learnt its own statistics
    network.get("exits.0.threshold").fill_(torch.inf)
    x = network.example(16)
    with torch.no_grad():
        assert torch.equal(network.eval()(*x)[0], small()(*x)[0])
    network.train()
    assert any(node.target == torch.ops.aten.batch_norm.default and node.args[5] is True for node in network.module.graph.nodes)


@pytest.mark.parametrize(
    ("count", "layers"), [(1, ["max_pool2d"]), (2, ["max_pool2d", "max_pool2d_1"]), (3, ["max_pool2d", "max_pool2d_1", "relu_2"]), (9, 3)]
)
def test_places_are_found_by_macs(count: int, layers: list[str] | int) -> None:
    """LeNet-5: 13 % of the MACs are spent behind the first convolution, 82 % behind the second, nearly all behind fc1."""
    network = capture(lenet5(), torch.zeros(2, 1, 28, 28)).eval()
    places = EarlyExits(count=count)._places(network)
    assert len(places) == layers if isinstance(layers, int) else [place.name for place in places] == layers


def test_a_network_with_exits_keeps_them_and_chooses_anew() -> None:
    technique = EarlyExits(after=("conv1",), drop=5.0)
    network, facts = trained(technique)
    quantized = run_phases(network, data(), [Phase(techniques=(Quantize(samples=32),)), Phase(techniques=(technique,))])
    again = quantized.phases[1].facts[0]
    assert len(branches.exits_of(quantized.network)) == 1 and again["exits"][0]["threshold"] != facts["exits"][0]["threshold"]
    assert torch.equal(quantized.network.get("exits.0.fc.weight"), network.get("exits.0.fc.weight"))
    assert again["metric"] == pytest.approx(score(quantized.network, data().validation, data().metric))
    assert "int8" in {lower(quantized.network).tensor(op.outputs[0]).dtype for op in lower(quantized.network).ops}


def test_channels_that_a_branch_reads_can_leave() -> None:
    exits, training = EarlyExits(after=("conv1",), drop=5.0), Training(steps=20, batch_size=16, lr=0.03)
    phases = [Phase(techniques=(exits,), training=training), Phase(techniques=(PruneChannels(pruning_ratio=0.5),))]
    network = run_phases(small(), data(), phases).network
    assert network.get("exits.0.fc.weight").shape == (4, 4 * 16) and len(branches.exits_of(network)) == 1
    check(lower(network))


def test_an_exit_that_is_not_worth_it_is_taken_out() -> None:
    said: list[str] = []
    network, start = small(), small()
    attached = EarlyExits(drop=0.0, after=("conv1",)).attach(network, context(network))
    train(network, attached, data(), steps=40)
    attached.context = type(attached.context)(**{**vars(attached.context), "report": said.append})
    network.get("exits.0.fc.weight").detach().zero_()
    network.get("exits.0.fc.bias").detach().copy_(torch.tensor([1e3, 0.0, 0.0, 0.0]))  # sure, and mostly wrong
    facts = attached.finish()
    assert facts["exits"][0]["threshold"] is None and facts["last"] == 1 and "no sample may leave" in said[0]
    assert network.state().keys() == start.state().keys() and facts["undecided_macs"] == facts["macs"]


# ── thresholds ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def saved(margins: np.ndarray, gains: np.ndarray, costs: Costs, thresholds: list[float]) -> tuple[float, float]:
    """Expected MACs, and the mean score lost."""
    leaves = np.vstack([margins >= np.array(thresholds)[:, None], np.ones((1, margins.shape[1]), bool)]).argmax(0)
    lost = -np.vstack([gains, np.zeros((1, margins.shape[1]))])[leaves, np.arange(len(leaves))].mean()
    return float(np.array(costs.until(thresholds))[leaves].mean()), float(lost)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.3]))
def test_one_threshold_is_the_best_there_is(seed: int, drop: float) -> None:
    rng = np.random.default_rng(seed)
    margins = rng.integers(0, 6, (1, 12)).astype(np.float64)
    gains = rng.choice([-1.0, 0.0, 1.0], (1, 12), p=[0.3, 0.6, 0.1])
    costs = Costs(trunk=(10,), branch=(3,), whole=40)
    found = choose(margins, gains, costs, drop)
    expected, lost = saved(margins, gains, costs, found)
    assert lost <= drop + 1e-9
    tried = [saved(margins, gains, costs, [t]) for t in (*range(6), np.inf)]
    assert expected == pytest.approx(min(macs for macs, loss in tried if loss <= drop + 1e-9))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_several_thresholds_share_the_drop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    margins = rng.integers(0, 5, (2, 16)).astype(np.float64)
    gains = rng.choice([-1.0, 0.0], (2, 16), p=[0.3, 0.7])
    costs = Costs(trunk=(10, 25), branch=(3, 2), whole=40)
    expected, lost = saved(margins, gains, costs, choose(margins, gains, costs, 0.25))
    assert lost <= 0.25 + 1e-9 and expected <= 40
    tried = [saved(margins, gains, costs, list(t)) for t in itertools.product((*range(5), np.inf), repeat=2)]
    best = min(macs for macs, loss in tried if loss <= 0.25 + 1e-9)
    assert expected <= best + 8  # exits in turn, each as far as its share goes, come near the best


def test_shares_count_who_leaves_first() -> None:
    margins = np.array([[3.0, 1.0, 0.0, 0.0], [9.0, 9.0, 2.0, 0.0]])
    assert shares(margins, [2.0, 2.0]).tolist() == [0.25, 0.5, 0.25]
    assert shares(margins, [np.inf, np.inf]).tolist() == [0, 0, 1]
    assert Costs(trunk=(10, 20), branch=(1, 2), whole=50).until([np.inf, 1.0]) == [10, 22, 52]


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count: expected 1 or more"),
        ({"grid": 0}, "grid: expected 1"),
        ({"depth": 0}, "depth: expected 1 or more"),
        ({"channels": (8, 0)}, "channels: expected a list of numbers above 0"),
        ({"channels": -8}, "channels: expected a list of numbers above 0"),
        ({"pool": "min"}, "'avg' or 'max'"),
        ({"weights": (1.0, 2.0)}, "weights: expected one number above 0 for all exits, or 1"),
        ({"after": ("a", "b"), "weights": (1.0, 0.0)}, "above 0"),
        ({"distill": 1.5}, r"in \[0, 1\]"),
        ({"drop": -1.0}, "temperature, drop"),
        ({"temperature": 0.0}, "temperature, drop"),
    ],
)
def test_settings_that_make_no_sense(given: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        EarlyExits(**given)


def test_networks_that_have_no_scores_or_no_place() -> None:
    picture = capture(nn.Conv2d(1, 3, 3), torch.zeros(2, 1, 8, 8), name="picture").eval()
    with pytest.raises(RecipeError, match=r"'picture' gives \[N, 3, 6, 6\]; they need one output of scores"):
        EarlyExits().attach(picture, context(picture))
    one = capture(nn.Linear(4, 3), torch.zeros(2, 4), name="one").eval()
    with pytest.raises(RecipeError, match="'one' has no place"):
        EarlyExits().attach(one, context(one))
    network = small()
    with pytest.raises(RecipeError, match="no layer 'conv9'"):
        EarlyExits(after=("conv9",)).attach(network, context(network))


def test_a_metric_that_is_better_when_lower_is_kept_too() -> None:
    base = data()
    metric = type(base.metric)(name="error", function=lambda y, t: (y[0].argmax(1) != t).float(), higher_is_better=False)
    errors = Data(**{**vars(base), "metric": metric})
    result = run_phases(small(), errors, [Phase(techniques=(EarlyExits(after=("conv1",), drop=3.0),), training=TRAINING)])
    facts = result.phases[0].facts[0]
    assert facts["metric"] <= facts["metric_without"] + 3.0 + 1e-6 and facts["exits"][0]["share"] > 0
