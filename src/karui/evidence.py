"""The proof: every figure of a run's report is measured here, on artefacts that were written and on the test part, opened once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from karui.analyse.cost import measure as analyse
from karui.data import Data
from karui.export import c as c_target
from karui.export import onnx as onnx_target
from karui.export.artifact import Artifact
from karui.finetune.evaluate import score
from karui.graph.network import Network
from karui.program import codec
from karui.program.program import AffineValues, CodebookValues, FloatValues, Program, SignValues, Weight
from karui.report.record import Bench, Candidate, Costs, Layer, Limits, MetricFacts, Point, Record, Standing, Step, VerdictFacts
from karui.run import host, measure
from karui.run import onnxruntime as ort
from karui.run.machine import machine, versions
from karui.search.judge import program_scores
from karui.search.trial import Setting, Trial, figure, lowered, words
from karui.verify import accuracy
from karui.verify.cost import arena_bytes, random_inputs
from karui.verify.verdict import judge


@dataclass(frozen=True, kw_only=True)
class Built:
    """A program, and the files of it that run."""

    program: Program
    artifact: Artifact
    library: host.Library
    onnx: Artifact


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared."""

    network: Network
    built: Built

    @property
    def program(self) -> Program:
        """What runs."""
        return self.built.program


def build(program: Program, folder: Path) -> Built:
    """Write and compile a program under ``folder``. Raises ToolError without a compiler, UnsupportedOp for what a target can't do."""
    artifact, onnx = c_target.write(program, folder / "c"), onnx_target.write(program, folder / "onnx")
    return Built(program=program, artifact=artifact, library=host.build(artifact), onnx=onnx)


def load(paths: tuple[Path, Path], folder: Path) -> Side:
    """A trained rung's network and program, built under ``folder``."""
    network, program = paths
    return Side(network=Network.load(network), built=build(codec.load(program), folder))


def gather(setting: Setting, before: Side, after: Side | None, trials: Sequence[Trial], best: Trial | None) -> Record:
    """The record of a run: both sides on the test part, every candidate, every layer, every epoch."""
    data, budget = setting.data, setting.budget
    first = standing(before, data, setting.before)
    final = standing(after, data, best.validation) if after and best else Standing()
    return Record(
        name=setting.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        machine=machine(),
        seed=setting.seed,
        network=setting.network.name,
        data=data.name,
        data_sizes={name: len(getattr(data, name)) for name in ("train", "validation", "test", "calibration")},
        metric=MetricFacts(name=data.metric.name, unit=data.metric.unit, higher_is_better=data.metric.higher_is_better),
        budget=Limits(drop=budget.drop, bytes=budget.bytes, peak_ram=budget.peak_ram, latency_ms=budget.latency_ms, target=budget.target),
        baseline=first,
        candidates=[candidate(t, t is best) for t in trials],
        winner=best.name if best else None,
        final=final,
        layers=layers(before, after),
        history=[point for t in trials for point in points(t)],
        steps=steps(best),
        bench=bench({"float": before.built} | ({"compressed": after.built} if after else {})),
        verdict=verdict(setting, first, final, best),
    )


def standing(side: Side, data: Data, validation: float | None) -> Standing:
    """One side on the test part, through its compiled program, with what it costs."""
    program, library = side.program, side.built.library
    scores = program_scores(library.run, program, data.test, data.metric)
    judged = accuracy.accuracy(scores, scale=data.metric.scale)
    report = analyse(side.network)
    timing = measure.latency(library.call(random_inputs(program, 1)))
    return Standing(
        accuracy=judged.mean,
        low=judged.low,
        high=judged.high,
        n=judged.n,
        validation=validation,
        bytes={"karui": len(codec.encode(program)), "c": library.sections.flash, "onnx": side.built.onnx.main.stat().st_size},
        latency_ms=timing.median_ms,
        macs=report.macs,
        params=report.params,
        peak_ram=arena_bytes(side.built.artifact),
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
    """Layer → what its weights take in the file; the bits are those of its largest weight."""
    found: dict[str, Stored] = {}
    for op in program.ops:
        held = [program.weights[name] for role, name in op.weights.items() if role in ("weight", "weight_ih", "weight_hh", "bias", "scale")]
        if not held:
            continue
        largest = max(held, key=lambda w: int(np.prod(w.shape)))
        here = Stored(
            count=int(np.prod(largest.shape)),
            stored=largest.stored,
            bytes=sum(codec.weight_bytes(w) for w in held),
            bits=bits_of(largest),
        )
        found[op.name] = here if op.name not in found else max(found[op.name], here, key=lambda s: s.bytes)
    return found


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


def verdict(setting: Setting, before: Standing, after: Standing, best: Trial | None) -> VerdictFacts:
    """Whether the winner keeps the budget: accuracy as it was chosen (validation) and as it turned out (test), and each limit."""
    budget, metric = setting.budget, setting.data.metric
    if best is None:
        return VerdictFacts(ok=False, lines=["nothing that was tried keeps the budget"])
    judged = judge(budget, best.cost, before=setting.before, after=best.validation, higher_is_better=metric.higher_is_better)
    lines = [f"{words(line)}{' on validation' if line.limit == 'drop' else ''}" for line in judged.lines]
    if before.accuracy is not None and after.accuracy is not None:
        change = (before.accuracy - after.accuracy) * (1 if metric.higher_is_better else -1)
        lines.append(f"drop {figure(change)} on test, looked at once")
    return VerdictFacts(ok=judged.ok, lines=lines)


def bench(forms: Mapping[str, Built]) -> list[Bench]:
    """Bytes and latency of each program in C and in onnxruntime, one sample, one thread, measured in turn in one run."""
    calls: dict[tuple[str, str], Any] = {}
    sizes: dict[tuple[str, str], int] = {}
    for form, each in forms.items():
        sample, file = random_inputs(each.program, 1), each.onnx.main
        calls[("c", form)], sizes[("c", form)] = each.library.call(sample), each.library.sections.flash
        calls[("onnxruntime", form)], sizes[("onnxruntime", form)] = ort.load(file).call(sample), file.stat().st_size
    timings = measure.interleaved(calls)
    return [
        Bench(
            runner=runner,
            form=form,
            bytes=sizes[runner, form],
            median_ms=timing.median_ms,
            p10_ms=timing.p10,
            p90_ms=timing.p90,
            runs=timing.runs,
        )
        for (runner, form), timing in timings.items()
    ]


def with_control(record: Record, dense: Network, setting: Setting) -> Record:
    """The record with the dense control on the test part, through its compiled program like the others."""
    program = lowered(dense, setting.data, setting.name)
    side = Side(network=dense, built=build(program, setting.run.path("measured", "control")))
    validation = score(dense, setting.data.validation, setting.data.metric)
    return record.model_copy(update={"control": standing(side, setting.data, validation)})


def with_artefacts(record: Record, artefacts: Mapping[str, Artifact], folder: Path) -> Record:
    """The record with the places of what was written, relative to the run."""
    places = {name: str(a.main.relative_to(folder)) for name, a in artefacts.items()}
    return record.model_copy(update={"artefacts": {**places, "program": "program.karui", "report": "report.html"}})
