import pytest
import torch

from karui.analyse.observe import Range, minmax, moving_average, observe, watch
from karui.data import Batch
from karui.graph.network import Network
from karui.graph.placement import activation_points
from tests.graph.nets import network_of


@pytest.fixture
def network() -> Network:
    return network_of("mlp")


def batches(count: int = 3) -> list[torch.Tensor]:
    return [torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def test_minmax_sees_what_evaluation_computes(network: Network) -> None:
    points = activation_points(network)
    state = {name: tensor.clone() for name, tensor in network.state().items()}
    seen = observe(network, batches(), points, minmax)
    assert network.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state().items())
    assert seen.keys() == {node.name for node in points}
    out = torch.cat([network.eval()(x)[0].detach() for x in batches()])
    assert seen[points[-1].name] == Range(low=float(out.min()), high=float(out.max()))
    assert seen["x"].high == max(float(x.max()) for x in batches())


def test_batches_may_be_tensors_tuples_or_data(network: Network) -> None:
    points = activation_points(network)
    ways = [batches(), [(x,) for x in batches()], [Batch(inputs=(x,), targets=torch.zeros(4), index=None) for x in batches()]]
    found = [observe(network, way, points, minmax) for way in ways]
    assert found[0] == found[1] == found[2]


def test_the_mode_comes_back_after_a_failure(network: Network) -> None:
    with pytest.raises(ZeroDivisionError):
        watch(network, batches(), activation_points(network), lambda node, value: 1 / 0)
    assert network.training


def test_moving_average_damps_an_outlier() -> None:
    seen = None
    for high in (1.0, 1.0, 101.0):
        seen = moving_average(seen, torch.tensor([-1.0, high]))
    assert seen == Range(low=-1.0, high=pytest.approx(0.9 * 1 + 0.1 * 101))


def test_users_bring_their_own_observer(network: Network) -> None:
    def largest(seen: Range | None, value: torch.Tensor) -> Range:
        top = max(float(value.abs().max()), seen.high if seen else 0.0)
        return Range(low=-top, high=top)

    seen = observe(network, batches(), activation_points(network), largest)
    assert all(r.low == -r.high for r in seen.values())
