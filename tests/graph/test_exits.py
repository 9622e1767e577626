import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from karui.graph.coupling import coupling
from karui.graph.doors.torch import capture
from karui.graph.exits import margin
from karui.graph.forms import is_form
from karui.graph.network import Network

K = torch.ops.karui
EARLY = torch.tensor([[0.0, 2.0, 1.0], [5.0, 4.5, 0.0], [1.0, 1.0, 1.0]])  # margins 1, 0.5, 0
LATE = torch.arange(9.0).reshape(3, 3)


class Leaves(nn.Module):
    """Two exits, the shallower outside: ``[N, 6]`` → ``[N, 3]``."""

    def __init__(self, first: float = 0.4, second: float = 0.2) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.exit1, self.exit2 = nn.Linear(6, 3), nn.Linear(8, 3)
        self.register_buffer("first", torch.tensor(first))
        self.register_buffer("second", torch.tensor([second]))

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.one(x))
        late = self.three(torch.relu(self.two(a)))
        return K.exit_if(self.exit1(x), K.exit_if(self.exit2(a), late, self.second), self.first)


def leaving(**thresholds: float) -> Network:
    torch.manual_seed(0)
    return capture(Leaves(**thresholds), torch.zeros(2, 6), name="leaves").eval()


@pytest.mark.parametrize(("threshold", "taken"), [(math.inf, []), (1.1, []), (1.0, [0]), (0.5, [0, 1]), (0.0, [0, 1, 2])])
def test_it_takes_what_is_sure(threshold: float, taken: list[int]) -> None:
    expected = LATE.clone()
    expected[taken] = EARLY[taken]
    assert torch.equal(K.exit_if(EARLY, LATE, torch.tensor(threshold)), expected)
    assert torch.equal(K.exit_if(EARLY, LATE, torch.tensor([threshold])), expected)
    assert margin(EARLY).tolist() == [1.0, 0.5, 0.0]


def test_the_gradient_goes_to_what_was_taken() -> None:
    early, late = EARLY.clone().requires_grad_(), LATE.clone().requires_grad_()
    grad = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    K.exit_if(early, late, torch.tensor(0.5)).backward(grad)
    sure = torch.tensor([[True], [True], [False]])
    assert torch.equal(early.grad, grad * sure) and torch.equal(late.grad, grad * ~sure)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    network, x = leaving(), torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    network.save(tmp_path / "leaves.pt2")
    loaded = Network.load(tmp_path / "leaves.pt2").eval()
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], network(x)[0])
        assert not torch.equal(leaving(first=math.inf)(x)[0], network(x)[0])


def test_it_is_no_form_and_fixes_the_scores() -> None:
    network = leaving()
    exits = [node for node in network.module.graph.nodes if "exit_if" in str(node.target)]
    assert len(exits) == 2 and not any(map(is_form, exits))
    fixed = {name.removesuffix(".weight"): group.fixed for group in coupling(network).groups.values() for name, _ in group.producers}
    assert all("may leave the network" in fixed[name] for name in ("exit1", "exit2", "three"))
    assert not fixed["one"] and not fixed["two"]
