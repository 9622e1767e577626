import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from karui.analyse.cost import weight_cost
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.compress.quantize.palette import Palette, kmeans, nearest, started
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program import codec
from karui.program.interpreter import run
from karui.program.program import CodebookValues
from karui.search.scores import outputs_of
from tests.compress.tiny import context, data, small, train

WEIGHTS = ("conv1.weight", "deep.weight", "conv2.weight", "fc1.weight", "fc2.weight")


def test_each_weight_is_the_nearest_centroid() -> None:
    network = small()
    latent = {name: network.get(name).detach().clone() for name in WEIGHTS}
    facts = Palette(bits=3).attach(network, context(network)).finish()
    for name in WEIGHTS:
        value, codebook = edit.value_of(network, name), network.get(f"{name}_codebook").detach()
        distances = (latent[name][..., None] - codebook).abs()
        torch.testing.assert_close((value - latent[name]).abs(), distances.amin(-1), atol=1e-6, rtol=0)
        assert len(value.unique()) == facts["entries"][name] <= 8
        assert (codebook[1:] > codebook[:-1]).all()


@pytest.mark.parametrize("initialization", ["linear", "density", "random"])
def test_centroids_are_the_means_of_their_weights(initialization) -> None:
    network = small()
    latent = network.get("fc1.weight").detach().clone()
    Palette(bits=4, initialization=initialization).attach(network, context(network)).finish()
    index, codebook = network.get("fc1.weight_index").long(), network.get("fc1.weight_codebook").detach()
    for entry in index.unique():
        assert latent[index == entry].mean() == pytest.approx(float(codebook[entry]), abs=1e-6)


@pytest.mark.parametrize("gradient", ["sum", "mean"])
def test_the_gradient_of_a_centroid_is_made_of_its_weights_gradients(gradient) -> None:
    torch.manual_seed(0)
    network = capture(nn.Linear(6, 4), torch.randn(2, 6))
    Prune(sparsity=0.25).attach(network, context(network)).finish()
    attached = Palette(bits=2, gradient=gradient).attach(network, context(network, steps=1))
    index, codebook = network.get("weight_index").long(), network.get("weight_codebook")
    x, y = torch.randn(8, 6), torch.randn(8, 4)
    (network(x)[0] * y).sum().backward()
    attached.after_backward(0.0)
    dense, kept = y.T @ x, network.get("weight_mask") != 0
    chosen = [dense[(index == entry) & kept] for entry in range(len(codebook))]
    expected = torch.stack([each.sum() if gradient == "sum" else each.mean() for each in chosen])
    torch.testing.assert_close(codebook.grad, expected)
    assert network.get("weight").grad is None or not network.get("weight").grad.any()


def test_training_moves_centroids_and_nothing_beneath() -> None:
    network, on = small(), data()
    attached = Palette(bits=3).attach(network, context(network, steps=20, on=on))
    index, codebook = network.get("fc1.weight_index").clone(), network.get("fc1.weight_codebook").detach().clone()
    train(network, attached, on, steps=20)
    attached.finish()
    assert torch.equal(network.get("fc1.weight_index"), index)
    assert not torch.equal(network.get("fc1.weight_codebook"), codebook)
    assert len(edit.value_of(network, "fc1.weight").unique()) <= 8


def test_pruned_weights_stay_zero_and_are_in_no_cluster() -> None:
    network, on = small(), data()
    Prune(sparsity=0.7).attach(network, context(network)).finish()
    attached = Palette(bits=2).attach(network, context(network, steps=5, on=on))
    assert (network.get("fc1.weight_codebook").abs() > 1e-3).all()  # no centroid is spent on zero
    train(network, attached, on, steps=5)
    value, mask = edit.value_of(network, "fc1.weight"), network.get("fc1.weight_mask")
    assert torch.equal(value == 0, mask == 0)


@pytest.mark.parametrize("sparsity", [None, 0.6])
def test_the_program_and_its_file_hold_codebooks(sparsity: float | None) -> None:
    network, on = small().eval(), data()
    if sparsity:
        Prune(sparsity=sparsity).attach(network, context(network)).finish()
    Palette(bits=4).attach(network, context(network)).finish()
    program = codec.decode(codec.encode(lower(network)))
    assert sum(isinstance(weight.values, CodebookValues) for weight in program.weights.values()) == 5
    x = next(iter(on.calibration.batches(16))).inputs[0]
    out = outputs_of(program, run(program, [np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())]))[0]
    want = network(x)[0].detach()
    assert (out - want).abs().max() <= 1e-4 * want.abs().max()
    cost = weight_cost(network, "fc1.weight")
    assert cost.nbytes == -(-cost.stored * 4 // 8) + 4 * 16


def test_channels_can_be_pruned_afterwards() -> None:
    network = small().eval()
    Palette(bits=3, include=("fc1", "conv2")).attach(network, context(network)).finish()
    codebook = network.get("fc1.weight_codebook").detach().clone()
    PruneChannels(pruning_ratio=0.5).attach(network, context(network)).finish()
    assert network.get("fc1.weight_index").shape == network.get("fc1.weight").shape
    assert torch.equal(network.get("fc1.weight_codebook"), codebook)  # as many entries as conv2 has channels


def test_a_layer_of_few_numbers_has_a_short_codebook() -> None:
    network = small()
    with torch.no_grad():
        network.get("fc1.weight").copy_(network.get("fc1.weight").sign())
        network.get("fc2.weight").fill_(0.25)
    facts = Palette(bits=8, include=("fc1", "fc2")).attach(network, context(network)).finish()
    assert facts["entries"] == {"fc1.weight": 2, "fc2.weight": 1}
    assert torch.equal(edit.value_of(network, "fc1.weight"), network.get("fc1.weight").detach())


@given(numbers=st.lists(st.floats(-100, 100), min_size=1, max_size=60), count=st.sampled_from([1, 2, 4, 16]), how=st.integers(0, 2))
def test_clusters_on_a_line(numbers: list[float], count: int, how: int) -> None:
    line = np.array(numbers)
    start = started(line, count, ("linear", "density", "random")[how], np.random.default_rng(0))
    found = kmeans(line, start)
    assert (np.diff(found) >= 0).all()
    of = nearest(line, found)
    assert (np.abs(line - found[of]) <= np.abs(line[:, None] - found).min(1) + 1e-9).all()
    assert np.square(line - found[of]).sum() <= np.square(line - start[nearest(line, start)]).sum() + 1e-9


def test_numbers_of_all_sizes() -> None:
    line = np.array([0.0, 1e-298, -1e-298, 1e-30, 0.125, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9, 9.5, 10, 1e6])
    found = kmeans(line, started(line, 16, "density", np.random.default_rng(0)))
    assert (np.diff(found) >= 0).all()
    assert np.abs(line - found[nearest(line, found)]).max() < 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits: expected those of an index, 1 to 8"),
        ({"bits": 9}, "bits"),
        ({"initialization": "even"}, "initialization"),
        ({"gradient": "all"}, "gradient: expected one of mean, sum"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Palette(**settings)  # type: ignore[arg-type]


def test_what_cant_be_shared() -> None:
    network = small()
    Palette(include=("fc1",)).attach(network, context(network)).finish()
    with pytest.raises(RecipeError, match=r"'fc1\.weight' has a number format already; exclude it"):
        Palette().attach(network, context(network))
    with torch.no_grad():
        network.get("fc2.weight")[0, 0] = float("nan")
    with pytest.raises(RecipeError, match=r"'fc2\.weight' has weights that are not finite"):
        Palette(include=("fc2",)).attach(network, context(network))
