"""One candidate from recipe to figures: compress ⇄ finetune, lower, export, measure, judge on validation."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from karui.analyse.cost import measure
from karui.budget import Budget, Cost
from karui.compress.technique import Technique
from karui.data import Data
from karui.finetune.loop import Training
from karui.finetune.phases import Phase, run_phases
from karui.finetune.progress import SILENT, Progress
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec
from karui.program.program import Program
from karui.run.runners import Runner
from karui.search.ladder import Rung
from karui.search.scores import few, mean_score
from karui.verify.cost import cost_of, opened
from karui.verify.verdict import Line, judge
from karui.workspace import Run


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a rung. validation: the score in the metric's unit, None where it was not trained. broken: the limits it can't keep.

    facts: one dict per phase: its techniques, what they told, its history.
    """

    name: str
    why: str
    phases: tuple[str, ...]
    cost: Cost
    validation: float | None = None
    drop: float | None = None
    fits: bool | None = None
    reason: str = ""
    facts: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> "Trial":
        """The inverse of ``to_json``."""
        return cls(**{**value, "cost": Cost(**value["cost"]), "phases": tuple(value["phases"]), "facts": tuple(value["facts"])})


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trials of a run share. before: the original's score on validation. command: what starts this run again.

    The names of folders inside ``run`` are the rungs' names.
    """

    run: Run
    network: Network
    teacher: Network
    data: Data
    budget: Budget
    before: float
    seed: int
    name: str
    command: str = ""
    progress: Progress = SILENT


def trial(rung: Rung, setting: Setting) -> Trial:
    """Do a rung, or read what an earlier call found. A rung that breaks a limit before any training is not trained."""
    stored = f"candidates/{rung.name}/trial.json"
    if (setting.run.directory / stored).exists():
        return Trial.of_json(setting.run.json(stored))
    started = time.monotonic()
    result = _hopeless(rung, setting) or _trained(rung, setting)
    result = replace(result, seconds=round(time.monotonic() - started, 1))
    setting.run.write_json(stored, result.to_json())
    return result


def dense_control(rung: Rung, setting: Setting) -> Network:
    """The original after the very training of ``rung``, with nothing compressed: what the training alone is worth."""
    phases = tuple(replace(p, techniques=tuple(t for t in p.techniques if t.stage == "loss")) for p in rung.phases)
    folder = setting.run.path("control", "phases")
    return run_phases(
        setting.network, setting.data, phases, teacher=setting.teacher, seed=setting.seed, directory=folder, progress=setting.progress
    ).network


def files(setting: Setting, name: str) -> tuple[Path, Path]:
    """Where a trained rung keeps its network and its program."""
    return setting.run.path("candidates", name, "network.pt2"), setting.run.path("candidates", name, "program.karui")


def skipped(rung: Rung, reason: str) -> Trial:
    """A rung that is not tried, and why."""
    return Trial(name=rung.name, why=rung.why, phases=told(rung.phases), cost=Cost(), fits=None, reason=reason)


def lowered(network: Network, data: Data, name: str) -> Program:
    """The program of a network for this data: pixels in where the data are pixels, labels on its output."""
    return lower(network, pixels=data.pixels, labels=data.labels, name=name)


def priced(network: Network, program: Program, setting: Setting, rung: str) -> tuple[Runner, Cost]:
    """The program on the budget's target, and what it costs there, with the network's MACs and parameters beside."""
    runner = opened(program, setting.budget.target, setting.run.path("candidates", rung, "measured"))
    samples = few(program, setting.data.validation)
    cost, report = cost_of(runner, program, latency=setting.budget.latency_ms is not None, samples=samples), measure(network)
    return runner, replace(cost, macs=report.macs, params=report.params)


def told(phases: tuple[Phase, ...]) -> tuple[str, ...]:
    """A line a phase, in words."""
    return tuple(f"{', '.join(named(t) for t in p.techniques) or 'training alone'}; {amount(p.training)}" for p in phases)


def named(technique: Technique) -> str:
    """A technique with those of its settings that differ from their defaults."""
    changed = [f for f in fields(technique) if getattr(technique, f.name) != f.default]
    return f"{type(technique).__name__}({', '.join(f'{f.name}={getattr(technique, f.name)!r}' for f in changed)})"


def amount(training: Training) -> str:
    """How much training, in words."""
    if not training.trains:
        return "no training"
    count = f"{training.steps} steps" if training.steps is not None else f"{training.epochs:g} epochs"
    return f"{count} of {training.optimizer}, lr {training.lr:g}"


def _hopeless(rung: Rung, setting: Setting) -> Trial | None:
    """The rung without its training: what it costs is known before it is good at anything. None where it may fit."""
    budget = setting.budget
    if not budget.limits:
        return None
    untrained = tuple(Phase(techniques=tuple(t for t in p.techniques if t.stage != "loss"), training=Training()) for p in rung.phases)
    sketch = run_phases(setting.network, setting.data, untrained, teacher=setting.teacher, seed=setting.seed).network
    _, cost = priced(sketch, lowered(sketch, setting.data, setting.name), setting, rung.name)
    broken = [line for line in judge(budget, cost, before=setting.before, after=None).broken() if line.ok is False]
    if not broken:
        return None
    reason = f"not trained: {', '.join(words(line) for line in broken)}"
    return Trial(name=rung.name, why=rung.why, phases=told(rung.phases), cost=cost, fits=False, reason=reason)


def _trained(rung: Rung, setting: Setting) -> Trial:
    folder = setting.run.path("candidates", rung.name, "phases")
    result = run_phases(
        setting.network,
        setting.data,
        rung.phases,
        teacher=setting.teacher,
        seed=setting.seed,
        directory=folder,
        progress=setting.progress,
    )
    program = lowered(result.network, setting.data, setting.name)
    runner, cost = priced(result.network, program, setting, rung.name)
    metric = setting.data.metric
    validation = mean_score(runner.run, program, setting.data.validation, metric)
    judged = judge(setting.budget, cost, before=setting.before, after=validation, higher_is_better=metric.higher_is_better)
    network_file, program_file = files(setting, rung.name)
    result.network.save(network_file)
    codec.save(program, program_file)
    facts = tuple({"techniques": p.techniques, "facts": p.facts, "history": p.history.to_json()} for p in result.phases)
    return Trial(
        name=rung.name,
        why=rung.why,
        phases=told(rung.phases),
        cost=cost,
        validation=validation,
        drop=judged.lines[0].value,
        fits=judged.ok,
        reason=", ".join(words(line) for line in judged.broken()),
        facts=facts,
    )


def words(line: Line) -> str:
    """A line of a verdict in words."""
    if line.value is None:
        return f"{line.limit} was not measured, allowed {line.allowed:,.6g}"
    return f"{line.limit} {figure(line.value)}, allowed {figure(line.allowed)}"


def figure(value: float) -> str:
    """Whole numbers whole, others to three decimals, the smallest to three digits; never "-0"."""
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value + 0.0:,.3f}".rstrip("0").rstrip(".")
