"""Lists become phases, phases run in time, and a directory belongs to one run."""

import errno
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from karui.compress.prune.weights import Prune
from karui.compress.technique import Attached, Context
from karui.data import cross_entropy
from karui.errors import DataError, RecipeError, RunError
from karui.finetune import loop
from karui.finetune.loop import Training
from karui.finetune.phases import Phase, describe, name_of, phases_of, run_phases
from karui.finetune.progress import Progress
from tests.finetune import tiny

SHORT = Training(steps=3, batch_size=20, lr=0.05)
ALL = (tiny.Cut(), tiny.Round(bits=3), tiny.Round(bits=5), tiny.Lean())


def test_any_written_order_gives_the_same_phases() -> None:
    found = {phases_of(order, SHORT) for order in itertools.permutations(ALL)}
    assert found == {
        (
            Phase(techniques=(tiny.Cut(), tiny.Lean()), training=SHORT),
            Phase(techniques=(tiny.Round(bits=3), tiny.Round(bits=5), tiny.Lean()), training=SHORT),
        )
    }


def test_any_order_within_a_phase_is_one_order() -> None:
    phase = Phase(techniques=(tiny.Lean(), tiny.Round(), tiny.Cut()))
    assert [type(t) for t in phase.techniques] == [tiny.Cut, tiny.Round, tiny.Lean]


def test_losses_join_phases_that_train() -> None:
    assert phases_of([tiny.Lean()], SHORT) == (Phase(techniques=(tiny.Lean(),), training=SHORT),)
    assert phases_of([tiny.Round()]) == (Phase(techniques=(tiny.Round(),)),)
    assert phases_of([], SHORT) == (Phase(training=SHORT),)
    assert phases_of([]) == ()
    with pytest.raises(RecipeError, match=r"'tests.finetune.tiny:Lean' is a loss and needs training"):
        phases_of([tiny.Lean(), tiny.Round()])


def test_what_is_no_technique() -> None:
    with pytest.raises(RecipeError, match="'Cut' is not a technique; give an instance"):
        phases_of([tiny.Cut])  # type: ignore[list-item]


def test_what_is_no_training() -> None:
    with pytest.raises(RecipeError, match="training is None; leave it out for none"):
        Phase(techniques=(tiny.Round(),), training=None)  # type: ignore[arg-type]


def test_names_and_descriptions() -> None:
    def rule(weight: torch.Tensor) -> torch.Tensor:
        return weight

    assert name_of(tiny.Cut()) == "tests.finetune.tiny:Cut"
    told = describe({"a": (1, None, 0.5), "b": rule, "c": torch.ones(2), "d": tiny.Cut(), "e": {3, 1}, "f": object()})
    assert told["a"] == [1, None, 0.5]
    assert ":test_names_and_descriptions.<locals>.rule " in told["b"]
    assert told["c"] == describe(torch.ones(2)) != describe(torch.zeros(2))
    assert told["d"] == {"technique": "tests.finetune.tiny:Cut", "at": 0.5}
    assert told["e"] == [1, 3]
    assert told["f"] == "object"
    assert json.loads(json.dumps(told)) == told


def test_each_phase_sees_the_network_as_the_one_before_left_it() -> None:
    seen: list[tuple[int, int, int]] = []

    @dataclass(frozen=True, kw_only=True)
    class Look(tiny.Lean):
        def attach(self, network: tiny.Network, context: Context) -> Attached:
            width, of_teacher = (each.get("fc1.weight").shape[0] for each in (network, context.teacher))
            seen.append((width, of_teacher, context.steps))
            return Attached()

    network = tiny.network()
    before = network.fingerprint()
    phases = [Phase(techniques=(tiny.Cut(at=0.0), Look()), training=SHORT), Phase(techniques=(Look(),)), Phase(training=SHORT)]
    result = run_phases(network, tiny.data(), phases)
    assert seen == [(16, 16, 3), (8, 16, 0)]
    assert network.fingerprint() == before
    assert not result.network.training
    assert result.phases[0].facts[0] == {"units": 8}
    assert [len(phase.history.epochs) for phase in result.phases] == [1, 0, 1]


def test_with_a_directory_or_without_it_is_the_same(tmp_path: Path) -> None:
    phases = phases_of(ALL, SHORT)
    one = run_phases(tiny.network(), tiny.data(), phases, seed=1)
    other = run_phases(tiny.network(), tiny.data(), phases, seed=1, directory=tmp_path / "phases")
    assert one.network.fingerprint() == other.network.fingerprint()
    assert one.phases == other.phases
    assert run_phases(tiny.network(), tiny.data(), phases, seed=2).network.fingerprint() != one.network.fingerprint()


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    phases = phases_of(ALL, SHORT)
    first = run_phases(tiny.network(), tiny.data(), phases, directory=tmp_path)

    class Deaf(Progress):
        def start(self, total: int, label: str, done: int = 0) -> None:
            raise AssertionError("it trains again")

    again = run_phases(tiny.network(), tiny.data(), phases, directory=tmp_path, progress=Deaf())
    assert first.network.fingerprint() == again.network.fingerprint()
    assert first.phases == again.phases


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"data": tiny.data(noise=2.0)}, r"data\.fingerprint"),
        ({"network": tiny.network(1)}, "network"),
        ({"phases": [Phase(training=replace(SHORT, lr=0.1))]}, r"phases"),
    ],
)
def test_another_run_s_directory_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    settings: dict[str, Any] = {"network": tiny.network(), "data": tiny.data(), "phases": [Phase(training=SHORT)], "seed": 0}
    run_phases(**settings, directory=tmp_path)
    with pytest.raises(RunError, match=rf"other settings \({said}"):
        run_phases(**settings | change, directory=tmp_path)


def test_another_loss_is_refused_and_the_same_one_is_not(tmp_path: Path) -> None:
    def weighted(weight: float) -> Any:
        return replace(tiny.data(), loss=lambda outputs, targets: weight * cross_entropy(outputs, targets))

    settings: dict[str, Any] = {"network": tiny.network(), "phases": [Phase(training=SHORT)], "directory": tmp_path}
    first = run_phases(data=weighted(0.5), **settings)
    assert run_phases(data=weighted(0.5), **settings).network.fingerprint() == first.network.fingerprint()
    other = replace(tiny.data(), loss=lambda outputs, targets: 0.5 * cross_entropy(outputs, targets) + 1)
    for data in (weighted(0.6), other, tiny.data()):
        with pytest.raises(RunError, match=r"other settings \(data\.fingerprint"):
            run_phases(data=data, **settings)


def test_another_rule_is_refused(tmp_path: Path) -> None:
    def phases(power: int) -> list[Phase]:
        return [Phase(techniques=(Prune(sparsity=0.5, importance=lambda seen: seen.weight.abs() ** power),))]

    run_phases(tiny.network(), tiny.data(), phases(2), directory=tmp_path)
    run_phases(tiny.network(), tiny.data(), phases(2), directory=tmp_path)
    with pytest.raises(RunError, match=r"other settings \(phases"):
        run_phases(tiny.network(), tiny.data(), phases(3), directory=tmp_path)


def test_a_function_is_the_same_in_every_process() -> None:
    code = (
        "from karui.data.identity import identity\nimport torch, functools\n"
        "class Loss:\n    def __init__(self): self.weight = 2.0\n"
        "    def __call__(self, o, t): return self.weight if t in {'a', 'b', 'c'} else o\n"
        "def made(x): return lambda o, t, k=1: x * o if t in {'a', 'b', 'c'} else (lambda: made)\n"
        "print(identity([made(3), functools.partial(made, 2), Loss(), Loss().__call__, len]))\n"
        "print(identity(torch.nn.CrossEntropyLoss(label_smoothing=0.1)))"
    )
    command = [sys.executable, "-c", code]
    environments = [os.environ | {"PYTHONHASHSEED": seed} for seed in "12"]
    told = {subprocess.run(command, capture_output=True, text=True, check=True, env=each).stdout for each in environments}
    assert len(told) == 1 and " at 0x" not in told.pop()


def test_an_error_leaves_a_run_that_can_be_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases = [Phase(training=SHORT), Phase(techniques=(tiny.Round(),), training=SHORT)]
    data = tiny.data()
    whole = run_phases(tiny.network(), data, phases)
    count = itertools.count()
    real = loop._loss

    def broken(*args: Any) -> torch.Tensor:
        if next(count) == 4:
            raise DataError("the disk with the data is gone")
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(DataError, match="is gone"):
        patch.setattr(loop, "_loss", broken)
        run_phases(tiny.network(), data, phases, directory=tmp_path)
    assert run_phases(tiny.network(), data, phases, directory=tmp_path).network.fingerprint() == whole.network.fingerprint()


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases, data = [Phase(training=SHORT)], tiny.data()
    whole = run_phases(tiny.network(), data, phases)
    count, real = itertools.count(), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if next(count) == 2:
            real(path, content[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"can't write '.*01\.checkpoint': the disk is full"):
        patch.setattr(Path, "write_bytes", full)
        run_phases(tiny.network(), data, phases, directory=tmp_path, checkpoint_seconds=0.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "01.checkpoint", "karui-run.json"]
    assert run_phases(tiny.network(), data, phases, directory=tmp_path).network.fingerprint() == whole.network.fingerprint()


def test_facts_that_json_has_not() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd(tiny.Lean):
        def attach(self, network: tiny.Network, context: Context) -> Attached:
            found = Attached()
            found.finish = lambda: {"weight": torch.ones(1)}  # type: ignore[method-assign]
            return found

    with pytest.raises(RecipeError, match="finished with facts that JSON hasn't"):
        run_phases(tiny.network(), tiny.data(), [Phase(techniques=(Odd(),), training=SHORT)])


def test_a_damaged_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    phases, data = [Phase(training=SHORT)], tiny.data()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_step", interrupted)
        run_phases(tiny.network(), data, phases, directory=tmp_path)
    (tmp_path / "01.checkpoint").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(Exception, match=r"checkpoint '.*01\.checkpoint' is damaged .*delete"):
        run_phases(tiny.network(), data, phases, directory=tmp_path)
