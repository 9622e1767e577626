"""A recipe in time: phases, one after the other, each a set of techniques and an amount of training.

With a directory, the run can be killed at any moment: finished phases lie in it as ``NN.pt2`` (the network) and ``NN.json`` (what
happened, written last), the one at work as ``NN.checkpoint``; the same call goes on from there and ends bit-equal to a run that was never
interrupted.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from karui.compress.technique import STAGES, Technique
from karui.data import Data
from karui.data.identity import identity
from karui.errors import RecipeError
from karui.finetune.attach import attach_all, own_random_numbers
from karui.finetune.checkpoint import Checkpoints, load_network
from karui.finetune.history import History
from karui.finetune.loop import Training, finetune
from karui.finetune.progress import SILENT, Progress
from karui.finetune.schedule import derive
from karui.graph.network import Network
from karui.workspace import Run

ROOM = "karui.compress."


def name_of(technique: Technique | type[Technique]) -> str:
    """The name of a technique in recipes: its file's path under ``compress``, or ``module:Class`` for one from outside."""
    kind = technique if isinstance(technique, type) else type(technique)
    return kind.__module__.removeprefix(ROOM) if kind.__module__.startswith(ROOM) else f"{kind.__module__}:{kind.__qualname__}"


def describe(value: Any) -> Any:
    """Settings as JSON values that are the same in every process (``karui.data.identity``); techniques with their names."""
    if isinstance(value, Technique) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        told = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"technique": name_of(value)} | told if isinstance(value, Technique) else told
    if isinstance(value, Mapping):
        return {str(key): describe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [describe(each) for each in value]
    return identity(value)


def _place(technique: Technique) -> tuple[int, str, str]:
    """Where a technique stands among others, whatever order they were written in."""
    return STAGES.index(technique.stage), name_of(technique), repr(describe(technique))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Techniques that are attached together, and the training they get; they are kept in one order, by stage."""

    techniques: tuple[Technique, ...] = ()
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        for technique in self.techniques:
            if not isinstance(technique, Technique):
                kind = technique.__name__ if isinstance(technique, type) else type(technique).__name__
                raise RecipeError(f"phase: '{kind}' is not a technique; give an instance, such as Prune(sparsity=0.9)")
        if not isinstance(self.training, Training):
            raise RecipeError(f"phase: training is {self.training!r}; leave it out for none, or give Training(epochs=10)")
        object.__setattr__(self, "techniques", tuple(sorted(self.techniques, key=_place)))


def phases_of(techniques: Sequence[Technique], training: Training | None = None) -> tuple[Phase, ...]:
    """Sort a flat list into phases by stage: structure, weights, numbers. Each gets ``training``; a loss joins every phase that trains.

    The order in which the list is written makes no difference. Losses alone make one phase. Raises RecipeError for a loss without training.
    """
    training = training or Training()
    everything = Phase(techniques=tuple(techniques)).techniques
    losses = tuple(t for t in everything if t.stage == "loss")
    if losses and not training.trains:
        raise RecipeError(f"'{name_of(losses[0])}' is a loss and needs training to act in; set training.epochs, or leave it out")
    stages = [tuple(t for t in everything if t.stage == stage) for stage in STAGES if stage != "loss"]
    held = [each for each in stages if each] or ([()] if losses or training.trains else [])
    return tuple(Phase(techniques=each + losses, training=training) for each in held)


@dataclass(frozen=True, kw_only=True)
class PhaseResult:
    """What one phase did. techniques: their names; facts: what each told at its end, in the same order."""

    techniques: tuple[str, ...]
    facts: tuple[dict[str, Any], ...]
    history: History


@dataclass(frozen=True, kw_only=True)
class PhasesResult:
    """The network after the last phase, in evaluation mode, and what each phase did."""

    network: Network
    phases: tuple[PhaseResult, ...]


def run_phases(
    network: Network,
    data: Data,
    phases: Sequence[Phase],
    *,
    teacher: Network | None = None,
    seed: int = 0,
    directory: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
    checkpoint_seconds: float = 20.0,
) -> PhasesResult:
    """Do the phases on a copy of ``network``; ``network`` itself stays as it is.

    teacher: what techniques may learn from; the network as given, where it is left out. directory: one for these phases alone, where the
    run can be gone on with. Raises RunError if it holds another run, what ``finetune`` raises, and what techniques raise.
    """
    first = network.copy().eval()
    teacher = (teacher or network).copy().eval()
    config = {
        "seed": seed,
        "phases": describe(phases),
        "data": {"name": data.name, "fingerprint": data.fingerprint()},
        "network": first.fingerprint(),
        "teacher": teacher.fingerprint(),
    }
    run = None if directory is None else Run.create(directory, config)
    with run.lock() if run else contextlib.nullcontext():
        done = [_told(run.json(f"{n:02}.json")) for n in _finished(run, len(phases))] if run else []
        current = load_network(run.path(f"{len(done):02}.pt2")) if run and done else first
        for number, phase in enumerate(phases[len(done) :], len(done) + 1):
            checkpoint = _checkpoint(run, number, checkpoint_seconds) if run else None
            result = _phase(current, data, phase, teacher, seed, number, checkpoint, progress, f"phase {number} of {len(phases)}")
            if run:
                current = _finish(run, number, current, result)
            done.append(result)
    return PhasesResult(network=current.eval(), phases=tuple(done))


def _finished(run: Run, count: int) -> range:
    """The numbers of the phases that are over: all before the first whose ``NN.json`` lacks."""
    numbers = range(1, count + 1)
    return range(1, next((n for n in numbers if not (run.directory / f"{n:02}.json").exists()), count + 1))


def _checkpoint(run: Run, number: int, seconds: float) -> Checkpoints:
    return Checkpoints(run.path(f"{number:02}.checkpoint"), seconds=seconds, identity=f"phase {number}")


def _told(facts: Mapping[str, Any]) -> PhaseResult:
    return PhaseResult(techniques=tuple(facts["techniques"]), facts=tuple(facts["facts"]), history=History.of_json(facts["history"]))


def _finish(run: Run, number: int, network: Network, result: PhaseResult) -> Network:
    """Put a phase's result on the disk, and go on with what was written: the next phase starts alike in a resumed run."""
    file = run.path(f"{number:02}.pt2")
    network.save(file)
    told = {"techniques": list(result.techniques), "facts": list(result.facts), "history": result.history.to_json()}
    run.write_json(f"{number:02}.json", told)
    run.path(f"{number:02}.checkpoint").unlink(missing_ok=True)
    return load_network(file)


def _plain(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """Facts as they will be when they are read back from a file: tuples become lists."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(facts, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"'{name}' finished with facts that JSON hasn't ({error}); return numbers, text, lists and dicts") from error
    return plain


def _phase(
    network: Network,
    data: Data,
    phase: Phase,
    teacher: Network,
    seed: int,
    number: int,
    checkpoint: Checkpoints | None,
    progress: Progress,
    label: str,
) -> PhaseResult:
    """Attach, train, finish."""
    names = tuple(name_of(t) for t in phase.techniques)
    with own_random_numbers(network):
        attached = attach_all(
            network,
            phase.techniques,
            data,
            teacher=teacher,
            steps=phase.training.count(data.train),
            seed=derive(seed, number),
            progress=progress,
        )
        history = finetune(
            network,
            data,
            phase.training,
            attached,
            seed=seed,
            phase=number,
            label=f"{label} ({', '.join(names) or 'training'})",
            checkpoint=checkpoint,
            progress=progress,
        )
        network.eval()
        torch.manual_seed(derive(seed, number, "finish"))
        facts = tuple(_plain(each.finish(), name) for each, name in zip(attached, names, strict=True))
    return PhaseResult(techniques=names, facts=facts, history=history)
