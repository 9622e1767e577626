from math import sqrt

import pytest
import torch
from torch import nn

from karui.compress.prune.weights import Prune
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from tests.compress.tiny import context


def network() -> Network:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4)]
    return capture(nn.Sequential(*layers), torch.randn(2, 1, 8, 8)).eval()


def rates(found: Network) -> list[float]:
    return [node.args[1] for node in found.module.graph.nodes if "dropout" in str(node.target)]


def test_dropout_follows_the_share_that_is_left_and_is_put_back() -> None:
    found = network()
    pruning = Prune(sparsity=0.75, schedule="iterative", rounds=2, allocation="uniform", exclude="7").attach(
        found, context(found, steps=10)
    )
    assert rates(found) == [pytest.approx(0.5 * sqrt(0.5)), 0.2]  # layer 7 isn't pruned
    pruning.step(0.5)
    assert rates(found) == [pytest.approx(0.5 * sqrt(0.25)), 0.2]
    pruning.finish()
    assert rates(found) == [0.5, 0.2]


def test_it_is_so_when_training_goes_on_after_an_interruption() -> None:
    one, other = network(), network()
    settings = Prune(sparsity=0.75, schedule="iterative", rounds=2)
    first, second = (settings.attach(each, context(each, steps=10)) for each in (one, other))
    first.step(0.6)
    second.load_state(first.state())
    other.load_state(one.state())
    second.step(0.7)
    first.step(0.7)
    assert rates(other) == rates(one) != [0.5, 0.2]


def test_it_can_be_left_alone() -> None:
    found = network()
    Prune(sparsity=0.75, schedule="one_shot", adjust_dropout=False).attach(found, context(found, steps=10))
    assert rates(found) == [0.5, 0.2]
