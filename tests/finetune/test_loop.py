"""The loop: it learns, repeats itself, goes on bit-equal, stops early, and says what is wrong in one line."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Attached, Context, Technique
from karui.data import Metric, top1
from karui.errors import DataError, KaruiError, RecipeError, ToolError
from karui.finetune import loop
from karui.finetune.attach import attach_all
from karui.finetune.checkpoint import Checkpoints
from karui.finetune.evaluate import score, scores
from karui.finetune.history import History
from karui.finetune.loop import Training, finetune
from karui.finetune.progress import Progress
from tests.finetune import tiny

SHORT = Training(epochs=2, batch_size=20, lr=0.05)


def same(one: tiny.Network, other: tiny.Network) -> bool:
    a, b = one.state(), other.state()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer, lr", [("sgd", 0.1), ("adamw", 0.02)])
def test_it_learns(optimizer: str, lr: float) -> None:
    network, data = tiny.network(), tiny.data(noise=0.5)
    before = score(network, data.validation, data.metric)
    history = finetune(network, data, Training(epochs=8, batch_size=20, optimizer=optimizer, lr=lr))  # type: ignore[arg-type]
    after = score(network, data.validation, data.metric)
    assert before < 70 < 95 < after
    assert history.epochs[-1].score == after
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert [e.step for e in history.epochs] == [5 * n for n in range(1, 9)]
    assert (history.metric, history.unit, history.stopped) == ("accuracy", "%", False)
    assert History.of_json(history.to_json()) == history


def test_one_seed_one_result_and_the_caller_s_random_numbers_are_left_alone() -> None:
    networks = [tiny.network() for _ in range(3)]
    for network, seed, outside in zip(networks, (0, 0, 1), (5, 6, 7), strict=True):
        torch.manual_seed(outside)
        wanted = torch.rand(3)
        torch.manual_seed(outside)
        finetune(network, tiny.data(), SHORT, seed=seed)
        assert torch.equal(torch.rand(3), wanted)
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])


def test_the_phase_takes_part_in_the_seed() -> None:
    one, other = tiny.network(), tiny.network()
    finetune(one, tiny.data(), SHORT, phase=1)
    finetune(other, tiny.data(), SHORT, phase=2)
    assert not same(one, other)


@pytest.mark.parametrize("training, count", [(Training(), 0), (Training(epochs=2), 2), (Training(epochs=0.25, batch_size=10), 2)])
def test_how_many_steps(training: Training, count: int) -> None:
    assert training.count(tiny.data().train) == count
    assert training.trains == (count > 0)
    assert replace(training, steps=7).count(tiny.data().train) == 7
    assert replace(training, steps=0).count(tiny.data().train) == 0


def test_no_training_changes_nothing() -> None:
    network = tiny.network()
    history = finetune(network, tiny.data(), Training())
    assert same(network, tiny.network())
    assert history.epochs == ()


class Interrupted(Exception):
    pass


def interrupt(step: int) -> Callable[..., None]:
    real = loop._step

    def stop_at(*args: Any) -> None:
        if args[1].step == step:
            raise Interrupted
        real(*args)

    return stop_at


def attached(network: tiny.Network, *techniques: tiny.Technique) -> list[Attached]:
    return attach_all(network, techniques, tiny.data(), teacher=network.copy(), steps=10, seed=0)


HOOKS = {"plain": (), "loss": (tiny.Lean(),), "structure": (tiny.Cut(), tiny.Lean()), "own": (tiny.Lean(), tiny.Move())}
INTERRUPTIONS = [
    *itertools.product((1, 4, 5, 7, 9), ("plain", "loss"), ("sgd", "adamw")),
    (3, "structure", "sgd"),
    (8, "structure", "adamw"),
    (3, "own", "sgd"),
    (4, "own", "adamw"),
    (8, "own", "sgd"),
]


@pytest.mark.parametrize("step, hooks, optimizer", INTERRUPTIONS)
def test_a_resumed_loop_ends_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, hooks: str, optimizer: Any) -> None:
    techniques = HOOKS[hooks]
    training = replace(SHORT, optimizer=optimizer, clip=1.0, early_stop=5)
    whole = tiny.network()
    undisturbed = attached(whole, *techniques)
    history = finetune(whole, tiny.data(), training, undisturbed, seed=3)
    where = Checkpoints(tmp_path / "x.checkpoint", seconds=0.0)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "_step", interrupt(step))
        network = tiny.network()
        finetune(network, tiny.data(), training, attached(network, *techniques), seed=3, checkpoint=where)
    resumed = tiny.network()
    at_work = attached(resumed, *techniques)
    again = finetune(resumed, tiny.data(), training, at_work, seed=3, checkpoint=where)
    assert same(whole, resumed)
    assert again == history
    facts = [each.finish() for each in at_work]
    assert facts == [each.finish() for each in undisturbed]
    if hooks == "structure":
        assert facts == [{"units": 8}, {"moments": 4}]


def test_parameters_of_a_technique_s_own_learn_and_go_back_to_the_best_epoch() -> None:
    network, data = tiny.network(), tiny.data()
    (moving,) = attached(network, tiny.Move(at=0.0))
    scores, held = iter([0.9, 0.5]), []
    worse = Metric(name="ever worse", function=lambda outputs, targets: torch.full((len(targets),), next(scores)))

    class Spy(Progress):
        def advance(self, facts: str = "", steps: int = 1) -> None:
            if steps == 0:
                held.append(moving.parameters()["regressor"].detach().clone())

    history = finetune(network, replace(data, metric=worse), replace(SHORT, early_stop=1), [moving], progress=Spy())
    assert history.stopped and len(held) == 2 and not torch.equal(*held)
    assert torch.equal(moving.parameters()["regressor"], held[0])
    assert moving.finish()["learned"] > 0


def test_states_that_no_file_holds(tmp_path: Path) -> None:
    class Odd(Attached):
        def state(self) -> dict[str, Any]:
            return {"rule": len}

    with pytest.raises(RecipeError, match="'Odd' has a state that JSON hasn't"):
        finetune(tiny.network(), tiny.data(), SHORT, [Odd()], checkpoint=Checkpoints(tmp_path / "x.checkpoint", seconds=0.0))


def test_without_a_checkpoint_each_step_a_resumed_loop_goes_back_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny.network()
    finetune(whole, tiny.data(), SHORT)
    where = Checkpoints(tmp_path / "x.checkpoint", seconds=1e9)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "_step", interrupt(7))
        finetune(tiny.network(), tiny.data(), SHORT, checkpoint=where)
    assert where.load() is None
    resumed = tiny.network()
    finetune(resumed, tiny.data(), SHORT, checkpoint=where)
    assert same(whole, resumed)


def test_early_stopping_goes_back_to_the_best_epoch() -> None:
    network, data = tiny.network(), tiny.data()
    calls: list[int] = []
    real = [50.0, 90.0, 80.0, 70.0, 95.0]

    def told(outputs: Any, targets: Any) -> torch.Tensor:
        return torch.full((len(targets),), real[len(calls)] / 100)

    states = []

    class Spy(Progress):
        def advance(self, facts: str = "", steps: int = 1) -> None:
            if steps == 0:
                calls.append(1)
                states.append({name: tensor.clone() for name, tensor in network.state().items()})

    data = replace(data, metric=Metric(name="made up", function=told))
    history = finetune(network, data, Training(epochs=5, batch_size=20, early_stop=2), progress=Spy())
    assert history.stopped
    assert [round(e.score) for e in history.epochs] == [50, 90, 80, 70]
    assert all(torch.equal(tensor, network.state()[name]) for name, tensor in states[1].items())


def test_early_stopping_does_not_count_while_a_schedule_moves() -> None:
    network, data = tiny.network(), tiny.data()
    data = replace(data, metric=Metric(name="never better", function=lambda outputs, targets: torch.zeros(len(targets))))
    training = Training(epochs=20, batch_size=20, early_stop=2)
    history = finetune(network, data, training, attached(network, tiny.Cut(at=0.82)))
    assert network.get("fc1.weight").shape[0] == 8
    assert len(history.epochs) == 19  # the cut is in the seventeenth, the first that counts; two more are no better
    assert history.stopped


@pytest.mark.parametrize(
    "technique, moves", [(Prune(sparsity=0.9, schedule="iterative", rounds=20), 0.96), (Prune(sparsity=0.9), 0.76), (Quantize(), 0.9)]
)
def test_early_stopping_waits_for_the_end_of_a_schedule(technique: Technique, moves: float) -> None:
    network, data = tiny.network(), tiny.data()
    data = replace(data, metric=Metric(name="never better", function=lambda outputs, targets: torch.zeros(len(targets))))
    (hooks,) = attach_all(network, [technique], data, teacher=network.copy(), steps=250, seed=0)
    history = finetune(network, data, Training(epochs=50, batch_size=20, early_stop=1), [hooks])
    assert hooks.settles == moves
    assert len(history.epochs) == int(50 * moves) + 2  # the first that ends after the last move, and one that is no better
    held = network.copy().eval()
    facts = hooks.finish()
    if isinstance(technique, Prune):
        assert facts["sparsity"] == pytest.approx(0.9, abs=0.01)
        assert same(held, network)  # nothing was left to cut without training


@pytest.mark.parametrize("better, epochs", [(True, 3), (False, 6)])
def test_a_metric_that_falls(better: bool, epochs: int) -> None:
    data, count = tiny.data(), iter(range(100, 0, -1))
    metric = Metric(name="error", function=lambda o, t: torch.full((len(t),), float(next(count))), higher_is_better=better)
    history = finetune(tiny.network(), replace(data, metric=metric), Training(epochs=6, batch_size=20, early_stop=2))
    assert len(history.epochs) == epochs


def test_the_optimizer_follows_a_change_of_structure() -> None:
    network = tiny.network()
    finetune(network, tiny.data(), Training(epochs=4, batch_size=20, lr=0.1), attached(network, tiny.Cut(at=0.0)))
    fresh = tiny.network()
    hooks = attached(fresh, tiny.Cut(at=0.0))
    hooks[0].step(0.0)
    assert network.get("fc1.weight").shape == fresh.get("fc1.weight").shape
    assert not torch.equal(network.get("fc1.weight"), fresh.get("fc1.weight"))


@pytest.mark.parametrize("clip, cure", [(None, "set clip = 1.0"), (1.0, r"lower lr \(now")])
def test_a_loss_that_is_not_finite(clip: float | None, cure: str) -> None:
    data = replace(tiny.data(), loss=lambda outputs, targets: outputs[0].sum() * float("inf"))
    with pytest.raises(KaruiError, match=rf"the loss is -?(inf|nan) at step 0 of 10 \(phase 0, epoch 0\).*{cure}") as caught:
        finetune(tiny.network(), data, replace(SHORT, clip=clip))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_named() -> None:
    class Spoil(Attached):
        def loss(self, batch: Any, outputs: Any, task: torch.Tensor) -> torch.Tensor:
            return torch.where(torch.tensor(True), task, task / 0) + 0 * (outputs[0] - outputs[0].detach()).abs().sqrt().sum()

    with pytest.raises(KaruiError, match="is no longer finite|loss is nan"):
        finetune(tiny.network(), tiny.data(), replace(SHORT, epochs=1), [Spoil()])


def test_errors_of_the_user_s_data() -> None:
    network = tiny.network()
    odd = tiny.Data.of(
        train=(torch.zeros(8, 5), torch.zeros(8)), validation=(torch.zeros(8, 5), torch.zeros(8)), test=(torch.zeros(8, 5), torch.zeros(8))
    )
    with pytest.raises(DataError, match=r"samples have shape \[\[5\]\], network 'tiny' takes \[\[8\]\]"):
        finetune(network, odd, SHORT)
    with pytest.raises(DataError, match="its loss refuses outputs of shape"):
        finetune(network, replace(tiny.data(), loss=lambda o, t: o[0] - torch.zeros(3, 99)), SHORT)
    with pytest.raises(DataError, match=r"loss has shape \[20\]"):
        finetune(network, replace(tiny.data(), loss=lambda o, t: o[0].sum(1)), SHORT)
    with pytest.raises(DataError, match=r"metric 'mean' gave shape \[\] for 60 samples"):
        finetune(network, replace(tiny.data(), metric=Metric(name="mean", function=lambda o, t: top1(o, t).mean())), SHORT)


def test_a_loader_that_dries_up() -> None:
    class Less:
        def __init__(self) -> None:
            self.count = 6

        def __iter__(self) -> Any:
            self.count -= 1
            return iter([(torch.randn(4, tiny.WIDTH), torch.zeros(4, dtype=torch.long))] * self.count)

    data = tiny.data()
    less = tiny.Data.of(train=Less(), validation=data.validation, test=data.test, calibration=data.calibration)
    with pytest.raises(DataError, match="gave 4 batches, 5 when it was counted"):
        finetune(tiny.network(), less, SHORT)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"optimizer": "adam"}, "optimizer = 'adam' is unknown"),
        ({"schedule": "linear"}, "schedule = 'linear' is unknown"),
        ({"epochs": -1}, "epochs = -1"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"warmup": 1.0}, "warmup = 1.0"),
        ({"clip": 0.0}, "clip = 0.0"),
        ({"early_stop": 0}, "early_stop = 0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Training(**settings)


def test_mixed_precision_learns_and_leaves_float32_weights() -> None:
    network, data = tiny.network(), tiny.data(noise=0.5)
    finetune(network, data, Training(epochs=8, batch_size=20, lr=0.1, amp=True))
    assert score(network, data.validation, data.metric) > 95
    assert {tensor.dtype for tensor in network.parameters().values()} == {torch.float32}


def test_compiled_forward_is_used_and_its_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def eager(function: Any) -> Any:
        made.append(function)
        return function

    monkeypatch.setattr(torch, "compile", eager)
    one, other = tiny.network(), tiny.network()
    finetune(one, tiny.data(), SHORT)
    finetune(other, tiny.data(), replace(SHORT, compile=True), attached(other, tiny.Lean()))
    assert len(made) == 1

    def broken(*inputs: Any) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function: broken)
    with pytest.raises(ToolError, match=r"torch.compile failed \(no compiler\); install"):
        finetune(tiny.network(), tiny.data(), replace(SHORT, compile=True))


@pytest.mark.slow
def test_a_really_compiled_network_learns() -> None:
    network, data = tiny.network(), tiny.data(noise=0.5)
    finetune(network, data, Training(epochs=8, batch_size=20, lr=0.1, compile=True), attached(network, tiny.Cut()))
    assert score(network, data.validation, data.metric) > 95


def test_scores_keep_the_order_and_the_mode() -> None:
    network, data = tiny.network().train(), tiny.data()
    found = scores(network, data.test, data.metric, batch_size=7)
    assert found.shape == (60,)
    assert network.training
    assert found.tolist() == scores(network.eval(), data.test, data.metric, batch_size=60).tolist()
    assert not network.training


def test_progress_hears_every_step(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Ear(Progress):
        def start(self, total: int, label: str, done: int = 0) -> None:
            heard.append((total, label, done))

        def advance(self, facts: str = "", steps: int = 1) -> None:
            heard.append(steps)

        def finish(self) -> None:
            heard.append("over")

    finetune(tiny.network(), tiny.data(), SHORT, label="phase 1", progress=Ear())
    assert heard == [(10, "phase 1", 0), *[1] * 5, 0, *[1] * 5, 0, "over"]


def test_context_is_what_attach_all_gives() -> None:
    seen: list[Context] = []

    class Look(tiny.Lean):
        def attach(self, network: tiny.Network, context: Context) -> Attached:
            assert not network.training
            seen.append(context)
            return Attached()

    network = tiny.network()
    attached(network, Look(), Look())
    assert [context.steps for context in seen] == [10, 10]
    assert seen[0].seed != seen[1].seed
    assert seen[0].cost(network).params == sum(p.numel() for p in network.parameters().values())


def test_a_compiled_network_is_compiled_anew_for_each_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Han's dropout changes a number in the graph; a second phase puts a mask on it."""
    seen: list[str] = []
    original = torch.compile

    def eager(function: Any, **settings: Any) -> Any:
        seen.append("compiled")
        return original(function, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    network, compiled = tiny.network(), replace(SHORT, compile=True)
    finetune(network, tiny.data(), compiled, attached(network, tiny.Lean()))
    first = len(seen)
    prune = Prune(sparsity=0.5, schedule="one_shot", adjust_dropout=False)
    finetune(network, tiny.data(), compiled, attached(network, prune))
    assert (first, len(seen)) == (1, 2)
