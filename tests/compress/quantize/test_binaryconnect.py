import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.compress.quantize.binaryconnect import BinaryConnect, coefficient
from karui.compress.quantize.int8 import Quantize
from karui.compress.quantize.palette import Palette
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program.program import SignValues
from tests.compress.tiny import context, data, small, train

WEIGHTS = ("conv1.weight", "deep.weight", "conv2.weight", "fc1.weight", "fc2.weight")


@pytest.mark.parametrize("h", [None, 0.5])
def test_weights_become_two_values(h: float | None) -> None:
    network = small()
    latent = {name: network.get(name).detach().clone() for name in WEIGHTS}
    facts = BinaryConnect(H=h).attach(network, context(network)).finish()
    for name in WEIGHTS:
        value = edit.value_of(network, name)
        size = h or math.sqrt(1.5 / ((latent[name].shape[0] + latent[name].shape[1]) * latent[name][0, 0].numel()))
        assert torch.allclose(value, torch.where(latent[name] >= 0, size, -size))
    assert facts["weights"] == 5
    assert facts["test_weights"] == "binary"
    assert sum(isinstance(weight.values, SignValues) for weight in lower(network).weights.values()) == 5


def test_a_step_is_that_of_the_algorithm() -> None:
    """Alg. 1 by hand: gradients at the binary weights move the real ones, which are then clipped."""
    torch.manual_seed(0)
    network = capture(nn.Linear(6, 3, bias=False), torch.randn(2, 6))
    on, x, y = data(), torch.randn(8, 6), torch.randint(3, (8,))
    attached = BinaryConnect(H=1.0, scale_lr=False).attach(network, context(network, steps=10, on=on))
    real = network.get("weight").detach().clone()
    for step in range(10):
        attached.step(step / 10)
        binary = torch.where(real >= 0, 1.0, -1.0).requires_grad_()
        (expected,) = torch.autograd.grad(F.cross_entropy(x @ binary.T, y), binary)
        network.get("weight").grad = None
        F.cross_entropy(network(x)[0], y).backward()
        torch.testing.assert_close(network.get("weight").grad, expected)
        with torch.no_grad():
            network.get("weight").sub_(3.0 * network.get("weight").grad)
        real = (real - 3.0 * expected).clamp(-1, 1)
        attached.step((step + 0.5) / 10)
        torch.testing.assert_close(network.get("weight").detach(), real)
    assert (real.abs() == 1).any()


def test_clipping_at_the_coefficient_is_the_scaled_learning_rate() -> None:
    """§2.5: w learns at lr / c within ±1, or w · c at lr within ±c; the binary weights are the same at every step."""
    torch.manual_seed(0)
    network = capture(nn.Linear(20, 30, bias=False), torch.randn(2, 20))
    x, y = torch.randn(64, 20), torch.randint(30, (64,))
    attached = BinaryConnect(H=1.0).attach(network, context(network, steps=30))
    c = coefficient(network.get("weight"), None)
    real = network.get("weight").detach() / c
    ours, theirs = torch.optim.Adam([network.get("weight")], lr=0.01), None
    real.requires_grad_()
    theirs = torch.optim.Adam([real], lr=0.01 / c)
    for step in range(30):
        attached.step(step / 30)
        with torch.no_grad():
            real.clamp_(-1, 1)
        binary = torch.where(real >= 0, 1.0, -1.0).detach().requires_grad_()
        assert torch.equal(edit.value_of(network, "weight"), binary)
        real.grad = torch.autograd.grad(F.cross_entropy(x @ binary.T, y), binary)[0]
        theirs.step()
        ours.zero_grad()
        F.cross_entropy(network(x)[0], y).backward()
        ours.step()


def test_drawn_weights_have_the_published_probability() -> None:
    network = capture(nn.Linear(5, 4, bias=False), torch.randn(2, 5))
    attached = BinaryConnect(stochastic=True, H=0.5, scale_lr=False).attach(network, context(network, steps=2000))
    real = network.get("weight").detach().clone()
    ups = torch.zeros_like(real)
    for step in range(2000):
        attached.step(step / 2000)
        drawn = network.get("weight").detach()
        assert torch.equal(drawn.abs(), torch.full_like(drawn, 0.5))
        ups += drawn > 0
        attached.after_backward(step / 2000)
        assert torch.equal(network.get("weight").detach(), real)
    torch.testing.assert_close(ups / 2000, ((real / 0.5 + 1) / 2).clamp(0, 1), atol=0.05, rtol=0)


@pytest.mark.parametrize("resumes", [False, True])
def test_drawn_weights_learn_at_the_scaled_rate_around_their_mean(resumes: bool) -> None:
    """The real weights lie within ±H, are the mean of what is drawn, and move by the optimizer's step divided by Glorot's coefficient."""
    network = capture(nn.Linear(20, 30, bias=False), torch.randn(2, 20))
    start = network.get("weight").detach().clone()
    attached = BinaryConnect(stochastic=True, H=1.0).attach(network, context(network, steps=10))
    c = coefficient(start, None)
    real = (start / c).clamp(-1, 1)
    for step in range(10):
        attached.step(step / 10)
        assert torch.equal(network.get("weight").detach().abs(), torch.ones(30, 20))
        attached.after_backward(step / 10)
        torch.testing.assert_close(network.get("weight").detach(), real)
        update = torch.randn(30, 20) * 0.01
        network.get("weight").detach().add_(update)
        real = (real + update / c).clamp(-1, 1)
        if resumes:
            told, kept = attached.state(), network.get("weight").detach().clone()
            attached = BinaryConnect(stochastic=True, H=1.0).attach(network, context(network, steps=10))
            network.get("weight").detach().copy_(kept)
            attached.load_state(told)


@pytest.mark.parametrize(("test_weights", "binary"), [(None, False), ("real", False), ("binary", True)])
def test_what_a_stochastic_training_ends_with(test_weights, binary: bool) -> None:
    network, on = small(), data()
    attached = BinaryConnect(stochastic=True, test_weights=test_weights).attach(network, context(network, steps=12, on=on))
    batches = list(on.train.batches(16, seed=3))
    optimizer = torch.optim.SGD(network.parameters().values(), lr=0.05)
    for step in range(12):
        attached.step(step / 12)
        optimizer.zero_grad()
        batch = batches[step % len(batches)]
        on.loss(network(*batch.inputs), batch.targets).backward()
        attached.after_backward(step / 12)
        optimizer.step()
    facts = attached.finish()
    assert facts["test_weights"] == ("binary" if binary else "real")
    assert (
        len(edit.value_of(network, "fc1.weight").abs().unique()) == 1 if binary else len(edit.value_of(network, "fc1.weight").unique()) > 9
    )
    assert network.get("fc1.weight").abs().max() <= coefficient(network.get("fc1.weight"), None) + 1e-6


@pytest.mark.parametrize("steps", [0, 5])
def test_a_draw_is_nothing_to_end_with(steps: int) -> None:
    network = small()
    real = network.get("fc1.weight").detach().clone()
    limit = coefficient(real, None)
    attached = BinaryConnect(stochastic=True).attach(network, context(network, steps=steps))
    attached.step(0.0)
    assert attached.finish()["test_weights"] == "real"
    assert torch.equal(edit.value_of(network, "fc1.weight"), real.clamp(-limit, limit))


def test_it_learns() -> None:
    network, on = small(), data()
    attached = BinaryConnect().attach(network, context(network, steps=80, on=on))
    before = float(on.loss(network(*on.example(64)), next(iter(on.train.batches(64))).targets))
    train(network, attached, on, steps=80, optimizer=torch.optim.Adam(network.parameters().values(), lr=5e-3))
    attached.finish()
    network.eval()
    batch = next(iter(on.train.batches(64)))
    assert float(on.loss(network(*batch.inputs), batch.targets)) < 0.7 * before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"H": 0.0}, r"H: expected a number in \(0, 1\]"),
        ({"H": float("nan")}, "H: expected"),
        ({"test_weights": "signs"}, "test_weights: expected one of binary, real"),
        ({"test_weights": "real"}, "test_weights: 'real' is for weights that are trained stochastically"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BinaryConnect(**settings)  # type: ignore[arg-type]


def test_one_number_format_a_weight() -> None:
    network = small()
    Quantize(include=("fc1",)).attach(network, context(network)).finish()
    with pytest.raises(RecipeError, match=r"'fc1\.weight' has a number format already; exclude it"):
        BinaryConnect().attach(network, context(network))
    BinaryConnect(exclude=("fc1",)).attach(network, context(network)).finish()
    facts = Quantize().attach(network, context(network)).finish()  # leaves binary weights as they are
    assert facts["weights"] == 1 and facts["float"] == []
    assert all(len(edit.forms_on(network, name)) == 1 for name in WEIGHTS)
    shared = small()
    Palette(include=("fc2",)).attach(shared, context(shared)).finish()
    with pytest.raises(RecipeError, match=r"'fc2\.weight' has a number format already; exclude it"):
        Quantize().attach(shared, context(shared))
