"""One network through every column of the table, in a process of its own: ``python -m benchmarks.doors.trial NAME FILE``.

FILE, JSON, is written after each column, so that one that crashes or hangs leaves what was found before it.
"""

import json
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

import karui
from benchmarks.doors.catalogue import subjects
from benchmarks.doors.opened import SAMPLES, Opened, Subject
from karui.analyse.cost import measure
from karui.compress.prune.channels import PruneChannels
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.doctor import examine, integers_only
from karui.errors import DataError, KaruiError, ToolError, UnsupportedOp, first_line
from karui.export.targets import targets
from karui.finetune.attach import attach_all, own_random_numbers
from karui.graph.network import Network
from karui.lower import lower
from karui.program import interpreter
from karui.program.layout import dequantize, to_network, to_program
from karui.program.program import Array, Program
from karui.run.runners import runners
from karui.verify.parity import TOLERANCE

TARGETS = ("c", "onnx", "litert")
COLUMNS = ("captured", "trains", "prunes", "int8", *TARGETS)
MEMORY = 16 << 30  # bytes of address space
NEAR = 0.05  # of an output's range: the root mean square by which int8 may be off where it is rounded in another way
RATIO, LITTLE, CALIBRATION = 0.3, 0.05, 8
HEAVY = ("conv1d", "conv2d", "conv_transpose2d", "linear", "matmul", "gru", "lstm")


@dataclass
class Trial:
    """What is known so far of one network; ``inputs`` and ``answers``: the original's, as karui's network has them."""

    found: dict[str, Any]
    network: Network | None = None
    inputs: tuple[Tensor, ...] = ()
    answers: list[Array] = field(default_factory=list)
    programs: dict[str, Program] = field(default_factory=dict)
    coded: bool = False


def main(name: str, file: Path) -> None:
    """The whole trial."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    (subject,) = (each for each in subjects() if each.name == name)
    found: dict[str, Any] = {"name": name, "cells": {}, "doctor": {}, "parts": {}}

    def save() -> None:
        file.write_text(json.dumps(found), encoding="utf-8")

    with TemporaryDirectory() as scratch:
        run(subject, Path(scratch), found, save)
    found["finished"] = True
    save()


def run(subject: Subject, folder: Path, found: dict[str, Any], save: Callable[[], None]) -> None:
    """Fill ``found``, and save it after each column."""
    found["at"] = "opening"
    save()
    try:
        opened = subject.open(folder)
    except (DataError, ToolError, ImportError) as reason:
        found["skipped"] = str(reason)
        return
    trial = Trial(found=found, coded=opened.coded)
    steps: list[tuple[str, Callable[[], list[str]]]] = [("captured", lambda: _captured(trial, opened))]
    steps += [("trains", lambda: _trains(trial)), ("prunes", lambda: _prunes(trial)), ("int8", lambda: _int8(trial))]
    steps += [(target, lambda target=target: _target(trial, target, folder)) for target in TARGETS]  # type: ignore[misc]
    for column, step in steps:
        found["at"] = column
        save()
        found["cells"][column] = told(step)
        if trial.network is None:
            return
    found["at"] = "doctor"
    save()
    found["doctor"] = {f.subject: [f.verdict, f.words] for f in examine(trial.network, TARGETS)}


def told(step: Callable[[], list[str]]) -> list[str]:
    """[yes, partly or no; why]."""
    try:
        return step()
    except KaruiError as error:
        return ["no", f"{type(error).__name__}: {error}"]
    except (Exception, RecursionError) as error:
        return ["no", f"fault: {first_line(error)}"]


# ── the columns ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _captured(trial: Trial, opened: Opened) -> list[str]:
    """The same outputs as the original's, of one sample at a time, while karui's network takes them all at once."""
    network = karui.capture(opened.source, opened.example).eval()
    alone = [opened.answer([x[i : i + 1] for x in opened.inputs]) for i in range(SAMPLES)]
    answers = [np.concatenate(each) for each in zip(*alone, strict=True)]
    trial.inputs = tuple(_turned(torch.from_numpy(x), spec.shape) for x, spec in zip(opened.inputs, network.inputs, strict=True))
    with torch.no_grad():
        outputs = [y.numpy() for y in network(*trial.inputs)]
    if len(outputs) != len(answers):
        return ["no", f"{len(outputs)} outputs, the original has {len(answers)}"]
    trial.answers = [_as(y, given) for y, given in zip(outputs, answers, strict=True)]
    trial.network = network
    ok, words = near(outputs, trial.answers, share=NEAR if trial.coded else None)
    return ["yes" if ok else "no", words]


def _turned(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x if x.shape[1:] == tuple(shape) else x.movedim(-1, 1)


def _as(found: Array, given: Array) -> Array:
    """The original's output as karui's network has it: pictures with their channels first."""
    given = given if given.shape == found.shape or given.ndim < 3 else np.moveaxis(given, -1, 1)
    if given.shape != found.shape:
        raise DataError(f"an output is {list(found.shape)}, the original's {list(given.shape)}")
    return given


def near(found: Sequence[Array], reference: Sequence[Array], *, share: float | None = None) -> tuple[bool, str]:
    """Whether every output is the reference's: within 1e-4 of its greatest magnitude; or, as a root mean square, within ``share`` of its
    range (of 255 steps for codes): through a deep network, or a softmax, a step in the middle becomes many at an end.
    """
    worst = 0.0
    for a, b in zip(found, reference, strict=True):
        steps = 255.0 if b.dtype == np.int8 else None
        a, b = a.astype(np.float64), b.astype(np.float64)
        if a.shape != b.shape or not np.isfinite(a).all():
            return False, f"shape {list(a.shape)} for {list(b.shape)}" if a.shape != b.shape else "NaN or infinity"
        size = np.abs(b).max(initial=0.0) if share is None else steps or (np.ptp(b) if b.size else 0.0)
        off = np.abs(a - b).max(initial=0.0) if share is None else np.sqrt(((a - b) ** 2).mean()) if b.size else 0.0
        worst = max(worst, float(off) / max(float(size), 1e-12))
    limit = TOLERANCE if share is None else share
    return worst <= limit, f"{worst:.1e} away, of {'the greatest' if share is None else 'its range (rms)'}"


def _trains(trial: Trial) -> list[str]:
    subject = _network(trial).copy().train()
    weights = {name: p for name, p in subject.parameters().items() if p.requires_grad}
    if not weights:
        return ["no", "nothing that may be trained"]
    before = {name: p.detach().clone() for name, p in weights.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=1e-3)
    loss = sum(((y.float() ** 2).mean() for y in subject(*_more(trial)) if y.is_floating_point()), torch.zeros(()))
    loss.backward()
    without = [name for name, p in weights.items() if p.grad is None]
    if any(p.grad is not None and not bool(p.grad.isfinite().all()) for p in weights.values()):
        return ["partly", "a gradient is not finite"]
    optimizer.step()
    if not any(not torch.equal(p, before[name]) for name, p in weights.items()):
        return ["no", "the step changed nothing"]
    return ["partly", f"no gradient reaches {len(without)}, such as '{without[0]}'"] if without else ["yes", f"{len(weights)} parameters"]


def _prunes(trial: Trial) -> list[str]:
    subject = _network(trial).copy()
    before = measure(subject).macs
    _attach(subject, PruneChannels(pruning_ratio=RATIO), trial)
    with torch.no_grad():
        outputs = subject.eval()(*trial.inputs)
    shapes = [tuple(y.shape) for y in outputs]
    if shapes != [a.shape for a in trial.answers]:
        return ["no", f"outputs became {shapes}"]
    share = 1 - measure(subject).macs / before if before else 0.0
    return ["yes" if share >= LITTLE else "partly", f"{share:.0%} of the MACs gone"]


def _int8(trial: Trial) -> list[str]:
    trial.programs["float"] = lower(_network(trial))
    subject = _network(trial).copy()
    _attach(subject, Quantize(), trial)
    trial.programs["int8"] = program = lower(subject.eval())
    interpreter.run(program, laid(program, trial.inputs))
    heavy = [op for op in program.ops if op.kind in HEAVY]
    integer = [op for op in heavy if program.tensor(op.outputs[0]).dtype == "int8"]
    words = f"{len(integer)} of {len(heavy)} layers in integers"
    return ["yes" if len(integer) == len(heavy) and heavy else "partly" if integer else "no", words]


def _target(trial: Trial, target: str, folder: Path) -> list[str]:
    """Floats beside the original, int8 beside the interpreter: each half with its words."""
    if "float" not in trial.programs:
        return ["no", "there is no program to write"]
    parts = {}
    for form, program in trial.programs.items():
        place = folder / target / form
        place.mkdir(parents=True)
        parts[form] = told(lambda program=program, place=place, form=form: _runs(trial, target, program, place, form))  # type: ignore[misc]
    trial.found["parts"][target] = parts
    good = [verdict == "yes" for verdict, _ in parts.values()]
    words = "; ".join(f"{form}: {said}" for form, (_, said) in parts.items())
    return ["yes" if all(good) and len(good) == 2 else "partly" if any(good) else "no", words]


def _runs(trial: Trial, target: str, program: Program, folder: Path, form: str) -> list[str]:
    runner = runners()[target](targets()[target](program, folder))
    inputs = laid(program, trial.inputs)
    found = [np.concatenate(each) for each in zip(*(runner.run([x[i : i + 1] for x in inputs]) for i in range(SAMPLES)), strict=True)]
    if form == "float":
        reals = [to_network(dequantize(program, i, y), _layout(program, i)) for i, y in enumerate(found)]
        ok, words = near(reals, trial.answers, share=NEAR if trial.coded else None)
        return ["yes" if ok else "no", words]
    expected = reference(program, inputs, target)
    if target == "c" and integers_only(program):
        wrong = sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True))
        return ["no" if wrong else "yes", f"{wrong} codes differ" if wrong else "bit-equal"]
    ok, words = near(found, expected, share=NEAR)
    return ["yes" if ok else "no", words]


def reference(program: Program, inputs: Sequence[Array], target: str) -> list[Array]:
    """The interpreter's outputs: for the runtimes in XNNPACK's arithmetic (LiteRT's, nearly onnxruntime's) where it fits.

    A network with random weights makes much of how its layers round.
    """
    if target != "c":
        with suppress(UnsupportedOp):
            return interpreter.run(program, inputs, arithmetic="xnnpack")
    return interpreter.run(program, inputs)


def _layout(program: Program, output: int) -> Any:
    return program.tensor(program.outputs[output].tensor).layout


# ── what they share ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _network(trial: Trial) -> Network:
    assert trial.network is not None
    return trial.network


def laid(program: Program, inputs: Sequence[Tensor]) -> list[Array]:
    """The network's inputs as the program takes them."""
    tensors = [program.tensor(each.tensor) for each in program.inputs]
    return [to_program(x.numpy().astype(t.dtype), t.layout) for x, t in zip(inputs, tensors, strict=True)]


def _more(trial: Trial) -> tuple[Tensor, ...]:
    """Samples for training and calibration: the inputs, again and again, each time a little different where they are reals."""
    generator = torch.Generator().manual_seed(3)
    repeated = [torch.cat([x] * -(-CALIBRATION // SAMPLES))[:CALIBRATION] for x in trial.inputs]
    return tuple(x + 0.5 * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for x in repeated)


def _attach(network: Network, technique: Technique, trial: Trial) -> None:
    inputs = _more(trial)
    part = (inputs if len(inputs) > 1 else inputs[0], torch.zeros(CALIBRATION, dtype=torch.int64))
    data = Data.of(train=part, validation=part, test=part, name="noise")
    with own_random_numbers(network):
        for attached in attach_all(network, (technique,), data, teacher=network.copy(), steps=0, seed=0):
            attached.finish()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
