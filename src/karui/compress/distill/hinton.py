"""Distillation: learn from a teacher's scores as well as from the labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from karui.compress.distill.cache import SoftTargets, key_of, soft_targets
from karui.compress.distill.soft import Match, MatchName, Said, match_named, on_scores, rows_of
from karui.compress.distill.teachers import Answers, Taught, Teacher, check_steady, evaluated, taught_by
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph.network import Network

MEMORY_BYTES = 256 * 2**20  # a teacher's answers to samples that repeat unchanged are kept in memory up to this size
CHUNK = 256  # … computed in chunks of the part's own order, so that they don't depend on how training shuffles, or where it resumed
LARGE_BATCH = 1024  # a phase that wouldn't see the whole part even in batches of this size asks for what it needs only


@dataclass(frozen=True, kw_only=True)
class Distill(Technique):
    """Hinton et al. 2015, "Distilling the knowledge in a neural network", §2, and the ways of matching that came after it.

    ``loss = α · match(student, teacher) + (1 − α) · task``; with several outputs the first term is their mean.

    teacher: None for the network as it was before any compression; a Network (its pictures may have another size), the path of a
    ``.pt2`` or ``.onnx`` file, a module, any function of the inputs; a list of such teaches their mean. temperature: T > 0, or a pair: from
    the first to the second, evenly over the phase. alpha: α in [0, 1]; 1 asks for no labels. match: "kl" (Hinton's, times T²), "dkd",
    "dist", "mse" (for regression) or a function of ``soft.Said``. axis: where the classes lie in an output ``[N, …]``.
    cache: a folder that keeps what the teacher said, augmented samples too, for resumed runs and other students; at most ``cache_bytes``.
    Raises RecipeError on attach if the two differ in their outputs' shapes, or the teacher isn't deterministic; RunError for a cache of
    another teacher or other data.
    """

    stage: ClassVar[Stage] = "loss"

    teacher: Teacher | Sequence[Teacher] | None = None
    temperature: float | tuple[float, float] = 4.0
    alpha: float = 0.9
    match: Match | MatchName = "kl"
    axis: int = 1
    cache: str | None = None
    cache_bytes: int = 2**30

    def __post_init__(self) -> None:
        if isinstance(self.teacher, list):
            object.__setattr__(self, "teacher", tuple(self.teacher))
        if isinstance(self.temperature, list):
            object.__setattr__(self, "temperature", tuple(self.temperature))
        first, last = self.temperatures
        if not (first > 0 and last > 0 and math.isfinite(first + last)):
            raise RecipeError(f"temperature: expected a number above 0, or a pair of such, got {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise RecipeError(f"alpha: expected the soft term's weight in [0, 1], got {self.alpha}")
        if self.cache_bytes < 1:
            raise RecipeError(f"cache_bytes: expected 1 or more, got {self.cache_bytes}")
        match_named(self.match)

    @property
    def temperatures(self) -> tuple[float, float]:
        """At the start of the phase, and at its end."""
        t = self.temperature
        return (t, t) if isinstance(t, int | float) else t

    def attach(self, network: Network, context: Context) -> "Distilling":
        """Check that the two answer in the same shape; the graph isn't touched."""
        taught = taught_by(self.teacher, context.teacher)
        example = network.example(2)
        asked, given = check_steady(taught, example), evaluated(network, example)
        if len(asked) != len(given):
            raise RecipeError(f"distill: the teacher has {len(asked)} outputs, the student {len(given)}; they must match one by one")
        for theirs, ours in zip(asked, given, strict=True):
            self._check(theirs, ours)
        kept = None
        if self.cache is not None:
            part, limit = context.data.train, self.cache_bytes
            kept = soft_targets(self.cache, teacher=taught.identity, part=part, answers=asked, limit=limit, note=context.report)
        bytes_each = sum(y[0].numel() * y.element_size() for y in asked)
        return Distilling(self, taught, context, kept, bytes_each)

    def _check(self, theirs: Tensor, ours: Tensor) -> None:
        told = f"distill: the teacher answers {tuple(theirs.shape[1:])}, the student {tuple(ours.shape[1:])}"
        if not on_scores(match_named(self.match)):
            if theirs.shape != ours.shape:
                raise RecipeError(f"{told}; both must answer in the same shape")
            return
        classes = ours.shape[self.axis] if -ours.dim() < self.axis < ours.dim() and self.axis else 0
        if theirs.shape != ours.shape or classes < 2:
            raise RecipeError(
                f"{told}; both must be scores of the same two or more classes, along axis {self.axis}; for other numbers, match = 'mse'"
            )


class Distilling(Attached):
    """The teacher at work: it evaluates, without gradients."""

    settles = 0.0  # a temperature that falls moves no parameter

    def __init__(self, settings: Distill, taught: Taught, context: Context, kept: SoftTargets | None, bytes_each: int) -> None:
        self.settings, self.taught, self.context, self.kept, self.bytes_each = settings, taught, context, kept, bytes_each
        self.match = match_named(settings.match)
        self.temperature = float(settings.temperatures[0])
        self.remembered: Answers | None = None

    def step(self, progress: float) -> bool:
        """The temperature of this step."""
        first, last = self.settings.temperatures
        self.temperature = first + (last - first) * progress
        return False

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        """The mean of both terms by alpha."""
        soft = [self._distance(ours, theirs, batch) for ours, theirs in zip(outputs, self.answers(batch), strict=True)]
        return self.settings.alpha * torch.stack(soft).mean() + (1.0 - self.settings.alpha) * task

    def _distance(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        if on_scores(self.match):
            ours, theirs = (rows_of(scores, self.settings.axis) for scores in (ours, theirs))
        said = Said(student=ours.float(), teacher=theirs.float(), temperature=self.temperature, targets=batch.targets)
        distance = self.match(said)
        if distance.shape != ():
            raise RecipeError("distill: match has to return one number, a tensor without axes: the mean over the batch")
        return distance

    def answers(self, batch: Batch) -> Answers:
        """The teacher's outputs: from memory or the cache where they are, else asked for."""
        if batch.index is None:
            return self.taught(*batch.inputs)
        if batch.drawn is not None:
            return _there(self._answer(batch), batch)
        if self.remembered is None:
            part = self.context.data.train
            if len(part) * self.bytes_each > MEMORY_BYTES or self.context.steps * LARGE_BATCH < len(part):
                return _there(self._answer(batch), batch)
            pieces = [_there(self._answer(chunk), batch) for chunk in part.batches(CHUNK)]
            self.remembered = tuple(torch.cat(each) for each in zip(*pieces, strict=True))
        return tuple(x[batch.index.to(x.device)] for x in self.remembered)

    def _answer(self, batch: Batch) -> Answers:
        if self.kept is None or batch.index is None:
            return self.taught(*batch.inputs)
        key = key_of(batch.index, batch.drawn)
        found = self.kept.get(key)
        return self.kept.put(key, self.taught(*batch.inputs)) if found is None else found

    def finish(self) -> dict[str, Any]:
        """Put what was said last on the disk."""
        if self.kept is not None:
            self.kept.flush()
        return {}


def _there(answers: Answers, batch: Batch) -> Answers:
    """Answers where the batch lies."""
    return tuple(y.to(batch.inputs[0].device) for y in answers)
