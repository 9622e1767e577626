import pytest
import torch
from torch import Tensor, nn

from karui.analyse.cost import measure
from karui.compress.prune.blocks import PruneBlocks, blocks
from karui.data import Data
from karui.errors import RecipeError
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.testing.techniques import check_technique
from karui.zoo.resnet import resnet20
from karui.zoo.transformer import transformer
from tests.compress.tiny import context


class Residual(nn.Module):
    """Three branches; the second does nothing, the third is also read from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(16, 3)
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        with torch.no_grad():
            self.b.weight.mul_(1e-3)
            self.b.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + torch.tanh(self.a(x))
        x = self.b(x) + x
        y = self.c(x)
        return self.head(torch.cat([x + y, y], 1))


def residual() -> Network:
    torch.manual_seed(0)
    return capture(Residual(), torch.randn(2, 6), name="residual").eval()


def samples(network: Network) -> Data:
    """Labelled by the network itself: any change costs."""
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    part = (x, network(x)[0].detach().argmax(1))
    return Data.of(train=part, validation=part, test=part)


def test_branches_that_can_leave() -> None:
    assert len(blocks(residual())) == 2
    network = capture(resnet20(), torch.randn(2, 3, 32, 32)).eval()
    assert [b.name for b in blocks(network)] == [f"blocks.{i}.add" for i in (0, 1, 2, 4, 5, 7, 8)]  # 3 and 6 have a layer as shortcut
    encoder = capture(transformer(), torch.randn(2, 6, 128)).eval()
    assert len(blocks(encoder)) == 4  # attention and perceptron, twice


@pytest.mark.parametrize("importance", ["loss", "change"])
def test_the_one_that_does_nothing_goes_first(importance: str) -> None:
    network = residual()
    x = torch.randn(5, 6)
    before = network(x)[0]
    facts = PruneBlocks(ratio=0.5, importance=importance).attach(network, context(network, on=samples(network))).finish()
    assert len(facts["removed"]) == 1
    assert "b.weight" not in network.parameters() and "a.weight" in network.parameters()
    torch.testing.assert_close(network(x)[0], before, atol=0.05, rtol=0.05)


def test_a_network_that_is_shallower() -> None:
    network = capture(resnet20(), torch.randn(2, 3, 16, 16), name="resnet20").eval()
    part = (torch.randn(32, 3, 16, 16), torch.arange(32) % 10)
    before = measure(network)
    facts = PruneBlocks(ratio=0.4, importance="change").attach(
        network, context(network, on=Data.of(train=part, validation=part, test=part))
    )
    assert len(facts.finish()["removed"]) == 3
    after = measure(network)
    assert after.macs < 0.75 * before.macs and after.params < before.params
    network.train()(torch.randn(3, 3, 16, 16))[0].sum().backward()


def test_a_rule_of_the_users_own_and_patterns() -> None:
    network = capture(resnet20(), torch.randn(2, 3, 16, 16), name="resnet20").eval()
    rule = lambda seen: -float(seen.name.split(".")[1])  # noqa: E731 - the last one first
    technique = PruneBlocks(ratio=0.5, importance=rule, include=("blocks.[0-4]",))
    assert technique.attach(network, context(network)).finish()["removed"] == ["blocks.4.add", "blocks.2.add"]
    with pytest.raises(RecipeError, match=r"no residual branch that is chosen and can leave; those that can: blocks\.0\.add"):
        PruneBlocks(include=("fc",)).attach(network, context(network))
    with pytest.raises(RecipeError, match="gave NaN for 'blocks.0.add'"):
        PruneBlocks(importance=lambda seen: float("nan")).attach(network, context(network))


@pytest.mark.parametrize(
    ("settings", "message"), [({"ratio": 1.0}, "ratio"), ({"samples": 0}, "samples"), ({"importance": "x"}, "importance")]
)
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(RecipeError, match=message):
        PruneBlocks(**settings)


def test_the_contract_holds() -> None:
    check_technique(PruneBlocks, ratio=0.75)
