from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.compress.layerwise import walk
from karui.compress.prune.allocation import Layer
from karui.compress.prune.layerwise import LEVELS, PruneLayerwise, cheapest, chosen_damping
from karui.compress.prune.weights import Prune
from karui.data import ArrayPart, Data
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from tests.compress.tiny import context, data, small

WEIGHTS = ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight")
SAME = {"allocation": "uniform", "pattern": "1x4", "exclude": ("deep",)}


def farness(network: Network, untouched: Network) -> float:
    """The mean squared change of the outputs, as a share of their variance."""
    batch = next(data().test.batches(64))
    with torch.no_grad():
        ours, theirs = network(*batch.inputs)[0], untouched(*batch.inputs)[0]
    return float((ours - theirs).square().mean() / theirs.var())


def pruned(**settings) -> Network:
    network = small()
    PruneLayerwise(**settings).attach(network, context(network)).finish()
    return network


def grouped() -> tuple[Network, Data]:
    """Two groups, a bias behind, a linear layer on every place: what the small network lacks."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = nn.Conv2d(8, 8, 3, padding=1, groups=2)
            self.last = nn.Linear(8, 6)

        def forward(self, x):
            return self.last(F.relu(self.pair(x)).permute(0, 2, 3, 1))

    torch.manual_seed(0)
    network = capture(Net().eval(), torch.randn(2, 8, 6, 6))
    x = torch.randn(48, 8, 6, 6).cumsum(1) / 2
    y = torch.zeros(48, dtype=torch.int64)
    return network, Data.of(train=(x, y), validation=(x, y), test=(x, y), calibration=(x, y))


def test_reconstruction_beats_plain_magnitude_with_the_same_sparsities() -> None:
    plain = small()
    Prune(sparsity=0.5, schedule="one_shot", **SAME).attach(plain, context(plain)).finish()
    ours = pruned(sparsity=0.5, damping=0.03, **SAME)
    for name in WEIGHTS:
        assert abs(int(ours.get(f"{name}_mask").sum()) - int(plain.get(f"{name}_mask").sum())) <= 4  # a block
    assert farness(ours, small()) < 0.3 * farness(plain, small())


@pytest.mark.parametrize(
    ("settings", "worse"),
    [
        ({}, {"importance": "magnitude"}),
        ({}, {"asymmetric": False}),
        ({}, {"rounds": 0}),
        ({"allocation": "global"}, {"allocation": "uniform"}),
    ],
)
def test_each_part_helps(settings, worse) -> None:
    base = {"sparsity": 0.7, "allocation": "uniform", "damping": 0.03}
    assert farness(pruned(**base | settings), small()) < farness(pruned(**base | worse), small())


def test_what_is_left_of_the_last_layer_is_the_best_there_is() -> None:
    """No gradient is left on the weights that stay: the outputs can't come nearer to those of the untouched network."""
    network = pruned(sparsity=0.5, damping=1e-9, include="fc2")
    (batch,) = data().calibration.batches(64)
    kept = network.get("fc2.weight_mask").bool()
    now, then = network(*batch.inputs)[0], small()(*batch.inputs)[0].detach()
    (gradient,) = torch.autograd.grad((now - then).square().mean(), [network.get("fc2.weight")])
    assert gradient[kept].abs().max() < 1e-4
    assert (network.get("fc2.weight")[~kept] == 0).all()
    assert (now - then).mean(0).abs().max() < 1e-4  # the bias took what the mean lost


@pytest.mark.parametrize(
    ("pattern", "sparsity", "wanted"), [("element", 0.3, 0.3), ("1x4", 0.6, 0.6), ("4x1", 0.5, 0.5), ("8x4", 0.5, 0.5), ("2:4", None, 0.5)]
)
def test_masks_keep_to_their_pattern(pattern, sparsity, wanted) -> None:
    network = small()
    facts = PruneLayerwise(pattern=pattern, sparsity=sparsity).attach(network, context(network)).finish()
    assert facts["sparsity"] == pytest.approx(wanted, abs=0.03)
    mask = network.get("fc1.weight_mask")  # [12, 8 channels · 16 places]: the Program's columns run along the channels
    matrix = mask.reshape(12, 8, 16).transpose(1, 2).reshape(12, 128)
    if pattern == "2:4":
        assert (matrix.reshape(12, -1, 4).sum(2) == 2).all()
    elif "x" in pattern:
        rows, columns = map(int, pattern.split("x"))
        blocks = F.pad(matrix, (0, 0, 0, -12 % rows)).reshape(-1, rows, 128 // columns, columns).transpose(1, 2).flatten(2)
        full = blocks.sum(2).flatten().tolist()
        assert set(full) <= {0.0, float(rows * columns), float(columns * (12 % rows or rows))}
    for name in facts["layers"]:
        assert torch.equal(edit.value_of(network, name) == 0, network.get(f"{name}_mask") == 0)


def test_what_is_left_whole_is_told() -> None:
    network, told = small(), []
    attached = PruneLayerwise(pattern="2:4").attach(network, replace(context(network), report=told.append))
    assert any("'deep.weight'" in line and "depthwise" in line for line in told)
    assert any("'conv1.weight'" in line and "multiple of 4" in line for line in told)
    assert attached.finish()["whole"].keys() == {"deep.weight", "conv1.weight"}
    assert torch.equal(network.get("deep.weight"), small().get("deep.weight"))
    assert "deep.weight" in PruneLayerwise(depthwise=True).attach(small(), context(network)).finish()["layers"]
    with pytest.raises(RecipeError, match="no chosen layer .* deep.weight: a depthwise"):
        PruneLayerwise(include="deep").attach(small(), context(network))


def test_groups_and_places() -> None:
    network, on = grouped()
    untouched = network.copy()
    PruneLayerwise(sparsity=0.5, pattern="1x4", allocation="uniform").attach(network, context(network, on=on))
    batch = next(on.test.batches(48))
    with torch.no_grad():
        ours, theirs = network(*batch.inputs)[0], untouched(*batch.inputs)[0]
    assert int((network.get("pair.weight_mask") == 0).sum()) == 8 * 4 * 9 / 2
    assert float((ours - theirs).square().mean() / theirs.var()) < 0.2
    torch.testing.assert_close(ours.mean((0, 1, 2)), theirs.mean((0, 1, 2)), atol=1e-4, rtol=1e-4)


def test_earlier_masks_count_and_stay() -> None:
    network = small()
    Prune(sparsity=0.4, schedule="one_shot", exclude="deep").attach(network, context(network)).finish()
    before = {name: network.get(f"{name}_mask").clone() for name in WEIGHTS}
    facts = PruneLayerwise(sparsity=0.7).attach(network, context(network)).finish()
    assert facts["sparsity"] == pytest.approx(0.7, abs=0.02)
    assert all((network.get(f"{name}_mask") <= mask).all() for name, mask in before.items())


def test_an_importance_of_the_users_own() -> None:
    odd = pruned(sparsity=0.5, importance=lambda seen: -seen.weight.abs(), allocation="uniform")
    weight, mask = small().get("fc1.weight").detach().abs(), odd.get("fc1.weight_mask")
    assert weight[mask == 0].mean() > weight[mask == 1].mean()


def test_no_sample_is_left_out_of_the_choice_of_damping() -> None:
    """Few samples ask for more damping than many: inputs that happen to go together must not stand for each other."""
    torch.manual_seed(0)
    network = capture(nn.Linear(32, 24).eval(), torch.randn(2, 32))
    mix = torch.randn(32, 32)

    def chosen(samples: int) -> float:
        part = ArrayPart((torch.randn(samples, 32) @ mix,), torch.zeros(samples, dtype=torch.int64), name="mixed")
        (site,) = walk(network, part.batches(samples // 10))
        return chosen_damping(site, 0.5, torch.arange(32), 4, centred=True)

    assert chosen(40) > chosen(4000)


def test_too_little_damping_is_told() -> None:
    with pytest.raises(RecipeError, match=r"damping: 1e-15 is too little for 'fc1.weight' with 64 input vectors"):
        pruned(damping=1e-15, allocation="uniform", include="fc1")


def test_the_cheapest_sparsities() -> None:
    def layer(weights: int, loss) -> Layer:
        return Layer(name="", shape=(weights,), scores=torch.zeros(weights), loss=loss)

    found = cheapest([layer(100, lambda s: s), layer(100, lambda s: 100 * s), layer(200, lambda s: 2 * s * s)], 0.5)
    # slopes per weight: 0.01 throughout, 1 throughout, 0.02 · s: the third goes to where it costs as much as the first, which does the rest
    assert found[1] == 0
    assert 100 * found[0] + 200 * found[2] == pytest.approx(200)
    assert found[2] == pytest.approx(0.5, abs=float(LEVELS[1]))
    bumpy = cheapest([layer(100, lambda s: 1 - (1 - s) ** 2), layer(100, lambda s: 1.5 * s)], 0.5)
    assert bumpy[0] > 0.9 and bumpy[1] < 0.1  # a curve that flattens is gone down to its end


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": float("nan")}, "sparsity"),
        ({"pattern": "2:4", "sparsity": 0.7}, "pattern 2:4 gives 0.5"),
        ({"pattern": "x"}, "pattern"),
        ({"damping": 0.0}, "damping"),
        ({"samples": 0}, "samples"),
        ({"rounds": -1}, "rounds"),
        ({"importance": "obd"}, "importance"),
        ({"allocation": "some"}, "allocation"),
        ({"include": [1]}, "include"),
    ],
)
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(RecipeError, match=message):
        PruneLayerwise(**settings)
