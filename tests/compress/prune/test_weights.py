import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from karui import zoo
from karui.analyse.cost import measure
from karui.compress.prune.allocation import GRID
from karui.compress.prune.evidence import Evidence
from karui.compress.prune.weights import Prune
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program.check_weight import block_mask, spread_blocks
from karui.program.coding.weight import index_bytes
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


def test_uniform_gives_each_the_same_sparsity() -> None:
    network = small()
    facts = Prune(sparsity=0.5, allocation="uniform").attach(network, context(network)).finish()
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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """All the work in the thread that is timed: what other tests left waiting in this process is none of a cut's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_cut_of_25_million_weights_takes_less_time_than_sorting_them(one_thread: None) -> None:
    """The seconds themselves are the benchmark's (``benchmarks.prune --only 3``): here they measure the machine and its other work."""
    module = nn.Sequential(
        nn.Linear(2500, 2500), nn.Linear(2500, 2500), nn.Unflatten(1, (100, 5, 5)), nn.Conv2d(100, 1280, 3), nn.Conv2d(1280, 1080, 3)
    )
    network = capture(module, torch.randn(2, 2500)).eval()
    pruning = Prune(schedule=lambda progress, final: 0.0).attach(network, context(network, steps=10))
    weights = torch.cat([network.parameters()[f"{name}.weight"].detach().flatten() for name in ("0", "1", "3", "4")])
    assert 25e6 < sum(each.mask(network).numel() for each in pruning.masked) == len(weights)
    sorting = seconds(weights.sort)
    for sparsity in (0.8, 0.9):  # the second cut finds most of them gone
        assert seconds(partial(pruning.cut, sparsity)) < sorting
        assert zeros(network, "0.weight") > (sparsity - 0.3) * 2500 * 2500


def seconds(work: Callable[[], object]) -> float:
    """Of this thread."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity: expected the share of zeros in \[0, 1\), got 1\.0"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"sparsity": float("nan")}, "sparsity"),
        ({"macs": 0.0}, "macs: expected the share"),
        ({"macs": 0.5, "sparsity": 0.5}, "macs: the amount is set already, by sparsity"),
        ({"macs": 0.5, "pattern": "2:4"}, "macs: the amount is set already, by pattern"),
        ({"bytes": 1.5}, "bytes: expected the share of bytes to leave"),
        ({"bytes": 0.5, "macs": 0.5}, "macs: the amount is set already, by bytes"),
        ({"bytes": 0.5, "bits": 0}, "bits: expected those of a stored weight, 1 to 32, got 0"),
        ({"pattern": "2:4", "sparsity": 0.75}, r"sparsity: pattern 2:4 gives 0\.5, got 0\.75"),
        ({"pattern": "4"}, "'4' is no pattern: use 'element'"),
        ({"pattern": "2:4", "regrow": "gradient"}, "regrow: 'gradient' moves whole units"),
        ({"allocation": "net"}, "allocation: 'net' is not an allocation: use global, uniform"),
        ({"regrow": "often"}, "regrow: expected one of never, latent, gradient"),
        ({"rounds": 0}, "rounds"),
        ({"samples": 0}, "samples"),
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
    Prune(sparsity=0.5, importance=lambda seen: -seen.weight.abs()).attach(network, context(network))
    w, mask = network.get("fc1.weight").detach().abs(), network.get("fc1.weight_mask")
    assert w[mask == 0].mean() > w[mask == 1].mean()
    for rule, told in [
        (lambda seen: seen.weight.sum().reshape(1), r"gave shape \[1\] for the \[8, 1, 3, 3\] weights of 'conv1.weight'"),
        (lambda seen: 1.0, "gave a float"),
        (lambda seen: seen.weight / 0, "gave a score that is not finite for 'conv1.weight'"),
    ]:
        with pytest.raises(RecipeError, match=told):
            Prune(importance=rule).attach(small(), context(network))


def test_an_allocation_of_the_users_own() -> None:
    network = small()
    facts = (
        Prune(sparsity=0.5, allocation=lambda layers, s: [0.25 if "conv" in each.name else 1.0 for each in layers])
        .attach(network, context(network))
        .finish()
    )
    assert facts["layers"]["conv2.weight"] == 0.25
    assert zeros(network, "fc2.weight") == network.get("fc2.weight").numel() - 1


# ── patterns ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pattern", ["1x4", "4x1", "8x4"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_blocks_leave_as_one(pattern: str, allocation: str) -> None:
    network = small()
    facts = Prune(sparsity=0.5, pattern=pattern, allocation=allocation, include="fc*").attach(network, context(network)).finish()
    assert facts["sparsity"] == pytest.approx(0.5, abs=0.02)
    rows, columns = map(int, pattern.split("x"))
    (stored,) = (each for each in lower(network).weights.values() if each.name == "fc1.weight")
    mask = stored.support.mask.reshape(12, -1)
    blocks = block_mask(mask, rows, columns)
    assert (spread_blocks(blocks, rows, columns, mask.shape) == mask).all()
    assert 0 < blocks.sum() < blocks.size


def test_two_of_four_and_what_it_does_not_divide() -> None:
    network, told = small(), []
    facts = Prune(pattern="2:4").attach(network, replace(context(network), report=told.append)).finish()
    assert facts["sparsity"] == 0.5
    assert facts["layers"] == {"conv2.weight": 0.5, "fc1.weight": 0.5, "fc2.weight": 0.5}
    assert facts["whole"].keys() == {"conv1.weight", "deep.weight"}
    assert "'conv1.weight' is left whole: its 1 input channels are no multiple of 4" in told
    assert edit.forms_on(network, "conv1.weight") == []
    runs = network.get("fc2.weight_mask").reshape(-1, 4)
    weights = small().get("fc2.weight").detach().abs().reshape(-1, 4)
    assert (runs.sum(1) == 2).all()
    assert ((weights * runs).amax(1) == weights.amax(1)).all()
    with pytest.raises(RecipeError, match=r"pattern: 2:4 fits no chosen layer of 'small': conv1.weight: its 1 input channels"):
        Prune(pattern="2:4", include="conv1").attach(small(), context(network))


def test_a_pattern_after_elements_brings_nothing_back() -> None:
    for pattern in ("1x4", "2:4"):
        network = small()
        Prune(sparsity=0.4, include="fc1").attach(network, context(network)).finish()
        first = network.get("fc1.weight_mask").clone()
        facts = Prune(pattern=pattern, sparsity=None if ":" in pattern else 0.6, include="fc1").attach(network, context(network)).finish()
        assert (network.get("fc1.weight_mask") <= first).all()
        assert facts["sparsity"] >= (0.5 if ":" in pattern else 0.58)


def test_the_amount_by_macs() -> None:
    network = small()
    dense = {row.name: row.macs for row in measure(network).rows}
    facts = Prune(macs=0.4, allocation="uniform").attach(network, context(network)).finish()
    assert facts["macs"] == pytest.approx(0.4, abs=0.02)
    left = sum(dense[name.removesuffix(".weight")] * (1 - sparsity) for name, sparsity in facts["layers"].items())
    assert left / sum(dense[name.removesuffix(".weight")] for name in facts["layers"]) == pytest.approx(facts["macs"])


@pytest.mark.parametrize("pattern", ["element", "4x4"])
def test_the_amount_by_bytes_is_what_the_file_has(pattern: str) -> None:
    network = zoo.load("lenet5")
    facts = Prune(bytes=0.2, pattern=pattern).attach(network, context(network)).finish()
    assert facts["bytes"] == pytest.approx(0.2, abs=2e-3)
    weights = [each for each in lower(network).weights.values() if len(each.shape) > 1]
    stored, whole = sum(each.stored + index_bytes(each.support) for each in weights), sum(each.mask.size for each in weights)
    assert whole == sum(network.get(name).numel() for name in facts["layers"])
    assert stored / whole == pytest.approx(0.2, abs=0.01)


def test_more_bytes_than_the_layers_can_give_are_told() -> None:
    network, told = small(), []
    facts = Prune(bytes=0.001, bits=2).attach(network, replace(context(network), report=told.append)).finish()
    assert facts["bytes"] > 0.001
    assert any("is the least that these layers can have, 0.001 was asked for" in each for each in told) == (facts["bytes"] > 0.011)


def test_layers_that_would_vanish_are_told() -> None:
    network, told = small(), []
    Prune(sparsity=0.99, allocation="uniform").attach(network, replace(context(network), report=told.append)).finish()
    assert any("'fc2.weight' would be pruned to nothing: its best element stays" in each for each in told)
    assert zeros(network, "fc2.weight") == network.get("fc2.weight").numel() - 1


def test_movement_needs_training() -> None:
    network = small()
    for settings, steps in [({}, 0), ({"schedule": "one_shot"}, 10)]:
        with pytest.raises(RecipeError, match="importance: 'movement' is known after some training only"):
            Prune(importance="movement", **settings).attach(small(), context(network, steps=steps))


def test_movement_is_summed_over_the_steps() -> None:
    network, on = small(), data()
    moving = Prune(sparsity=0.5, importance="movement", schedule=lambda p, s: 0.0).attach(network, context(network, steps=10, on=on))
    expected = torch.zeros(12, 128)
    optimizer = torch.optim.SGD(network.parameters().values(), lr=0.1)
    for step, batch in enumerate(on.train.batches(16, seed=0)):
        moving.step(step / 10)
        optimizer.zero_grad()
        on.loss(network(*batch.inputs), batch.targets).backward()
        moving.after_backward(step / 10)
        expected -= network.get("fc1.weight").detach() * network.get("fc1.weight").grad
        optimizer.step()
    torch.testing.assert_close(moving.moved["fc1.weight"], expected)
    moving.finish()
    kept = network.get("fc1.weight_mask") != 0
    assert expected[kept].mean() > expected[~kept].mean()


def test_sensitivity_measures_each_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    measured = Evidence.loss
    monkeypatch.setattr(Evidence, "loss", lambda self, values: calls.append(tuple(values)) or measured(self, values))
    network = small()
    pruning = Prune(sparsity=0.6, allocation="sensitivity", schedule="cubic").attach(network, context(network, steps=20))
    for step in range(20):
        pruning.step(step / 20)
    assert pruning.finish()["sparsity"] == pytest.approx(0.6, abs=0.02)
    assert len(calls) == 1 + len(WEIGHTS) * (len(GRID) - 1)
    assert calls.count(()) == 1
