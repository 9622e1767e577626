"""The proof: every figure of a run's report is measured here, on artefacts that were written and on the test part, opened once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.analyse.cost import measure as analyse
from karui.data import Data
from karui.errors import KaruiError
from karui.export.artifact import Artifact
from karui.graph.network import Network
from karui.program import codec, interpreter
from karui.program.program import AffineValues, Array, CodebookValues, FloatValues, Program, SignValues, Weight
from karui.report.record import (
    Bench,
    Candidate,
    Costs,
    Interval,
    Layer,
    Leaving,
    Limits,
    MetricFacts,
    Parity,
    Point,
    Record,
    Standing,
    Step,
    Trade,
    VerdictFacts,
)
from karui.run import measure
from karui.run.machine import machine, versions
from karui.run.runners import Runner
from karui.search.scores import feeds, few, mean_score, program_scores
from karui.search.trial import Setting, Trial, figure, lowered, words
from karui.verify import accuracy
from karui.verify.cost import cost_of, opened, timed_call
from karui.verify.parity import compare
from karui.verify.verdict import judge

BESIDE = ("c", "onnx")  # measured in every run, whatever the budget's target
CHECKED = 200  # samples of the test part on which each runner is held against the interpreter


@dataclass(frozen=True, kw_only=True)
class Built:
    """A program, and by target what runs it."""

    program: Program
    on: Mapping[str, Runner]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared."""

    network: Network
    built: Built

    @property
    def program(self) -> Program:
        """What runs."""
        return self.built.program


def build(program: Program, folder: Path, target: str = "c") -> Built:
    """Write a program under ``folder`` for ``target`` and those that stand beside it, and make it ready to run.

    Raises RecipeError for a target that nothing here runs, ToolError without a compiler, UnsupportedOp for what a target can't do.
    """
    return Built(program=program, on={name: opened(program, name, folder / name) for name in dict.fromkeys((target, *BESIDE))})


def build_all(program: Program, folder: Path, targets: Sequence[str]) -> tuple[Built, dict[str, str]]:
    """As ``build``, for these targets, leaving out those that can't be made ready here; and why they can't, by target."""
    on, why = dict[str, Runner](), dict[str, str]()
    for name in targets:
        try:
            on[name] = opened(program, name, folder / name)
        except KaruiError as error:
            why[name] = str(error)
    return Built(program=program, on=on), why


def load(paths: tuple[Path, Path], folder: Path, target: str) -> Side:
    """A trained rung's network and program, built under ``folder``."""
    network, program = paths
    return Side(network=Network.load(network), built=build(codec.load(program), folder, target))


def gather(setting: Setting, before: Side, after: Side | None, trials: Sequence[Trial], best: Trial | None) -> Record:
    """The record of a run: both sides on the test part, every candidate, every layer, every epoch."""
    data, budget = setting.data, setting.budget
    scores = test_scores(before, setting)
    first, final, change = standing(before, scores, setting, setting.before), Standing(), None
    if after and best:
        ours = test_scores(after, setting)
        final = standing(after, ours, setting, best.validation)
        change = accuracy.difference(scores, ours, scale=data.metric.scale)
    held = parity(after or before, data)
    bits = frontier(best)
    return Record(
        name=setting.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=setting.command,
        versions=versions(),
        machine=machine(),
        seed=setting.seed,
        network=setting.network.name,
        data=data.name,
        data_sizes={name: len(getattr(data, name)) for name in ("train", "validation", "test", "calibration")},
        metric=MetricFacts(name=data.metric.name, unit=data.metric.unit, higher_is_better=data.metric.higher_is_better),
        budget=Limits(drop=budget.drop, bytes=budget.bytes, peak_ram=budget.peak_ram, latency_ms=budget.latency_ms, target=budget.target),
        baseline=first,
        change=Interval(mean=change.mean, low=change.low, high=change.high) if change else None,
        candidates=[candidate(t, t is best) for t in trials],
        winner=best.name if best else None,
        final=final,
        layers=layers(before, after),
        history=[point for t in trials for point in points(t)],
        frontier=bits[:-1],
        bits_chosen=bits[-1] if bits else None,
        exits=exits(best),
        steps=steps(best),
        parity=held,
        bench=bench({"float": before.built} | ({"compressed": after.built} if after else {}), data),
        verdict=verdict(setting, change, best, held),
    )


def test_scores(side: Side, setting: Setting) -> NDArray[np.float64]:
    """The metric of each sample of the test part, [N], from the program as the budget's target runs it."""
    return program_scores(side.built.on[setting.budget.target].run, side.program, setting.data.test, setting.data.metric)


def standing(side: Side, scores: NDArray[np.float64], setting: Setting, validation: float | None) -> Standing:
    """One side: how it stands on the test part, and what it costs on the budget's target."""
    judged = accuracy.accuracy(scores, scale=setting.data.metric.scale)
    samples = few(side.program, setting.data.test)
    report, cost = analyse(side.network), cost_of(side.built.on[setting.budget.target], side.program, samples=samples)
    return Standing(
        accuracy=judged.mean,
        low=judged.low,
        high=judged.high,
        n=judged.n,
        validation=validation,
        bytes={"karui": len(codec.encode(side.program)), **{name: runner.bytes for name, runner in side.built.on.items()}},
        latency_ms=cost.latency_ms,
        macs=report.macs,
        params=report.params,
        peak_ram=cost.peak_ram,
    )


def parity(side: Side, data: Data) -> list[Parity]:
    """Each runner's outputs beside the interpreter's, on samples of the test part."""
    batch = next(iter(data.test.batches(min(CHECKED, len(data.test)))))
    inputs = feeds(side.program, batch)
    expected = interpreter.run(side.program, inputs)
    promised = not rounds_floats(side.program)
    return [hold(each.runs_on, each.exact, each.run(inputs), expected, promised=promised) for each in side.built.on.values()]


def rounds_floats(program: Program) -> bool:
    """Does an op make integers of what a float op computed, or an exit look at it? A last bit may tip that, and the rest follows."""
    given = {entry.tensor for entry in program.inputs}
    exact = {name for op in program.ops if op.kind == "dequantize" for name in op.outputs}
    return any(
        (op.kind == "quantize" and not set(op.inputs) <= given) or (op.kind == "exit_if" and op.inputs[0] not in exact)
        for op in program.ops
    )


def hold(runner: str, exact: bool, found: Sequence[Array], expected: Sequence[Array], *, promised: bool) -> Parity:
    """Integers equal, and floats within 1e-4 of the largest, where the runner is exact and the program promises it; else as they are."""
    seen = [compare(a, b, rule="tolerance" if b.dtype == np.float32 else "exact") for a, b in zip(found, expected, strict=True)]
    largest = [max(float(np.abs(b.astype(np.float64)).max(initial=0)), 1e-30) for b in expected]
    return Parity(
        runner=runner,
        samples=len(found[0]),
        differing=max(p.differing for p in seen),
        greatest=max(p.max_error / most for p, most in zip(seen, largest, strict=True)),
        ok=all(p.ok for p in seen) if exact and promised else None,
    )


def candidate(trial: Trial, won: bool) -> Candidate:
    """A trial as the report shows it."""
    cost = trial.cost
    return Candidate(
        name=trial.name,
        phases=list(trial.phases),
        validation=trial.validation,
        cost=Costs(bytes=cost.bytes, peak_ram=cost.peak_ram, latency_ms=cost.latency_ms, macs=cost.macs, params=cost.params),
        fits=trial.fits,
        reason="the fewest bytes of those that fit" if won else trial.reason,
        seconds=trial.seconds,
    )


def points(trial: Trial) -> list[Point]:
    """The training curve of a trial."""
    return [
        Point(candidate=trial.name, phase=number, epoch=e["epoch"] + 1, loss=e["loss"], metric=e["score"], lr=e["lr"])
        for number, phase in enumerate(trial.facts)
        for e in phase["history"]["epochs"]
    ]


def frontier(best: Trial | None) -> list[Trade]:
    """Where the winner's last phase of mixed bits could have been, from the fewest bytes to the most, then where it is; else nothing."""
    told = [fact for phase in (best.facts if best else ()) for fact in phase["facts"] if {"frontier", "chosen"} <= fact.keys()]
    return [Trade(share=share, harm=harm) for share, harm in (*told[-1]["frontier"], told[-1]["chosen"])] if told else []


def exits(best: Trial | None) -> list[Leaving]:
    """Where validation samples leave the winner, by its last choice of thresholds; nothing where all go to the end."""
    told = [fact for phase in (best.facts if best else ()) for fact in phase["facts"] if {"exits", "undecided_macs"} <= fact.keys()]
    taken = [each for each in told[-1]["exits"] if each["threshold"] is not None] if told else []
    if not taken:
        return []
    end = Leaving(name="the end", share=told[-1]["last"], macs=told[-1]["undecided_macs"])
    return [*(Leaving(name=each["exit"], share=each["share"], macs=each["macs"]) for each in taken), end]


def steps(best: Trial | None) -> list[Step]:
    """What was done to the winner, phase by phase."""
    if best is None:
        return []
    return [Step(what=text, why=best.why if i == 0 else "") for i, text in enumerate(best.phases)]


def layers(before: Side, after: Side | None) -> list[Layer]:
    """Every layer that holds weights or computes, before and after."""
    rows = {row.name: row for row in analyse(before.network).rows}
    now = {row.name: row for row in analyse(after.network).rows} if after else {}
    old, new = stored_by_layer(before.program), stored_by_layer(after.program) if after else {}
    found = []
    for name, row in rows.items():
        if not row.params and not row.macs:
            continue
        kept = new.get(name)
        found.append(
            Layer(
                name=name,
                op=row.op,
                params=row.params,
                macs=row.macs,
                macs_after=now[name].macs if name in now else None,
                stored=kept.stored if kept else None,
                bytes_before=old[name].bytes if name in old else 0,
                bytes_after=kept.bytes if kept else None,
                sparsity=1 - kept.stored / kept.count if kept and kept.count else 0.0,
                bits=kept.bits if kept else 32,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The weights of one layer in a program: how many there are, how many are stored, in how many bytes, of how many bits each."""

    count: int
    stored: int
    bytes: int
    bits: float


def stored_by_layer(program: Program) -> dict[str, Stored]:
    """Layer → what all its weights take in the file, those that several ops read counted once; the bits are those of the largest."""
    names: dict[str, set[str]] = {}
    for op in program.ops:
        if held := {name for role, name in op.weights.items() if role.startswith(("weight", "bias", "scale"))}:
            names.setdefault(op.name, set()).update(held)
    return {layer: _stored([program.weights[name] for name in sorted(held)]) for layer, held in names.items()}


def _stored(weights: Sequence[Weight]) -> Stored:
    sizes = [int(np.prod(w.shape)) for w in weights]
    return Stored(
        count=sum(sizes),
        stored=sum(w.stored for w in weights),
        bytes=sum(codec.weight_bytes(w) for w in weights),
        bits=bits_of(weights[int(np.argmax(sizes))]),
    )


def bits_of(weight: Weight) -> float:
    """Bits of one stored weight, before any entropy coding."""
    v = weight.values
    if isinstance(v, FloatValues):
        return 32
    if isinstance(v, AffineValues):
        return v.bits
    if isinstance(v, SignValues):
        return 1
    if isinstance(v, CodebookValues):
        return float(np.ceil(np.log2(len(v.codebook))))
    return 2


def verdict(setting: Setting, change: accuracy.Accuracy | None, best: Trial | None, held: Sequence[Parity]) -> VerdictFacts:
    """Whether the winner keeps the budget: accuracy as it was chosen (validation) and as it turned out (test), and each limit.

    A runner that breaks its promise to answer as the interpreter does spoils it: its figures are another program's.
    """
    budget, metric = setting.budget, setting.data.metric
    if best is None or change is None:
        return VerdictFacts(ok=False, lines=["nothing that was tried keeps the budget"])
    judged = judge(budget, best.cost, before=setting.before, after=best.validation, higher_is_better=metric.higher_is_better)
    lines = [f"{words(line)}{' on validation' if line.limit == 'drop' else ''}" for line in judged.lines]
    drop, *ends = (value * (-1 if metric.higher_is_better else 1) for value in (change.mean, change.low, change.high))
    lines.append(f"drop {figure(drop)} on test ({figure(min(ends))} to {figure(max(ends))}: the 95 % interval of the paired samples)")
    wrong = [p.runner for p in held if p.ok is False]
    lines += [f"{name} doesn't answer as the interpreter does: a fault of karui's, please report it" for name in wrong]
    return VerdictFacts(ok=judged.ok and not wrong, lines=lines)


def bench(forms: Mapping[str, Built], data: Data | None = None) -> list[Bench]:
    """Bytes and latency of each program on each runner, one sample, one thread, measured in turn in one run.

    With early exits: the mean over the first samples of the test part; without data, of noise.
    """
    calls: dict[tuple[str, str], Any] = {}
    counts: dict[tuple[str, str], int] = {}
    sizes: dict[tuple[str, str], int] = {}
    for form, each in forms.items():
        samples = few(each.program, data.test) if data else None
        for runner in each.on.values():
            key = runner.runs_on, form
            (calls[key], counts[key]), sizes[key] = timed_call(runner, each.program, samples), runner.bytes
    timings = measure.interleaved(calls)
    return [
        Bench(
            runner=runner,
            form=form,
            bytes=sizes[runner, form],
            median_ms=timing.median_ms / counts[runner, form],
            p10_ms=timing.p10 / counts[runner, form],
            p90_ms=timing.p90 / counts[runner, form],
            runs=timing.runs,
        )
        for (runner, form), timing in timings.items()
    ]


def validated(side: Side, data: Data, target: str) -> float:
    """The metric on the validation part, as the target runs the program."""
    return mean_score(side.built.on[target].run, side.program, data.validation, data.metric)


def with_control(record: Record, dense: Network, setting: Setting) -> Record:
    """The record with the dense control on the test part, through its compiled program like the others."""
    program = lowered(dense, setting.data, setting.name)
    side = Side(network=dense, built=build(program, setting.run.path("measured", "control"), setting.budget.target))
    validation = validated(side, setting.data, setting.budget.target)
    return record.model_copy(update={"control": standing(side, test_scores(side, setting), setting, validation)})


def with_artefacts(record: Record, artefacts: Mapping[str, Artifact], folder: Path) -> Record:
    """The record with the places of what was written, relative to the run."""
    places = {name: str(a.main.relative_to(folder)) for name, a in artefacts.items()}
    return record.model_copy(update={"artefacts": {**places, "program": "program.karui", "report": "report.html"}})
