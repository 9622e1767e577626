from functools import partial

import pytest
import torch
from torch import Tensor, nn

from karui.compress.layerwise import walk
from karui.compress.prune.weights import Prune
from karui.compress.quantize.adaround import adaround
from karui.compress.quantize.int8 import Quantize
from karui.compress.quantize.layer import Layer
from karui.compress.quantize.ranges import best_share, channel_scale
from karui.compress.solver import error
from karui.compress.statistics import moments
from karui.data import Data
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.program.interpreter import run
from karui.search.scores import outputs_of
from tests.compress.tiny import context, data, small


class Grouped(nn.Module):
    """Grouped, depthwise and pointwise convolutions, a batch-norm, a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 12, 3, groups=4, bias=False)
        self.norm, self.deep, self.point = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 40, 1)
        self.twice, self.head = nn.Linear(40, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.grouped(torch.relu(self.first(x)))))
        x = torch.relu(self.point(self.deep(x))).mean((2, 3))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


def grouped() -> tuple[Network, Data]:
    torch.manual_seed(0)
    pictures = torch.randn(96, 4, 8, 8).cumsum(2).cumsum(3) / 4  # neighbours are alike: roundings can make up for each other
    part = (pictures, torch.randint(3, (96,)))
    network = capture(Grouped(), pictures[:2]).eval()
    return network, Data.of(train=part, validation=part, test=part, calibration=part, name="waves")


def loss(network: Network, before: Network, on: Data) -> float:
    x = on.calibration.batches(96).__iter__().__next__().inputs[0]
    with torch.no_grad():
        return float((network(x)[0] - before(x)[0]).square().mean())


def quantized(network: Network, on: Data, **settings: object) -> Network:
    copy = network.copy().eval()
    Quantize(**settings).attach(copy, context(copy, on=on)).finish()  # type: ignore[arg-type]
    return copy


@pytest.mark.parametrize("make", [grouped, lambda: (small().eval(), data())])
def test_gptq_keeps_the_outputs_better_than_the_nearest_codes(make) -> None:
    network, on = make()
    plain, better = (quantized(network, on, bits=3, rounding=rule, exclude=("twice",)) for rule in ("nearest", "gptq"))
    assert loss(better, network, on) < 0.75 * loss(plain, network, on)
    assert not better.training


def test_gptq_repairs_for_samples_that_it_did_not_see(monkeypatch) -> None:
    torch.manual_seed(0)
    network = capture(nn.Sequential(nn.Linear(96, 32)), torch.zeros(2, 96)).eval()
    x = torch.randn(1024, 96) @ torch.randn(96, 96) * 0.1 + torch.randn(1024, 96) * 0.3
    part, x = (x[:48], torch.zeros(48, dtype=torch.int64)), x[48:]
    on = Data.of(train=part, validation=part, test=part, calibration=part, name="few")

    def change(**settings: object) -> float:
        return float((quantized(network, on, bits=3, **settings)(x)[0] - network(x)[0]).square().mean())

    plain, damped = change(), change(rounding="gptq")
    monkeypatch.setattr(Layer, "damping", 0.01)
    assert damped < 0.95 * plain < 0.6 * change(rounding="gptq")  # with few samples, little damping is worse than the nearest codes


def test_gptq_on_one_layer_lowers_the_error_that_the_hessian_tells() -> None:
    network, on = grouped()
    plain, better = (quantized(network, on, bits=3, rounding=rule) for rule in ("nearest", "gptq"))
    batches = list(on.calibration.batches(96))
    for name in ("first.weight", "grouped.weight"):
        site = next(walk(network, batches, {name}))
        before = site.weight().reshape(site.groups, -1, site.hessian.shape[1])
        found = [edit.value_of(each, name).detach().reshape(before.shape) for each in (plain, better)]
        losses = [sum(error(b, w, h) for b, w, h in zip(before, each, site.hessian)) for each in found]
        assert losses[1] < 0.8 * losses[0], name


@pytest.mark.parametrize(("make", "limit"), [(grouped, 0.85), (lambda: (small().eval(), data()), 0.5)])
def test_adaround_keeps_the_outputs_better_than_the_nearest_codes(make, limit: float) -> None:
    network, on = make()
    rules = ("nearest", partial(adaround, steps=400))
    plain, better = (quantized(network, on, bits=3, rounding=rule, exclude=("twice",)) for rule in rules)
    assert loss(better, network, on) < limit * loss(plain, network, on)
    for name in ("first.weight", "head.weight", "fc1.weight"):
        if name in network.parameters():
            step = plain.get(f"{name}_scale").reshape(-1, *[1] * (network.get(name).dim() - 1))
            away = ((better.get(name) - network.get(name)) / step).detach().abs()
            assert away.max() < 1.001  # up or down, no further
            assert (away > 0.5).any()


def test_adaround_is_the_same_each_time() -> None:
    network, on = grouped()
    first, second = (quantized(network, on, bits=3, rounding=partial(adaround, steps=20)) for _ in range(2))
    assert all(torch.equal(tensor, second.state()[name]) for name, tensor in first.state().items())


@pytest.mark.parametrize("rounding", ["nearest", "gptq", partial(adaround, steps=20)])
def test_weights_lie_on_the_grid_that_they_were_rounded_to(rounding) -> None:
    network, on = grouped()
    done = quantized(network, on, bits=4, rounding=rounding, bias_correction=True, weight_range="mse")
    for name in ("first.weight", "grouped.weight", "deep.weight", "point.weight", "head.weight"):
        value, scale = done.get(name).detach(), done.get(f"{name}_scale")
        codes = value.movedim(0, -1) / scale
        torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
        assert codes.abs().max() <= 7.001
        torch.testing.assert_close(edit.value_of(done, name), value)
    shared = done.get("twice.weight").detach()
    assert torch.equal(shared, network.get("twice.weight").detach())  # two layers want different things of it


def test_masked_weights_stay_zero() -> None:
    network, on = grouped()
    Prune(sparsity=0.5).attach(network, context(network, on=on)).finish()
    done = quantized(network, on, bits=4, rounding="gptq")
    for name in ("first.weight", "grouped.weight", "head.weight"):
        assert (edit.value_of(done, name)[network.get(f"{name}_mask") == 0] == 0).all()
    assert loss(done, network, on) < loss(quantized(network, on, bits=4), network, on)


def test_the_program_computes_the_same() -> None:
    network, on = grouped()
    done = quantized(network, on, bits=4, rounding="gptq", bias_correction=True, weight_range="mse")
    x = next(iter(on.calibration.batches(8))).inputs[0]
    program = lower(done)
    out = outputs_of(program, run(program, [x.permute(0, 2, 3, 1).numpy()]))[0].numpy()
    want = done(x)[0].detach()
    assert (torch.from_numpy(out) - want).abs().max() < 0.05 * want.abs().max()


def test_bias_correction_brings_the_means_back() -> None:
    network, on = grouped()
    plain, corrected = quantized(network, on, bits=3), quantized(network, on, bits=3, bias_correction=True)
    batches = list(on.calibration.batches(64))
    for name in ("first.weight", "grouped.weight", "point.weight", "head.weight"):
        found = []
        for each in (network, plain, corrected):
            site = next(walk(each, batches, {name}))
            mean = moments(site)[0]
            if name == "grouped.weight":
                mean = mean - each.get("norm.running_mean")  # the batch-norm takes over what the convolution lost
            found.append(mean)
        truth, off, mended = found
        assert (mended - truth).abs().max() < 0.1 * (off - truth).abs().max() + 1e-5, name


def test_the_range_with_the_least_error_is_no_worse_for_any_channel() -> None:
    weight = torch.randn(16, 400, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    weight[5, 0] = 30.0
    scale = channel_scale(weight, 0, 7)
    share = best_share(weight, scale, 0, 7)

    def left(step: Tensor) -> Tensor:
        return (weight - (weight / step[:, None]).round().clamp(-7, 7) * step[:, None]).square().sum(1)

    assert (left(scale * share) <= left(scale)).all()
    assert (left(scale * share) < 0.9 * left(scale)).sum() > 8
    assert torch.equal(best_share(weight.T, scale, 1, 7), share)


def test_the_range_is_kept_while_training_goes_on() -> None:
    network, on = small(), data()
    attached = Quantize(bits=4, weight_range="mse").attach(network, context(network, steps=10, on=on))
    share = network.get("fc1.weight_scale") / channel_scale(network.get("fc1.weight"), 0, 7)
    assert (share < 1).any()
    network.get("fc1.weight").detach().mul_(2)
    attached.step(0.5)
    torch.testing.assert_close(network.get("fc1.weight_scale") / channel_scale(network.get("fc1.weight"), 0, 7), share)


def test_a_rounding_of_ones_own() -> None:
    network, on = grouped()
    seen: list[str] = []

    def down(layer: Layer) -> Tensor:
        seen.append(layer.name)
        return (layer.weight / layer.step).trunc()

    done = quantized(network, on, bits=4, rounding=down)
    assert seen == ["first.weight", "grouped.weight", "deep.weight", "point.weight", "head.weight"]
    assert (done.get("first.weight").abs() <= network.get("first.weight").abs() + 1e-6).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounding": "up"}, "rounding: 'up' is not a rounding: use nearest, gptq, adaround"),
        ({"rounding": lambda layer: layer.weight}, r"rounding: gave something else than whole numbers in −127 … 127 for 'first\.weight'"),
        ({"rounding": lambda layer: torch.full_like(layer.weight, 128)}, "rounding: gave something else"),
        ({"rounding": lambda layer: torch.zeros(3)}, r"rounding: gave shape \[3\] for 'first\.weight'"),
        ({"weight_range": "max"}, "weight_range: expected one of minmax, mse, got 'max'"),
    ],
)
def test_what_is_refused(settings: dict[str, object], message: str) -> None:
    network, on = grouped()
    with pytest.raises(RecipeError, match=message):
        quantized(network, on, **settings)
