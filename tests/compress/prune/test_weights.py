import time

import pytest
import torch

from karui.compress.prune.weights import Prune, largest
from karui.errors import RecipeError
from karui.graph import edit
from tests.compress.tiny import context, data, small, train

WEIGHTS = ("conv1.weight", "deep.weight", "conv2.weight", "fc1.weight", "fc2.weight")


def zeros(network, name):
    return int((network.get(f"{name}_mask") == 0).sum())


def test_after_training_the_smallest_weights_of_all_layers_go() -> None:
    network = small()
    before = torch.cat([network.get(n).detach().abs().flatten() for n in WEIGHTS])
    facts = Prune(sparsity=0.75).attach(network, context(network)).finish()
    kept = torch.cat([network.get(f"{n}_mask").flatten() for n in WEIGHTS])
    assert int((kept == 0).sum()) == round(0.75 * len(before))
    assert before[kept == 0].max() <= before[kept == 1].min()
    assert facts["sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert facts["layers"].keys() == set(WEIGHTS)
    assert all((edit.value_of(network, n) == 0).sum() == zeros(network, n) for n in WEIGHTS)


def test_scope_layer_gives_each_the_same_sparsity() -> None:
    network = small()
    facts = Prune(sparsity=0.5, scope="layer").attach(network, context(network)).finish()
    assert all(value == pytest.approx(0.5, abs=0.05) for value in facts["layers"].values())


def test_every_layer_keeps_a_weight() -> None:
    network = small()
    with torch.no_grad():
        network.get("deep.weight").mul_(1e-6)
    Prune(sparsity=0.95).attach(network, context(network))
    assert zeros(network, "deep.weight") == network.get("deep.weight").numel() - 1


def test_patterns_choose_layers() -> None:
    network = small()
    facts = Prune(sparsity=0.5, include="fc*", exclude=["fc2"]).attach(network, context(network)).finish()
    assert list(facts["layers"]) == ["fc1.weight"]
    assert edit.forms_on(network, "fc2.weight") == []
    with pytest.raises(RecipeError, match=r"leave no layer.*conv1\.weight"):
        Prune(include=("nothing",)).attach(small(), context(network))


@pytest.mark.parametrize("schedule", ["one_shot", "cubic", "iterative", lambda progress, final: final * progress])
def test_training_reaches_the_sparsity_and_pruned_weights_stay(schedule) -> None:
    network, on = small(), data()
    attached = Prune(sparsity=0.8, schedule=schedule).attach(network, context(network, steps=40, on=on))
    seen = []
    original = attached.step

    def step(progress: float) -> bool:
        changed = original(progress)
        seen.append(torch.cat([network.get(f"{n}_mask").flatten() for n in WEIGHTS]).clone())
        return changed

    attached.step = step
    train(network, attached, on, steps=40)
    facts = attached.finish()
    assert facts["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert all((later <= earlier).all() for earlier, later in zip(seen, seen[1:]))  # nothing comes back
    counts = [int(mask.sum()) for mask in seen]
    if schedule != "one_shot":
        assert counts[0] > counts[-1]


def test_masked_weights_are_not_trained() -> None:
    network, on = small(), data()
    attached = Prune(sparsity=0.5, schedule="one_shot").attach(network, context(network, steps=5, on=on))
    before = network.get("fc1.weight").detach().clone()
    train(network, attached, on, steps=5)
    masked = network.get("fc1.weight_mask") == 0
    assert torch.equal(network.get("fc1.weight")[masked], before[masked])
    assert not torch.equal(network.get("fc1.weight")[~masked], before[~masked])


def test_a_second_phase_goes_on_with_the_same_mask() -> None:
    network = small()
    Prune(sparsity=0.5).attach(network, context(network)).finish()
    first = network.get("fc1.weight_mask").clone()
    facts = Prune(sparsity=0.8).attach(network, context(network)).finish()
    assert len(edit.forms_on(network, "fc1.weight")) == 1
    assert facts["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert (network.get("fc1.weight_mask") <= first).all()
    weaker = Prune(sparsity=0.3).attach(network, context(network)).finish()
    assert weaker["sparsity"] == facts["sparsity"]


@pytest.mark.parametrize("stop", [3, 17, 31])
@pytest.mark.parametrize("schedule", ["cubic", "iterative"])
def test_a_resumed_run_is_bit_equal(stop: int, schedule: str) -> None:
    on = data()
    technique = Prune(sparsity=0.8, schedule=schedule)
    whole, cut = small(), small()
    attached = technique.attach(whole, context(whole, steps=40, on=on))
    train(whole, attached, on, steps=40)
    attached.finish()

    train(cut, technique.attach(cut, context(cut, steps=40, on=on)), on, steps=40, stop=stop)

    resumed = small()
    second = technique.attach(resumed, context(resumed, steps=40, on=on))
    resumed.load_state(cut.state())
    train(resumed, second, on, steps=40, start=stop)
    second.finish()
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_equal_scores_are_counted_exactly() -> None:
    scores = torch.tensor([1.0, 0.0, 1.0, 1.0, 2.0, 1.0])
    for drop in range(7):
        assert int((~largest(scores, drop)).sum()) == drop
    assert largest(scores, 3).tolist() == [False, False, False, True, True, True]


def test_a_large_global_cut_is_fast() -> None:
    scores = torch.rand(25_000_000)
    start = time.process_time()
    keep = largest(scores, 22_500_000)
    assert time.process_time() - start < 1
    assert int(torch.count_nonzero(keep)) == 2_500_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"scope": "net"}, "scope"),
        ({"rounds": 0}, "rounds"),
        ({"schedule": "soon"}, "schedule"),
        ({"importance": "x"}, "importance"),
        ({"include": [1]}, "include"),
    ],
)
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(RecipeError, match=message):
        Prune(**settings)


def test_an_importance_of_the_users_own() -> None:
    network = small()
    Prune(sparsity=0.5, importance=lambda w: -w.abs()).attach(network, context(network))
    w, mask = network.get("fc1.weight").detach().abs(), network.get("fc1.weight_mask")
    assert w[mask == 0].mean() > w[mask == 1].mean()
    with pytest.raises(RecipeError, match="importance: gave 1 scores"):
        Prune(importance=lambda w: w.sum().reshape(1)).attach(small(), context(network))
