"""The contract of techniques as a suite: ``check_technique(cls)`` tries one on a small network and says what it breaks.

A technique written outside proves itself with the same call: ``check_technique(MyTechnique, setting=1)``.
"""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from karui.compress.technique import STAGES, Technique
from karui.data import Batch, Data
from karui.finetune.attach import attach_all
from karui.finetune.checkpoint import Checkpoints
from karui.finetune.loop import Training, finetune
from karui.finetune.phases import Phase
from karui.finetune.progress import SILENT, Progress
from karui.graph.network import Network
from karui.lower.lower import lower
from karui.program.interpreter import run
from karui.recipe import Recipe, dump, parse
from karui.search.scores import feeds, outputs_of
from karui.testing.subjects import small_data, small_network

STEPS = 24
TRAINING = Training(steps=STEPS, batch_size=16, lr=0.02)


def check_technique(cls: type[Technique], **settings: Any) -> None:
    """Run every check; raises AssertionError in one line that names the technique and the promise it breaks.

    settings: for a technique whose defaults don't suit a network of 1,800 parameters.
    """
    check_form(cls, settings)
    technique = cls(**settings)
    check_recipe(technique)
    check_untouched(technique)
    trained = check_training(technique)
    check_deterministic(technique, trained)
    check_resumed(technique, trained)
    check_settled(technique)
    check_saved(technique, trained)
    check_lowered(technique, trained)


def check_form(cls: type[Technique], settings: Mapping[str, Any]) -> None:
    """A frozen, keyword-only dataclass with a stage, a docstring, and settings that JSON holds exactly."""
    promise = _promise(cls)
    promise("__dataclass_fields__" in vars(cls), "is not a dataclass: write @dataclass(frozen=True, kw_only=True)")
    promise(all(f.kw_only for f in dataclasses.fields(cls)), "has positional fields: write @dataclass(frozen=True, kw_only=True)")
    promise(getattr(cls, "stage", None) in STAGES, f"has no stage: set it to one of {', '.join(STAGES)}")
    promise(bool((cls.__doc__ or "").strip()) and not (cls.__doc__ or "").startswith(f"{cls.__name__}("), "has no docstring")
    technique = cls(**settings)
    values = {f.name: getattr(technique, f.name) for f in dataclasses.fields(cls)}
    promise(cls(**json.loads(json.dumps(values))) == technique, "doesn't read back equal from its settings as JSON")


def check_recipe(technique: Technique) -> None:
    """It reads back equal from a recipe file."""
    recipe = Recipe(phases=(Phase(techniques=(technique,), training=TRAINING),))
    _promise(type(technique))(parse(dump(recipe)) == recipe, "doesn't read back equal from a recipe")


def check_untouched(technique: Technique) -> None:
    """Nothing but the network it is put on changes: neither the teacher, nor a copy, nor the data."""
    promise = _promise(type(technique))
    network, data = small_network(), small_data()
    copy, teacher = network.copy(), network.copy()
    before, fingerprint = _values(network), data.fingerprint()
    _apply(technique, network, data, teacher=teacher)
    promise(_same(_values(copy), before), "changes a copy of the network: it shares tensors")
    promise(_same(_values(teacher), before), "changes the teacher")
    promise(data.fingerprint() == fingerprint, "changes the data")


def check_deterministic(technique: Technique, trained: Network) -> None:
    """The same seed gives the same bits as it gave in ``trained``."""
    network = small_network()
    _apply(technique, network, small_data())
    _promise(type(technique))(_same(_values(network), _values(trained)), "gives another network the second time, with the same seed")


def check_resumed(technique: Technique, trained: Network) -> None:
    """Stopped in the middle, and gone on with from the checkpoint in a fresh network, it ends with the bits of ``trained``."""
    network = small_network()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoints(Path(folder) / "checkpoint", seconds=0.0)
        with contextlib.suppress(_Interrupted):
            _apply(technique, small_network(), small_data(), checkpoint=checkpoint, progress=_Interrupting())
        _apply(technique, network, small_data(), checkpoint=checkpoint)
    told = "ends otherwise where training was interrupted and gone on with: state() must tell what it remembers from step to step"
    _promise(type(technique))(_same(_values(network), _values(trained)), told)


class _Interrupted(Exception):
    pass


class _Interrupting(Progress):
    """Ends training in its middle, as a person would."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, facts: str = "", steps: int = 1) -> None:
        self.steps += steps
        if self.steps > STEPS // 2:
            raise _Interrupted


def check_settled(technique: Technique) -> None:
    """After the moment that ``Attached.settles`` tells, ``step`` leaves a network that nobody trains as it is."""
    network, data = small_network(), small_data()
    (attached,) = attach_all(network, [technique], data, teacher=network.copy().eval(), steps=STEPS, seed=0)
    settled: dict[str, Tensor] | None = None
    for step in range(STEPS):
        attached.step(step / STEPS)
        if settled is None and step / STEPS > attached.settles:  # that step may be the last move: moments fall between steps
            settled = _values(network)
    kept = settled is None or _same(settled, _values(network))
    _promise(type(technique))(kept, f"changes the network after the moment at which it settles, {attached.settles}")


def check_training(technique: Technique) -> Network:
    """It trains: finite, learning, telling the truth about replaced parameters, and with facts that JSON holds. Returns the network."""
    promise = _promise(type(technique))
    network, data = small_network(), small_data()
    before = _loss(network, data)
    facts = _apply(technique, network, data, watch=promise)
    promise(all(bool(torch.isfinite(t).all()) for t in network.state().values()), "leaves numbers that aren't finite")
    promise(_loss(network, data) < before, f"doesn't learn: the loss is no lower after {STEPS} steps than before")
    promise(json.loads(json.dumps(facts)) == facts, "tells facts that aren't plain JSON values")
    return network


def check_saved(technique: Technique, trained: Network) -> None:
    """The trained network, saved and loaded, answers the same, and learns the same."""
    promise = _promise(type(technique))
    network, data = trained.copy(), small_data()
    with tempfile.TemporaryDirectory() as folder:
        network.save(Path(folder) / "network.pt2")
        loaded = Network.load(Path(folder) / "network.pt2")
    batch = next(data.test.batches(32))
    promise(_same(_answers(network, batch), _answers(loaded, batch)), "doesn't answer the same after save and load")
    for each in (network, loaded):
        finetune(each, data, Training(steps=2, batch_size=16), seed=1)
    promise(_same(_values(network), _values(loaded)), "doesn't train the same after save and load")


def check_lowered(technique: Technique, trained: Network) -> None:
    """The trained network lowers to a program that answers as it does, up to a few steps of an 8-bit output."""
    promise = _promise(type(technique))
    program = lower(trained)
    batch = next(small_data().test.batches(32))
    answers = outputs_of(program, run(program, feeds(program, batch)))
    for name, ours in _answers(trained, batch).items():
        theirs = answers[int(name)]
        promise(ours.shape == theirs.shape, f"lowers to a program whose output is {tuple(theirs.shape)}, the network's {tuple(ours.shape)}")
        far = float((ours - theirs).abs().max()) / max(float(ours.abs().max()), 1e-6)
        promise(far < 0.05, f"lowers to a program that answers otherwise, by {100 * far:.1f} % of the largest score")


# ── how it is done ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

Promise = Callable[[bool, str], None]


def _promise(cls: type[Technique]) -> Promise:
    def promise(kept: bool, broken: str) -> None:
        if not kept:
            raise AssertionError(f"{cls.__module__}.{cls.__name__} {broken}")

    return promise


def _apply(
    technique: Technique,
    network: Network,
    data: Data,
    *,
    teacher: Network | None = None,
    watch: Promise | None = None,
    checkpoint: Checkpoints | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Attach, train, finish; returns the facts. watch: also look whether ``step`` tells of replaced parameters."""
    teacher = teacher or network.copy().eval()
    (attached,) = attach_all(network, [technique], data, teacher=teacher, steps=STEPS, seed=0)
    if watch is not None:
        honest, step = watch, attached.step

        def watched(progress: float) -> bool:
            held = dict(network.parameters())
            told = step(progress)
            replaced = not _identical(held, network.parameters())
            honest(told == replaced, f"answers {told} from step where parameters were {'' if replaced else 'not '}replaced")
            return told

        attached.step = watched  # type: ignore[method-assign]
    finetune(network, data, TRAINING, [attached], seed=0, checkpoint=checkpoint, progress=progress)
    network.eval()
    return attached.finish()


def _identical(a: Mapping[str, nn.Parameter], b: Mapping[str, nn.Parameter]) -> bool:
    return a.keys() == b.keys() and all(a[name] is b[name] for name in a)


def _values(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state().items()}


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name].numpy(), b[name].numpy(), equal_nan=True) for name in a)


def _answers(network: Network, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        return {str(i): y for i, y in enumerate(network.eval()(*batch.inputs))}


def _loss(network: Network, data: Data) -> float:
    batch = next(data.train.batches(len(data.train)))
    with torch.no_grad():
        return float(data.loss(network.eval()(*batch.inputs), batch.targets))
