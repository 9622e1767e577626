import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.analyse.observe import watch
from karui.compress import layerwise, solver
from karui.compress.layerwise import columns, gains, walk
from karui.compress.solver import adapted, block_saliency, chain_saliency, damped, error, least_squares, prune, reconstruct, saliency, solve
from karui.data import Batch
from karui.errors import DataError
from karui.graph.doors.torch import capture
from tests.compress.tiny import data, small


def batches():
    return list(data().calibration.batches(16))


def rows(weight: torch.Tensor, groups: int) -> torch.Tensor:
    return weight.detach().reshape(groups, weight.shape[0] // groups, -1)


def test_every_layer_is_visited_with_a_hessian_that_fits() -> None:
    network = small()
    sites = list(walk(network, batches()))
    assert [s.parameter for s in sites] == ["conv1.weight", "deep.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
    assert [s.groups for s in sites] == [1, 8, 1, 1, 1]
    for site in sites:
        assert site.hessian.shape == (site.groups, *[rows(network.get(site.parameter), site.groups).shape[2]] * 2)
    assert sites[0].samples == 64 * 64
    assert sites[-1].samples == 64


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (4, 9, 9)),
        (nn.Conv2d(4, 8, (2, 3), dilation=(1, 2), groups=2, bias=False), (4, 9, 9)),
        (nn.Conv2d(4, 6, (4, 3), padding="same", bias=False), (4, 9, 9)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (4, 11)),
        (nn.Conv1d(4, 6, 4, padding="same", bias=False), (4, 11)),
        (nn.Linear(7, 5, bias=False), (3, 7)),
    ],
)
def test_columns_times_weight_is_the_layer(layer: nn.Module, shape) -> None:
    """½ tr(W H Wᵀ) · samples is the squared norm of the outputs: the vectors are the right ones in the right order."""
    network = capture(layer, torch.randn(2, *shape)).eval()
    x = torch.randn(3, *shape)
    node = next(n for n in network.module.graph.nodes if n.op == "call_function")
    weight = rows(layer.weight, getattr(layer, "groups", 1))
    out = weight @ columns(node, x, tuple(layer.weight.shape[2:]))  # [groups, O / groups, samples]
    truth = layer(x).movedim(1, 0).flatten(1) if layer.weight.dim() > 2 else layer(x).flatten(0, 1).T
    torch.testing.assert_close(out.flatten(0, 1), truth, atol=1e-5, rtol=1e-5)


def test_a_layer_sees_what_the_layers_before_it_have_become() -> None:
    network = small()
    plain = {s.parameter: s.hessian for s in walk(network, batches())}
    changed = {}
    for site in walk(network, batches()):
        changed[site.parameter] = site.hessian
        if site.parameter == "conv2.weight":
            with torch.no_grad():
                network.get("conv2.weight").mul_(-2)
    assert torch.equal(plain["conv2.weight"], changed["conv2.weight"])
    assert not torch.allclose(plain["fc1.weight"], changed["fc1.weight"])
    again = {s.parameter: s.hessian for s in walk(network, batches())}
    assert torch.equal(again["fc1.weight"], changed["fc1.weight"])


def test_only_some_layers_are_stopped_at() -> None:
    everything = {s.parameter: s for s in walk(small(), batches())}
    some = {s.parameter: s for s in walk(small(), batches(), ("conv2.weight", "fc2.weight"))}
    assert list(some) == ["conv2.weight", "fc2.weight"]
    for name, site in some.items():
        torch.testing.assert_close(site.hessian, everything[name].hessian)


def test_a_sites_moments_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    site, other = (next(walk(network, batches(), ("conv2.weight",))) for network in (small(), small(seed=1)))
    x, y = (torch.cat(each.inputs).double().movedim(1, 0).flatten(1) for each in (site, other))
    monkeypatch.setattr(layerwise, "PIECE", 8 * 64 * 5)  # five samples at a time
    assert site.samples == x.shape[1]
    torch.testing.assert_close(site.mean, x.mean(1)[None], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(site.hessian, 2 / x.shape[1] * (x @ x.T)[None], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(site.cross(other), 2 / x.shape[1] * (x @ y.T)[None], atol=1e-5, rtol=1e-5)
    assert len(list(site.columns())) == 16  # sixteen samples are 5 + 5 + 5 + 1, four times


def test_gains_are_squared_jacobians() -> None:
    network = small()
    wanted = torch.zeros(12)
    for batch in batches():
        for x in batch.inputs[0]:
            hidden = F.linear(
                torch.cat([s.inputs[0] for s in walk(network, [Batch(inputs=(x[None],), targets=None)], ("fc1.weight",))]), *fc(network, 1)
            )
            wanted += torch.autograd.functional.jacobian(lambda h: F.linear(F.relu(h), *fc(network, 2)), hidden[0]).square().sum(0) / 64
    many = [gains(network, batches(), ("fc1.weight", "fc2.weight"), seed=seed) for seed in range(40)]
    found = torch.stack([each["fc1.weight"] for each in many]).mean(0)
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.01)
    assert torch.equal(gains(network, batches(), ("fc2.weight",))["fc2.weight"], many[0]["fc2.weight"])


def fc(network, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    return network.get(f"fc{place}.weight").detach(), network.get(f"fc{place}.bias").detach()


def test_the_adapted_weight_forgets_the_old_inputs() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 300, dtype=torch.double)
    seen = 0.7 * x + 0.3 * torch.randn_like(x)
    weight = torch.randn(3, 6, dtype=torch.double)
    found = adapted(weight, 2 / 300 * seen @ seen.T, 2 / 300 * x @ seen.T)
    truth = torch.linalg.lstsq(seen.T, (weight @ x).T).solution.T
    torch.testing.assert_close(found, truth)


def test_saliencies_are_the_errors_of_the_best_that_is_left() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 10) @ torch.randn(10, 10)
    hessian = damped((2 / 200 * x.T @ x).double())
    inverse, weight = torch.linalg.inv(hessian), torch.randn(3, 10)

    def without(row: int, gone) -> float:
        mask = torch.ones(1, 10)
        mask[0, gone] = 0
        best = least_squares(weight[row : row + 1].double(), mask, hessian, damping=1e-12)
        return error(weight[row : row + 1], best, hessian)

    blocks = block_saliency(weight, inverse, 4)
    assert blocks.shape == (3, 3)  # the last block is of two
    for row in range(3):
        assert blocks[row].tolist() == pytest.approx([without(row, range(4)), without(row, range(4, 8)), without(row, [8, 9])], rel=1e-5)
        order = torch.randperm(10)
        chain = chain_saliency(weight[row], inverse, order)[order].cumsum(0).tolist()
        assert chain == pytest.approx([without(row, order[: k + 1]) for k in range(10)], rel=1e-5)


def test_the_exact_solution_is_taken_where_it_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 12) @ torch.randn(12, 12)
    hessian, weight, mask = (2 / 100 * x.T @ x).double(), torch.randn(5, 12), torch.rand(5, 12) > 0.5
    assert torch.equal(reconstruct(weight, mask, hessian), least_squares(weight, mask, hessian))
    monkeypatch.setattr(solver, "EXACT", 1.0)
    assert torch.equal(reconstruct(weight, mask, hessian), prune(weight, mask, hessian))


def test_pruning_with_compensation_beats_plain_magnitude() -> None:
    network = small()
    for site in walk(network, batches()):
        if site.parameter not in ("conv2.weight", "fc1.weight"):
            continue
        weight, hessian = rows(network.get(site.parameter), 1)[0], site.hessian[0]
        limit = weight.abs().flatten().kthvalue(int(0.7 * weight.numel())).values
        mask = weight.abs() > limit
        plain, solved, best = (
            error(weight, after, hessian) for after in (weight * mask, prune(weight, mask, hessian), least_squares(weight, mask, hessian))
        )
        assert best <= solved * 1.001
        assert solved < (0.8 if site.parameter == "fc1.weight" else 1.0) * plain
        assert ((prune(weight, mask, hessian) != 0) <= mask).all()
        assert ((least_squares(weight, mask, hessian) != 0) <= mask).all()


def test_saliency_chooses_better_than_magnitude() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 16) * torch.logspace(-1, 1, 16)
    hessian = (2 / 200 * x.T @ x).double()
    weight = torch.randn(8, 16)

    def cut(scores: torch.Tensor) -> float:
        mask = scores > scores.flatten().kthvalue(64).values
        return error(weight, least_squares(weight, mask, hessian), hessian)

    assert cut(saliency(weight, hessian)) < 0.5 * cut(weight.abs())


def test_rounding_with_compensation_beats_plain_rounding() -> None:
    torch.manual_seed(0)
    x = F.relu(torch.randn(400, 32) + torch.randn(400, 1))
    hessian = (2 / 400 * x.T @ x).double()
    weight = torch.randn(8, 32)

    def grid(w: torch.Tensor) -> torch.Tensor:
        return torch.round(w * 3) / 3

    solved = solve(weight, hessian, lambda k, w: grid(w), block=5)
    torch.testing.assert_close(solved, grid(solved))
    assert error(weight, solved, hessian) < 0.5 * error(weight, grid(weight), hessian)
    torch.testing.assert_close(solved, solve(weight, hessian, lambda k, w: grid(w), block=32))


def test_inputs_that_never_fire_are_harmless() -> None:
    hessian = torch.zeros(4, 4, dtype=torch.double)
    weight = torch.randn(3, 4)
    mask = torch.tensor([1, 0, 1, 0]).expand(3, 4)
    assert torch.isfinite(prune(weight, mask, hessian)).all()
    assert torch.isfinite(least_squares(weight, mask, hessian)).all()


def test_inputs_and_outputs_of_a_layer() -> None:
    network, untouched = small(), small()
    for site, wanted in zip(walk(network, batches()), walk(untouched, batches()), strict=True):
        for ours, theirs in zip(site.outputs(), wanted.outputs(), strict=True):
            assert ours.shape == theirs.shape and len(ours) == 16
        if site.parameter == "fc2.weight":
            truth = torch.cat([untouched(*batch.inputs)[0] for batch in batches()])
            torch.testing.assert_close(torch.cat(wanted.outputs()), truth)  # the last layer's are the network's
            assert not torch.allclose(torch.cat(site.outputs()), truth)
            shift = torch.zeros_like(network.get(site.parameter), requires_grad=True)
            site.layer(site.inputs[0], site.weight() + shift).sum().backward()
            torch.testing.assert_close(shift.grad, site.inputs[0].sum(0).expand(4, -1))
        with torch.no_grad():
            network.get(site.parameter).mul_(1.1)


def test_no_samples() -> None:
    with pytest.raises(DataError, match="calibration"):
        list(walk(small(), []))
    assert len(list(walk(small(), [Batch(inputs=(torch.randn(1, 1, 8, 8),), targets=None)]))) == 5


def test_what_follows_a_layer_is_its_batch_norm_and_activation() -> None:
    network = small().eval()
    batch = batches()[0]
    found = {node.name: value for node, value in everything(network, batch)}
    tails = {"conv1.weight": "relu", "deep.weight": "relu_1", "fc2.weight": None}
    for site in walk(network, [batch]):
        (output,) = site.outputs()
        behind = [node for node in network.module.graph.nodes if node.name == tails.get(site.parameter)]
        expected = found[behind[0].name] if behind else output
        if site.parameter in tails:
            torch.testing.assert_close(site.tail(output), expected)
            assert (behind == []) == torch.equal(site.tail(output), output)


def everything(network, batch):
    found = []
    nodes = [node for node in network.module.graph.nodes if node.op == "call_function"]
    watch(network, [batch], nodes, lambda node, value: found.append((node, value)))
    return found
