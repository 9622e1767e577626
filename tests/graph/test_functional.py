"""In-place code captured as functional code: the same numbers, or a refusal; never other numbers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from karui.errors import CaptureError
from karui.graph.doors.torch import capture
from tests.graph.test_canonical import Given


def chain(x: Tensor) -> Tensor:
    y = x * 2
    y += 1
    y.mul_(y).relu_()
    return y.clamp_(max=3) - y


def later_readers(x: Tensor) -> Tensor:
    y = x + 1
    z = y * 10
    y.add_(z)
    return y + z


def on_the_input(x: Tensor) -> Tensor:
    x = F.relu(x, inplace=True)
    return x + x.sigmoid_()


def filled(x: Tensor) -> Tensor:
    return torch.zeros_like(x).fill_(2.0).add_(x, alpha=3)


def view_of_a_fresh_tensor(x: Tensor) -> Tensor:
    return (x + 1).view(-1, 2, 3).relu_().flatten(1)


def every_activation(x: Tensor) -> Tensor:
    for act in (F.hardtanh_, F.elu_, F.leaky_relu_, torch.tanh_, F.selu_, F.celu_):
        x = act(x * 1.5)
    return F.silu(F.hardswish(F.mish(x, inplace=True), inplace=True), inplace=True)


def set_slice(x: Tensor) -> Tensor:
    y = x * 1
    y[:, :2] = 0
    return y


def relu_after_view(x: Tensor) -> Tensor:
    y = x + 1
    y.view(-1, 2, 3).relu_()
    return y


def view_read_later(x: Tensor) -> Tensor:
    y = x + 1
    z = y.view(-1, 2, 3)
    y.relu_()
    return z.flatten(1)


def through_dropout(x: Tensor) -> Tensor:
    y = x + 1
    z = F.dropout(y, 0.0, False)
    z.add_(5)
    return y


SAFE = [chain, later_readers, on_the_input, filled, view_of_a_fresh_tensor, every_activation]
UNSAFE = [set_slice, relu_after_view, view_read_later, through_dropout]


@pytest.mark.parametrize("function", SAFE, ids=lambda f: f.__name__)
def test_the_same_numbers(function: Callable[[Tensor], Tensor]) -> None:
    network = capture(Given(function), torch.randn(2, 6))
    assert not any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in network.module.graph.nodes)
    x = torch.randn(5, 6)
    expected = function(x.clone())
    given = x.clone()
    torch.testing.assert_close(network(given)[0], expected)
    assert torch.equal(given, x)  # the graph doesn't touch its input


@pytest.mark.parametrize("function", UNSAFE, ids=lambda f: f.__name__)
def test_a_refusal(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(CaptureError, match="shares memory"):
        capture(Given(function), torch.randn(2, 6))


STEPS: list[Callable[[list[Tensor], int, int], None]] = [
    lambda v, i, j: v[i].add_(v[j]),
    lambda v, i, j: v[i].relu_(),
    lambda v, i, j: v[i].mul_(0.5),
    lambda v, i, j: v.append(v[i] + v[j]),
    lambda v, i, j: v.append(v[i].view(-1, 6)),
    lambda v, i, j: v.append(v[i].view(-1, 2, 3).flatten(1)),
    lambda v, i, j: v[j].view(-1, 2, 3).neg_(),
    lambda v, i, j: v.append(torch.tanh(v[i])),
    lambda v, i, j: v[i][:, :3].add_(1),
]


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=7))
def test_any_program_is_right_or_refused(steps: list[tuple[int, int, int]]) -> None:
    def function(x: Tensor) -> Tensor:
        values = [x + 0.5, x * 2]
        for step, i, j in steps:
            STEPS[step](values, i % len(values), j % len(values))
        return torch.stack(values, 1)

    try:
        network = capture(Given(function), torch.randn(2, 6))
    except CaptureError as error:
        assert "shares memory" in str(error)
        return
    x = torch.randn(3, 6)
    torch.testing.assert_close(network(x)[0], function(x))
