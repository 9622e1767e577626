import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.graph.canonical import user_line
from karui.graph.doors.torch import capture
from karui.graph.network import Network

aten = torch.ops.aten


class Given(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def captured(function: object, *shape: int) -> Network:
    return capture(Given(function), torch.randn(2, *shape))


FLATTENINGS = {
    "view by size": (lambda x: x.view(x.size(0), -1), (1, -1)),
    "view by shape": (lambda x: x.view(x.shape[0], 3 * 4 * 5), (1, -1)),
    "view by minus one": (lambda x: x.view(-1, 60), (1, -1)),
    "reshape": (lambda x: x.reshape(x.size()[0], -1), (1, -1)),
    "flatten": (lambda x: x.flatten(1), (1,)),
    "torch.flatten": (lambda x: torch.flatten(x, start_dim=1), (1,)),
    "last two": (lambda x: x.view(x.size(0), 3, -1), (2, -1)),
    "middle two": (lambda x: x.reshape(-1, 12, 5), (1, 2)),
    "not contiguous": (lambda x: x.transpose(1, 2).reshape(x.size(0), -1), (1, -1)),
}


@pytest.mark.parametrize("name", FLATTENINGS)
def test_every_spelling_of_flattening_is_one_op(name: str) -> None:
    function, axes = FLATTENINGS[name]
    network = captured(function, 3, 4, 5)
    (node,) = [n for n in network.module.graph.nodes if n.op == "call_function" and n.target is not aten.transpose.int]
    assert node.target is aten.flatten.using_ints
    assert node.args[1:] == axes
    x = torch.randn(6, 3, 4, 5)
    assert torch.equal(network(x)[0], function(x))


@pytest.mark.parametrize(
    "function", [lambda x: x.view(-1, 4, 3, 5), lambda x: x.view(x.size(0), 3, 2, 10), lambda x: x.view(x.size(0), 3, 4, 5, 1)]
)
def test_other_reshapes_stay(function: object) -> None:
    network = captured(function, 3, 4, 5)
    assert any(node.target is aten.view.default for node in network.module.graph.nodes)
    x = torch.randn(6, 3, 4, 5)
    assert torch.equal(network(x)[0], function(x))


def test_keyword_arguments_move_to_their_places() -> None:
    network = captured(lambda x: F.avg_pool2d(x, 2, count_include_pad=False).sum(dim=-1, keepdim=True), 3, 4, 4)
    pool = next(n for n in network.module.graph.nodes if n.target is aten.avg_pool2d.default)
    assert pool.kwargs == {}


def test_constants_become_buffers() -> None:
    network = captured(lambda x: x + torch.tensor([1.0, 2.0, 3.0]) * 2, 3)
    assert any(torch.equal(buffer, torch.tensor([1.0, 2.0, 3.0])) for buffer in network.buffers().values())
    assert torch.equal(network(torch.zeros(2, 3))[0][1], torch.tensor([2.0, 4.0, 6.0]))


def test_dead_code_goes() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        torch.sigmoid(x).sum()
        return x + 1

    assert [n.target for n in captured(function, 3).module.graph.nodes if n.op == "call_function"] == [aten.add.Tensor]


def test_an_unused_parameter_is_left_out() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x)

    assert capture(Unused(), torch.randn(2, 3)).parameters().keys() == {"a.weight", "a.bias"}


def test_an_input_may_be_an_output() -> None:
    network = captured(lambda x: (x, x + 1, x), 3)
    x = torch.randn(2, 3)
    assert [torch.equal(y, x) for y in network(x)] == [True, False, True]


def test_the_users_line_is_the_last_outside_torch() -> None:
    inside, users = torch.nn.functional.__file__, "/home/a/block.py"
    trace = f'  File "/home/a/net.py", line 3, in forward\n  File "{users}", line 7, in forward\n  File "{inside}", line 9, in relu'
    assert user_line(trace) == f"{users}:7"
    assert user_line("") == ""


def test_one_op_for_each_meaning() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = torch.max(x.swapaxes(1, 2).multiply(2).subtract(1).clip(-1, 1), torch.absolute(x.swapdims(1, 2)))
        return torch.concat([y.multiply_(3), torch.min(y, y.true_divide(2))], 1)

    targets = {node.target for node in captured(function, 3, 4).module.graph.nodes if node.op == "call_function"}
    wanted = (aten.transpose.int, aten.mul.Tensor, aten.sub.Tensor, aten.clamp.default, aten.maximum.default, aten.minimum.default)
    assert targets == {*wanted, aten.abs.default, aten.cat.default, aten.div.Tensor}
