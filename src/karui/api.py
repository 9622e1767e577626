"""The whole flow on one page: capture, analyse, ( compress ⇄ finetune ), lower, export, run, verify, report; a line a room."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from karui import datasets, evidence, resolve
from karui.analyse.cost import Report, measure
from karui.analyse.memory import Peak, peak
from karui.budget import Budget
from karui.compress.prune.weights import Prune
from karui.compress.technique import Technique
from karui.data import Data
from karui.elsewhere import placed
from karui.errors import DataError, RecipeError, ToolError
from karui.export import ceilings, targets
from karui.export.artifact import Artifact
from karui.export.machines import machine_of
from karui.finetune.loop import Training
from karui.finetune.phases import Phase, describe, phases_of
from karui.finetune.progress import SILENT, Progress
from karui.graph.doors.capture import FILES
from karui.graph.network import Network
from karui.lower.lower import lower
from karui.names import is_file_name
from karui.program import codec
from karui.program.program import Program
from karui.recipe import Recipe
from karui.report import page, record
from karui.report import sensitivity as scan_report
from karui.report.record import Bench, Placed, Record
from karui.report.sensitivity import Sensitivity
from karui.run.places import place_of
from karui.run.runners import require_measurable, runners
from karui.search import sensitivity as pruned
from karui.search.climb import choose, climb, unreachable
from karui.search.ladder import Rung, ladder, long_steps
from karui.search.trial import Setting, dense_control, files, lowered
from karui.verify.cost import undecided
from karui.workspace import Run, atomic_write

DEMO_BUDGET = Budget(drop=0.3, bytes=90_000)  # the float program in C takes 1.73 MB; compilers differ by a few per cent

Plan = Recipe | Sequence[Phase] | Sequence[Technique] | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What ``compress`` found. program: runs everywhere; network: trains on; record: every figure; folder: the run's directory."""

    program: Program
    network: Network
    record: Record
    folder: Path

    def export(
        self, to: Sequence[str] = ("c", "onnx", "device"), folder: str | Path | None = None, *, machine: str | None = None
    ) -> dict[str, Artifact]:
        """Write the program for these targets into ``folder`` (the run's ``export``); returns target → artifact.

        machine: what C is to be fast on, as ``x86-64-v4`` (``karui list machines``); None: any processor.
        """
        return targets.write_all(self.program, to, Path(folder) if folder else self.folder / "export", machine=machine)


def compress(
    network: nn.Module | Network | str | Path,
    data: Data | str,
    budget: Budget | None = None,
    recipe: Plan = None,
    *,
    teacher: nn.Module | Network | str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    seed: int = 0,
    effort: float = 1.0,
    control: bool = False,
    command: str = "",
    progress: Progress = SILENT,
) -> Result:
    """The smallest network inside the budget, as files that run, with the proof.

    recipe: phases, or techniques in any order; None: the ladder (``search/ladder.py``). teacher: whom to distil from (None: the network
    itself). out: the run's directory (``runs/NAME``); the same call on it goes on where it stopped. effort: a factor on the ladder's
    training. control: train the original as long as the winner, uncompressed, and show it beside. command: what starts this run again,
    for the report. What can't end well (an op without a rule, weights that are NaN, no compiler) is refused before any training.
    Raises BudgetError when nothing fits, naming the limit and what came nearest; the report is written all the same.
    """
    started, budget = time.monotonic(), budget or Budget()
    data = resolve.data_of(data)
    original = resolve.network_of(network, data)
    name = _checked_name(original.name if name is None else name)
    tutor = resolve.network_of(teacher, data) if teacher is not None else original
    _check_finite(original, tutor)
    require_measurable(budget.target, budget.limits)
    program, rungs = lowered(original, data, name), _rungs(recipe, data, effort)
    run = Run.create(out or Path("runs") / name, _config(original, tutor, data, budget, rungs, seed, name))
    with run.lock():
        original.save(run.path("original.pt2"))
        codec.save(program, run.path("original.karui"))
        before = evidence.Side(network=original, built=evidence.build(program, run.path("measured", "original"), budget.target))
        setting = Setting(
            run=run,
            network=original,
            teacher=tutor,
            data=data,
            budget=budget,
            before=evidence.validated(before, data, budget.target),
            seed=seed,
            name=name,
            command=command,
            progress=progress,
        )
        trials = climb(rungs, setting)
        best = choose(trials)
        after = evidence.load(files(setting, best.name), run.path("measured", "compressed"), budget.target) if best else None
        found = evidence.gather(setting, before, after, trials, best)
        if best and after:
            found = evidence.with_artefacts(found, _deliver(run, files(setting, best.name), after.program, budget.target), run.directory)
        if best and control:
            rung = next(r for r in rungs if r.name == best.name)
            found = evidence.with_control(found, dense_control(rung, setting), setting)
        found = found.model_copy(update={"seconds": round(time.monotonic() - started, 1)})
        record.write(found, run.directory)
        page.write(run.directory)
    if after is None:
        raise unreachable(trials, budget)
    return Result(program=after.program, network=after.network, record=found, folder=run.directory)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a network costs in float: layer by layer, and the greatest activation memory of one sample."""

    cost: Report
    peak: Peak

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.cost.as_dict(), "peak": self.peak.as_dict()}


def analyse(network: nn.Module | Network | str | Path, data: Data | str | None = None) -> Analysis:
    """What a network costs: parameters, MACs, weight bytes and activation memory, per layer and in all."""
    captured = resolve.network_of(network, None if data is None else resolve.data_of(data))
    return Analysis(cost=measure(captured), peak=peak(captured))


@dataclass(frozen=True, kw_only=True)
class Sensitive:
    """What ``sensitivity`` found. record: every figure; folder: the scan's directory, with the page and the same figures as JSON."""

    record: Sensitivity
    folder: Path


def sensitivity(
    network: nn.Module | Network | str | Path,
    data: Data | str,
    technique: pruned.Pruning | None = None,
    *,
    levels: Sequence[float] | None = None,
    samples: int = 2000,
    drop: float = 0.5,
    out: str | Path | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = SILENT,
) -> Sensitive:
    """How much of each layer can be pruned by itself, without training: the score on the validation part for every layer and level.

    Han et al. 2015, "Learning both weights and connections for efficient neural networks", fig. 6. technique: how (``Prune()``; its
    pattern, importance and choice of layers count, its sparsity and schedule don't), or ``PruneChannels()`` for whole channels. levels:
    shares in (0, 1). samples: of the validation part, evenly spaced. drop: what a level may cost, in the metric's unit, for the layer to
    bear it. out: the scan's directory (``runs/NAME-sensitivity``); the same call on it goes on where it stopped, and may ask for other
    levels and layers. Raises RecipeError for settings that make no sense and data that doesn't fit, RunError for another scan's directory.
    """
    if not 0 <= drop < float("inf"):
        raise RecipeError(f"drop: expected what a layer may cost, 0 or more, got {drop}")
    data = resolve.data_of(data).without_test()
    original = resolve.network_of(network, data).copy().eval()
    _check_finite(original)
    subject = pruned.subject_of(original, data, technique or Prune(), levels, samples, seed)
    run = Run.create(out or Path("runs") / f"{_checked_name(original.name)}-sensitivity", pruned.config(subject))
    with run.lock():
        facts = pruned.record(subject, pruned.scanned(subject, run, progress), drop, command)
        scan_report.write(facts, run.directory)
    return Sensitive(record=facts, folder=run.directory)


def export(
    run: str | Path,
    to: Sequence[str] = ("c", "onnx", "device"),
    out: str | Path | None = None,
    *,
    machine: str | None = None,
    weights: str | None = None,
    opset: int | None = None,
    keep_forms: bool = False,
) -> dict[str, Artifact]:
    """Write a run's program, a ``.karui`` file or a network as it is for these targets; returns target → artifact.

    run: a run's folder, a ``.karui`` file, or what ``resolve.network_of`` takes by name: ``zoo:NAME``, a ``.pt2``, ``.onnx`` or ``.tflite``
    file. machine: what C is to be fast on. weights: of C, as "array"s, or in a file of bytes beside it ("incbin"); None: the file where
    there are many. keep_forms: weights stay as they are even where the machine's table (``calibrate``) predicts that int8 is faster; what
    it predicts is in an artefact's facts. opset: of ONNX, 17 to 23. out: ``RUN/export``, or a folder called as the file or the network,
    where it is left out.
    """
    program, beside = _program_of(run)
    folder, table = Path(out) if out else beside / "export", None if machine is None else ceilings.find(machine_of(machine).name)
    kept = True if keep_forms else None
    return targets.write_all(program, to, folder, machine=machine, weights=weights, opset=opset, table=table, keep_forms=kept)


def calibrate(machines: Sequence[str] | None = None) -> dict[Path, ceilings.Table]:
    """Measure what this processor and our kernels reach, for each machine of target ``c`` whose instructions it has; some 20 s each.

    The tables are kept in the user's cache folder, and ``export`` goes by them. Returns where each lies, and the table. Raises ToolError
    for a machine that isn't this one, or without a compiler.
    """
    from karui.run import calibrate as room

    found = [room.calibrate(machine_of(name).name) for name in machines or room.machines()]
    if not found:
        raise ToolError("this processor has none of the instructions that a table is for; C for any processor (portable) needs none")
    return {ceilings.keep(table): table for table in found}


def bench(run: str | Path) -> list[Bench]:
    """Bytes and latency of a run's program on every target of the run's that this machine can measure, beside the float original,
    together now: C and onnxruntime always, LiteRT where it was exported for. A target whose runtime is missing is a row that says so.

    There are no data here, so a program with early exits is timed as for a sample that leaves at none: what it takes at most.
    """
    opened = Run.open(run)
    with opened.lock():
        known = [name for name in runners() if (opened.directory / "export" / name).is_dir() and name not in evidence.BESIDE]
        forms, missing = dict[str, evidence.Built](), list[Bench]()
        for form, program in _forms(opened).items():
            forms[form], why = evidence.build_all(program, opened.path("bench", form), [*evidence.BESIDE, *known])
            missing += [Bench(runner=target, form=form, note=reason) for target, reason in why.items()]
        return [*evidence.bench(forms), *missing]


def bench_on(run: str | Path, places: Sequence[str]) -> list[Placed]:
    """A run's program in C and the float original at each place: bytes, arena, latency, and whether they answer as the interpreter does.

    places: of ``run.places.PLACES`` (this host, processors in QEMU), or devices: ``ssh://user@host:port``. A place that can't be reached is
    a row that says why. Raises RecipeError for one that isn't known, before anything is tried.
    """
    opened, found = Run.open(run), {name: place_of(name) for name in places}
    with opened.lock():
        forms, folder = _forms(opened), opened.path("bench", "places")
        return [
            placed(program, form, place, folder / str(i) / form)
            for i, place in enumerate(found.values())
            for form, program in forms.items()
        ]


def _forms(run: Run) -> dict[str, Program]:
    """What is measured of a run, taking none of its exits."""
    files = {"float": "original.karui", "compressed": "program.karui"}
    return {form: undecided(codec.load(run.directory / file)) for form, file in files.items()}


def report(run: str | Path) -> Path:
    """Render a run's report anew; returns the page's path."""
    opened = Run.open(run)
    with opened.lock():
        return page.write(opened.directory)


def demo(out: str | Path = "runs/demo", *, seed: int = 0, control: bool = False, command: str = "", progress: Progress = SILENT) -> Result:
    """Compress the shipped LeNet-5 for Fashion-MNIST under a budget, with itself as the teacher."""
    return compress(
        "zoo:lenet5",
        datasets.load("fashion-mnist", sample=True),
        DEMO_BUDGET,
        out=out,
        name="lenet5",
        seed=seed,
        control=control,
        command=command,
        progress=progress,
    )


def _deliver(run: Run, found: tuple[Path, Path], program: Program, target: str) -> dict[str, Artifact]:
    """Put the winner where the run's user looks for it: its files, and its artefacts under ``export``, the budget's target among them."""
    for file in found:
        atomic_write(run.path(file.name), file.read_bytes())
    return targets.write_all(program, ("c", "onnx", "device", target), run.path("export"))


def _checked_name(name: str) -> str:
    """A name that a file may have: it becomes a part of paths."""
    if not is_file_name(name):
        raise RecipeError(f"name {name!r} can't be the name of a file; give one without slashes")
    return name


def _config(original: Network, teacher: Network, data: Data, budget: Budget, rungs: Sequence[Rung], seed: int, name: str) -> dict[str, Any]:
    """What a run is: the same call on the same directory goes on; any other is refused."""
    return {
        "name": name,
        "seed": seed,
        "network": original.fingerprint(),
        "teacher": teacher.fingerprint(),
        "data": {"name": data.name, "fingerprint": data.fingerprint()},
        "budget": asdict(budget),
        "rungs": {rung.name: describe(rung.phases) for rung in rungs},
    }


def _check_finite(*networks: Network) -> None:
    """Nothing can be learned from weights that are no numbers, nor from a teacher of such."""
    for network in networks:
        for name, tensor in network.state().items():
            if tensor.isnan().any() or (tensor.isinf().any() and name in network.parameters()):  # a mask for attention may hold −inf
                raise DataError(f"network '{network.name}': '{name}' holds NaN or infinity; take weights from before its training ran away")


def _program_of(run: str | Path) -> tuple[Program, Path]:
    """A run's program, a file's, or what a network lowers to; and the folder that is called as it."""
    path = Path(run)
    if path.suffix == ".karui":
        return codec.load(path), path.with_suffix("")
    if not path.is_dir() and (":" in str(run) or str(run).lower().rpartition("@")[0].endswith(FILES) or str(run).lower().endswith(FILES)):
        network = resolve.network_of(str(run))
        return lower(network), path.with_suffix("") if path.exists() else Path(_checked_name(network.name))
    return codec.load(Run.open(path).directory / "program.karui"), path


def _rungs(plan: Plan, data: Data, effort: float) -> tuple[Rung, ...]:
    """The user's recipe as one rung, or the ladder."""
    if plan is None:
        return ladder(data, effort)
    if isinstance(plan, Recipe):
        return (Rung(name="recipe", family="", phases=plan.phases, why="the recipe that was given"),)
    given = list(plan)
    if all(isinstance(p, Phase) for p in given):
        phases = tuple(p for p in given if isinstance(p, Phase))
    elif all(isinstance(t, Technique) for t in given):
        steps = long_steps(data) if any(t.stage != "numbers" for t in given if isinstance(t, Technique)) else 0
        training = Training(steps=round(effort * steps), optimizer="adamw", lr=1e-3, weight_decay=1e-4)
        phases = phases_of([t for t in given if isinstance(t, Technique)], training)
    else:
        raise RecipeError("recipe: give a Recipe, a list of phases or a list of techniques, not a mixture")
    return (Rung(name="recipe", family="", phases=phases, why="the recipe that was given"),)
