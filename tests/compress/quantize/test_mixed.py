"""Bits layer by layer: what is measured, what is planned, and what comes out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.compress.prune.weights import Prune
from karui.compress.quantize.gptq import gptq
from karui.compress.quantize.int8 import Quantize
from karui.compress.quantize.mixed import Measured, frontier, measured, rounded, scale_of, spent
from karui.compress.quantize.rounding import round_layers
from karui.compress.select import weights
from karui.errors import RecipeError
from karui.graph import edit
from karui.lower import lower
from karui.program.program import AffineValues
from karui.recipe import dump, parse
from tests.compress.tiny import context, data, small


def layer(size: int, *harm: float) -> Measured:
    return Measured(bytes={2: size / 4, 4: size / 2, 8: float(size)}, harm=dict(zip((2, 4, 8), harm, strict=True)))


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    seed=st.integers(0, 2**20),
    share=st.floats(0.3, 1.0),
)
@settings(max_examples=40, deadline=None)
def test_no_other_choice_within_the_budget_does_less_harm(sizes: list[int], seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = {f"l{i}": layer(size, *sorted(torch.rand(3, generator=generator).tolist(), reverse=True)) for i, size in enumerate(sizes)}
    budget = share * sum(sizes)

    def cost(widths) -> tuple[float, float]:
        return sum(layers[n].bytes[b] for n, b in widths.items()), sum(layers[n].harm[b] for n, b in widths.items())

    found = cost(spent(layers, share))
    every = (cost(dict(zip(layers, widths, strict=True))) for widths in itertools.product((2, 4, 8), repeat=len(layers)))
    assert found[0] <= budget * (1 + 1e-6)
    assert found[1] <= min(harm for size, harm in every if size <= budget * (1 - 1e-9)) * (1 + 1e-6) + 1e-9


def test_a_budget_out_of_reach_is_refused() -> None:
    with pytest.raises(RecipeError, match="bytes: 0.1 can't be met: with the fewest bits everywhere weights take 0.250; give that or more"):
        spent({"l": layer(100, 1, 0.5, 0)}, 0.1)


def test_the_frontier_falls() -> None:
    points = frontier({"a": layer(100, 3, 1, 0), "b": layer(50, 0.4, 0.2, 0.1), "c": layer(200, 9, 0.1, 0)}, points=8)
    assert points[0][0] == pytest.approx(0.25) and points[-1][0] == pytest.approx(1.0)
    assert all(one[0] <= two[0] and one[1] >= two[1] for one, two in itertools.pairwise(points))


def test_measuring_changes_nothing_and_fewer_bits_harm_more() -> None:
    network, on = small(), data()
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    found = measured(network, weights(network, ("*",), ()), (2, 4, 8), list(on.calibration.batches(32)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state().items())
    for each in found.values():
        assert each.harm[2] > each.harm[4] > each.harm[8] >= 0
    # by hand, for one layer
    other, x = small(), on.example(64)
    weight = other.get("fc1.weight").detach()
    weight.copy_(rounded(weight.clone(), 0, 2))
    batches = list(on.calibration.batches(32))
    ours, theirs = (torch.cat([net(*b.inputs)[0] for b in batches]).log_softmax(1) for net in (network, other))
    assert found["fc1.weight"].harm[2] == pytest.approx(float((ours.exp() * (ours - theirs)).sum(1).mean().detach()), rel=1e-3)
    assert len(x) == 1


def test_what_is_measured_is_the_rounding_that_follows() -> None:
    network, on = small(), data()
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    layers, batches = weights(network, ("*",), ()), list(on.calibration.batches(32))
    plain = measured(network, layers, (3, 8), batches)
    found = measured(network, layers, (3, 8), batches, gptq, bias_correction=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state().items())
    assert sum(each.harm[3] for each in found.values()) < sum(each.harm[3] for each in plain.values())
    # by hand, for one layer
    name, other = "conv2.weight", small().eval()
    grid = {name: (scale_of(network.get(name).detach(), 0, 3), 3)}
    round_layers(other, small().eval(), batches[::2], grid, gptq, bias_correction=True)  # it isn't judged by what it was shown
    ours, theirs = (torch.cat([net(*b.inputs)[0] for b in batches[1::2]]).double().log_softmax(1) for net in (network.eval(), other))
    assert found[name].harm[3] == pytest.approx(float((ours.exp() * (ours - theirs)).sum(1).mean().detach()), rel=1e-3)


def test_a_network_that_is_sure_is_harmed_all_the_same() -> None:
    network = small()
    network.get("fc2.weight").detach().mul_(300)  # softmax of single precision: ones and zeros
    found = measured(network, weights(network, ("*",), ()), (4, 8), list(data().calibration.batches(32)))
    assert all(harm >= 0 for each in found.values() for harm in each.harm.values())
    assert sum(each.harm[4] for each in found.values()) > 0


def test_scales_count() -> None:
    network = small()
    found = measured(network, weights(network, ("fc1.weight",), ()), (3, 8), list(data().calibration.batches(32)))
    outputs, inputs = network.get("fc1.weight").shape
    assert found["fc1.weight"].bytes == {3: -(-3 * outputs * inputs // 8) + 4 * outputs, 8: outputs * inputs + 4 * outputs}


@pytest.mark.parametrize("share", [0.6, 0.7, 0.9])
def test_a_network_gets_its_bits_within_the_bytes(share: float) -> None:
    network, on = small(), data()
    facts = Quantize(bits=(2, 4, 8), bytes=share, weight_range="mse").attach(network, context(network, on=on)).finish()
    sizes = {name: network.get(name).numel() for name in facts["bits"]}
    assert sum(sizes[n] * b for n, b in facts["bits"].items()) <= 8 * share * sum(sizes.values()) * (1 + 1e-9)
    assert len(set(facts["bits"].values())) > 1
    for name, bits in facts["bits"].items():
        codes = edit.value_of(network, name) / network.get(f"{name}_scale").reshape(-1, *[1] * (network.get(name).dim() - 1))
        assert codes.abs().max().round() <= 2 ** (bits - 1) - 1
        values = lower(network).weights[name].values
        assert isinstance(values, AffineValues) and values.bits == bits
    assert facts["frontier"][0][0] < share + 0.3
    assert facts["chosen"][0] <= share * (1 + 1e-9)
    assert facts["frontier"][0][1] >= facts["chosen"][1] >= facts["frontier"][-1][1]


def test_it_lies_between_few_bits_everywhere_and_many() -> None:
    on = data()
    x = on.example(64)
    float_answers = small()(*x)[0]
    apart = []
    for quantize in (Quantize(bits=2, weight_range="mse"), Quantize(bits=(2, 8), bytes=0.4, weight_range="mse"), Quantize()):
        network = small()
        quantize.attach(network, context(network, on=on)).finish()
        apart.append(float((network(*x)[0] - float_answers).square().mean()))
    assert apart[2] < apart[1] < apart[0]


def test_with_masks_and_gptq() -> None:
    network, on = small(), data()
    Prune(sparsity=0.5).attach(network, context(network, on=on)).finish()
    Quantize(bits=(4, 8), bytes=0.6, rounding="gptq").attach(network, context(network, on=on)).finish()
    value = edit.value_of(network, "fc1.weight")
    assert (value[network.get("fc1.weight_mask") == 0] == 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": (4, 8)}, "several go with bytes"),
        ({"bits": 8, "bytes": 0.5}, "one without"),
        ({"bits": (4, 9), "bytes": 0.5}, "2 to 8"),
        ({"bits": (), "bytes": 0.5}, "2 to 8"),
        ({"bits": (4, 8), "bytes": 1.5}, r"in \(0, 1\]"),
    ],
)
def test_settings_are_checked(given, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Quantize(**given)


def test_a_recipe_may_say_it() -> None:
    recipe = parse('[[techniques]]\ntechnique = "quantize.int8"\nbits = [8, 4]\nbytes = 0.6\n')
    assert recipe.phases[0].techniques[0] == Quantize(bits=(4, 8), bytes=0.6)
    assert parse(dump(recipe)).phases == recipe.phases
