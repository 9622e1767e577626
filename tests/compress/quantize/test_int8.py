import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize, first, recalibrates
from karui.compress.quantize.ranges import affine, channel_scale
from karui.data import ArrayPart, Data
from karui.errors import DataError, RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from tests.compress.tiny import context, data, small, train


def quantizers(network):
    return [n for n in network.module.graph.nodes if n.target is torch.ops.karui.fake_quantize.default]


def test_every_layer_and_value_is_quantized_and_the_answers_stay_close() -> None:
    network, on = small(), data()
    x = on.example(16)
    before = network(*x)[0]
    facts = Quantize().attach(network, context(network, on=on)).finish()
    after = network(*x)[0]
    assert facts == {"weights": 5, "activations": 7, "float": []}
    assert len(quantizers(network)) == 12
    assert (after - before).abs().max() < 0.05 * before.abs().max()
    assert not torch.equal(after, before)


def test_weights_are_symmetric_per_output_channel() -> None:
    network = small()
    latent = network.get("conv2.weight").detach().clone()
    Quantize().attach(network, context(network))
    scale = network.get("conv2.weight_scale")
    assert torch.allclose(scale, latent.abs().flatten(1).amax(1) / 127)
    codes = edit.value_of(network, "conv2.weight") / scale.view(-1, 1, 1, 1)
    torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
    assert codes.abs().max() <= 127.001
    assert (network.get("conv2.weight_zero_point") == 0).all()


def test_fewer_bits_make_fewer_values() -> None:
    network = small()
    Quantize(bits=3).attach(network, context(network))
    codes = edit.value_of(network, "fc1.weight") / network.get("fc1.weight_scale").view(-1, 1)
    assert set(codes.round().unique().tolist()) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}


@given(low=st.floats(-1e4, 1e4), width=st.floats(0, 1e4))
def test_zero_is_exact_and_the_range_is_covered(low: float, width: float) -> None:
    scale, zero_point = affine(low, low + width)
    assert -128 <= zero_point <= 127 and zero_point == zero_point.round()
    assert scale > 0
    reals = (torch.tensor([-128.0, 127.0]) - zero_point) * scale
    assert reals[0] <= min(low, 0) + scale and reals[1] >= max(low + width, 0) - scale
    zero = torch.ops.karui.fake_quantize(torch.zeros(3), scale, zero_point, -128, 127, None)
    assert (zero == 0).all()


def test_channels_of_zeros_are_harmless() -> None:
    network, on = small(), data()
    with torch.no_grad():
        network.get("conv2.weight")[2] = 0
    attached = Quantize().attach(network, context(network, steps=3, on=on))
    assert (network.get("conv2.weight_scale") > 0).all()
    train(network, attached, on, steps=3)
    assert all(torch.isfinite(t).all() for t in network.state().values())
    assert torch.equal(channel_scale(torch.zeros(2, 3), 0, 127), torch.full((2,), 1e-8))


def test_scales_of_weights_follow_training() -> None:
    network, on = small(), data()
    attached = Quantize().attach(network, context(network, steps=20, on=on))
    before = network.get("fc1.weight_scale").clone()
    activation = network.get("relu_scale").clone()
    train(network, attached, on, steps=20)
    attached.finish()
    after = network.get("fc1.weight_scale")
    assert not torch.equal(before, after)
    assert torch.equal(after, channel_scale(network.get("fc1.weight"), 0, 127))
    assert not torch.equal(activation, network.get("relu_scale"))


def test_calibrates_again_at_nine_moments_told_by_the_step_alone() -> None:
    for steps in (20, 37, 1000):
        moments = [s for s in range(steps) if recalibrates(s / steps, steps)]
        assert len(moments) == 9
        assert all(10 * s // steps != 10 * (s - 1) // steps for s in moments)
    assert not any(recalibrates(s / 19, 19) for s in range(19))


def test_a_resumed_run_is_bit_equal() -> None:
    on, ends = data(), []
    for stop in (None, 7, 25):
        network = small()
        attached = Quantize().attach(network, context(network, steps=40, on=on))
        if stop is not None:
            half = small()
            train(half, Quantize().attach(half, context(half, steps=40, on=on)), on, steps=40, stop=stop)
            network.load_state(half.state())
        train(network, attached, on, steps=40, start=stop or 0)
        attached.finish()
        ends.append(network.state())
    assert all(torch.equal(tensor, other[name]) for other in ends[1:] for name, tensor in ends[0].items())


def test_training_lowers_the_loss() -> None:
    network, on = small(), data()
    attached = Quantize(bits=3).attach(network, context(network, steps=60, on=on))
    batch = next(on.train.batches(64))
    before = on.loss(network.eval()(*batch.inputs), batch.targets)
    train(network, attached, on, steps=60)
    attached.finish()
    assert on.loss(network.eval()(*batch.inputs), batch.targets) < 0.5 * before


def test_learned_scales_are_parameters_and_stay_positive() -> None:
    network, on = small(), data()
    attached = Quantize(learn_scales=True).attach(network, context(network, steps=30, on=on))
    scales = [name for name in network.parameters() if name.endswith("_scale")]
    assert len(scales) == 12
    before = {name: network.get(name).detach().clone() for name in scales}
    train(network, attached, on, steps=30, optimizer=torch.optim.Adam(network.parameters().values(), lr=0.05))
    attached.finish()
    moved = [name for name in scales if not torch.equal(before[name], network.get(name))]
    assert len(moved) > 6
    assert all((network.get(name) > 0).all() for name in scales)


def test_a_layer_left_out_stays_float_with_its_values() -> None:
    network = small()
    facts = Quantize(exclude=("fc*",)).attach(network, context(network)).finish()
    assert facts["float"] == ["fc1.weight", "fc2.weight"]
    names = [n.name for n in quantizers(network)]
    assert facts["activations"] == len(names) - 3 == 5
    output = next(n for n in network.module.graph.nodes if n.op == "output").args[0][0]
    assert output.target is torch.ops.aten.linear.default


def test_masked_weights_stay_zero() -> None:
    network = small()
    Prune(sparsity=0.8).attach(network, context(network)).finish()
    Quantize().attach(network, context(network)).finish()
    value = edit.value_of(network, "fc1.weight")
    assert (value[network.get("fc1.weight_mask") == 0] == 0).all()
    kept = network.get("fc1.weight").detach() * network.get("fc1.weight_mask")
    assert torch.equal(network.get("fc1.weight_scale"), channel_scale(kept, 0, 127))


def test_a_second_time_calibrates_anew_without_stacking() -> None:
    network, on = small(), data()
    x = on.example(8)
    Quantize(bits=4).attach(network, context(network, on=on)).finish()
    Quantize(learn_scales=True).attach(network, context(network, on=on)).finish()
    again = network(*x)[0]
    assert len(quantizers(network)) == 12
    assert len(edit.forms_on(network, "fc1.weight")) == 1
    once = small()
    Quantize(learn_scales=True).attach(once, context(once, on=on)).finish()
    assert torch.equal(again, once(*x)[0])


def test_convolutions_of_every_kind() -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv1d(2, 6, 3)
            self.deep = nn.Conv1d(6, 6, 3, groups=6)
            self.up = nn.ConvTranspose2d(6, 5, 2, 2)
            self.grouped = nn.ConvTranspose2d(5, 5, 2, 2, groups=5)
            self.out = nn.Conv2d(5, 3, 1)

        def forward(self, x):
            y = self.deep(F.relu(self.a(x))).unflatten(2, (2, 2))
            return self.out(self.grouped(F.relu(self.up(y)))).mean((2, 3))

    torch.manual_seed(0)
    network = capture(Kinds(), torch.randn(2, 2, 8)).eval()
    x = torch.randn(32, 2, 8)
    on = Data.of(train=(x, torch.zeros(32).long()), validation=(x, torch.zeros(32).long()), test=(x, torch.zeros(32).long()))
    before = network(x)[0]
    facts = Quantize().attach(network, context(network, on=on)).finish()
    assert facts["float"] == ["grouped.weight"]
    assert network.get("up.weight_scale").shape == (5,)
    assert edit.forms_on(network, "up.weight")[0].constants["axis"] == 1
    assert (network(x)[0] - before).abs().max() < 0.1 * before.abs().max()


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc2(F.relu(self.norm(self.fc1(x.flatten(1)))).flatten(1))


def test_what_a_float_op_hands_to_a_quantized_layer_is_quantized() -> None:
    network = capture(Normed(), torch.randn(2, 1, 8, 8)).eval()
    for bits in (8, 6):
        facts = Quantize(bits=bits).attach(network, context(network)).finish()
        assert facts == {"weights": 2, "activations": 4, "float": []}
        activations = [n for n in quantizers(network) if n.args[5] is None]
        assert [str(n.args[0].target) for n in activations] == ["x", "aten.linear.default", "aten.relu.default", "aten.linear.default"]
    only = capture(Normed(), torch.randn(2, 1, 8, 8)).eval()
    assert Quantize(exclude=("fc2",)).attach(only, context(only)).finish()["activations"] == 2


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "percentile"])
def test_observers(observer: str) -> None:
    network, on = small(), data()
    before = network(*on.example(16))[0]
    Quantize(observer=observer).attach(network, context(network, on=on))
    assert (network(*on.example(16))[0] - before).abs().max() < 0.2 * before.abs().max()


def test_an_observer_of_the_users_own_sees_so_many_samples() -> None:
    seen = []

    class Wide:
        low, high = -10.0, 10.0

    def watch(before, value):
        seen.append(len(value))
        return Wide()

    network = small()
    Quantize(observer=watch, samples=50).attach(network, context(network, on=data(200)))
    assert sum(seen) == 50 * 7
    assert network.get("x_scale") == pytest.approx(20 / 255)


def test_first_cuts_the_last_batch() -> None:
    part = ArrayPart(torch.randn(200, 2), torch.zeros(200))
    assert [len(b) for b in first(part, 150)] == [64, 64, 22]
    assert [len(b) for b in first(part, 10)] == [10]
    assert [len(b) for b in first(part, 500)] == [64, 64, 64, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 9}, "bits"),
        ({"bits": 1}, "bits"),
        ({"samples": 0}, "samples"),
        ({"hold_batch_norm": 2.0}, "hold_batch_norm"),
        ({"observer": "x"}, "observer"),
    ],
)
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(RecipeError, match=message):
        Quantize(**settings)


def test_values_that_no_range_can_hold_are_refused_by_name() -> None:
    network = small()
    network.get("fc1.bias").detach()[0] = float("inf")
    with pytest.raises(DataError, match="calibration: '.*' gives values that are not finite; check data and network"):
        Quantize(observer="mse").attach(network, context(network))
    network = small()
    network.get("fc1.weight").detach()[0, 0] = float("nan")
    with pytest.raises(RecipeError, match=r"'fc1\.weight' has weights that are not finite"):
        Quantize().attach(network, context(network))


@given(seed=st.integers(0, 2**20), bits=st.integers(2, 8), mse=st.booleans())
@settings(max_examples=15, deadline=None)
def test_permuted_channels_have_permuted_codes(seed: int, bits: int, mse: bool) -> None:
    one, two = small(seed % 3), small(seed % 3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    two.get("conv2.weight").detach().copy_(one.get("conv2.weight").detach()[order])
    for each in (one, two):
        Quantize(bits=bits, weight_range="mse" if mse else "minmax", samples=16).attach(each, context(each)).finish()
    assert torch.equal(edit.value_of(one, "conv2.weight")[order], edit.value_of(two, "conv2.weight"))
    assert torch.equal(one.get("conv2.weight_scale")[order], two.get("conv2.weight_scale"))


def test_batch_norm_is_held_from_a_moment_on_and_learns_again_after() -> None:
    on, network = data(), small()
    attached = Quantize(hold_batch_norm=0.5).attach(network, context(network, steps=20, on=on))
    assert attached.settles == 0.9
    start = network.get("bn1.running_mean").clone()
    train(network, attached, on, steps=20, stop=10)
    half = network.get("bn1.running_mean").clone()
    assert not torch.equal(half, start)
    train(network, attached, on, steps=20, start=10)
    assert torch.equal(network.get("bn1.running_mean"), half)
    x = on.example(8)
    held = network(*x)[0]
    network.eval()
    assert torch.equal(network(*x)[0], held)  # training and evaluation are the same then
    attached.finish()
    network(*x)
    assert torch.equal(network.get("bn1.running_mean"), half)  # it is in evaluation, as it was
    network.train()(*x)
    assert not torch.equal(network.get("bn1.running_mean"), half)


def test_a_resumed_run_that_holds_batch_norm_is_bit_equal() -> None:
    on, ends = data(), []
    for stop in (None, 5, 15):
        network = small()
        attached = Quantize(hold_batch_norm=0.5).attach(network, context(network, steps=20, on=on))
        if stop is not None:
            half = small()
            train(half, Quantize(hold_batch_norm=0.5).attach(half, context(half, steps=20, on=on)), on, steps=20, stop=stop)
            network.load_state(half.state())
        train(network, attached, on, steps=20, start=stop or 0)
        attached.finish()
        ends.append(network.eval().state())
    assert all(torch.equal(tensor, other[name]) for other in ends[1:] for name, tensor in ends[0].items())
