import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.graph.doors.torch import capture
from karui.graph.network import Network


def network(module: nn.Module, *shape: int) -> tuple[Network, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(8, *shape)
    return capture(module, x), x


@pytest.mark.parametrize(
    "module",
    [nn.Dropout(0.5), nn.Dropout(0.5, inplace=True), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.RReLU(), nn.RReLU(inplace=True)],
    ids=repr,
)
def test_chance_in_training_none_in_evaluation(module: nn.Module) -> None:
    net, x = network(nn.Sequential(nn.Linear(6, 6), module), 6)
    assert not torch.equal(net(x)[0], net(x)[0])
    net.eval()
    assert torch.equal(net(x)[0], net(x)[0])


class Given(nn.Module):
    def __init__(self, norm: nn.Module | None = None, dropout: bool = True) -> None:
        super().__init__()
        self.norm, self.dropout = norm, dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(x, 0.5, training=self.training and self.dropout)
        return x if self.norm is None else self.norm(x)


def test_a_dropout_that_was_off_in_training_stays_off() -> None:
    net, x = network(Given(dropout=False), 6)
    assert torch.equal(net.eval().train()(x)[0], x)


def test_normalising_without_running_statistics_goes_by_the_batch_in_both_modes() -> None:
    module = Given(nn.BatchNorm1d(6, track_running_stats=False), dropout=False)
    net, x = network(module, 6)
    net.eval()
    torch.testing.assert_close(net(x)[0], module.eval()(x))
    assert net(x)[0].mean(0).detach().abs().max() < 1e-5


class Frozen(nn.BatchNorm1d):
    """A batch-norm that is never in training mode, as people freeze them."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


def test_a_frozen_batch_norm_stays_frozen() -> None:
    module = nn.Sequential(nn.Linear(6, 6), Frozen(6))
    net, x = network(module, 6)
    net.eval().train()
    net(x)
    assert torch.equal(net.get("1.running_mean"), torch.zeros(6))


def test_running_statistics_move_in_training_only() -> None:
    net, x = network(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), 6)
    net.eval()(x)
    assert torch.equal(net.get("1.running_mean"), torch.zeros(6))
    net.train()(x)
    assert not torch.equal(net.get("1.running_mean"), torch.zeros(6))


def test_half_precision_is_captured_in_float32() -> None:
    net = capture(nn.Linear(4, 2).half(), torch.randn(2, 4).half())
    assert net.inputs[0].dtype == "float32"
    assert net(torch.randn(3, 4))[0].dtype == torch.float32


def test_what_a_copy_holds_or_switches_leaves_the_original_its_memory() -> None:
    original, x = network(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), 6)
    expected = original.copy().train()(x)[0].detach()
    original.eval()
    copy = original.copy()
    copy.hold_statistics()  # in evaluation, as a technique attaches
    copy.train()
    other = original.copy()
    for each in (other.train(), original.train()):
        torch.testing.assert_close(each(x)[0], expected)
    assert not torch.allclose(copy(x)[0], expected)
    copy.hold_statistics(False)
    copy.eval().train()
    torch.testing.assert_close(copy(x)[0], expected)
