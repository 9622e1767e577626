"""Distillation: learn from a teacher's scores as well as from the labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch, Part
from karui.errors import RecipeError
from karui.graph.network import Network

Teacher = Callable[..., Tensor | tuple[Tensor, ...]]

CACHE_BYTES = 256 * 2**20  # a teacher's answers are kept up to this size
CHUNK = 256  # … computed in chunks of the part's own order, so that they don't depend on how training shuffles, or where it resumed
LARGE_BATCH = 1024  # a phase that wouldn't see the whole part even in batches of this size asks for what it needs only


@dataclass(frozen=True, kw_only=True)
class Distill(Technique):
    """Hinton et al. 2015, "Distilling the knowledge in a neural network", §2.

    ``loss = α T² · KL(softmax(teacher / T) ‖ softmax(student / T)) + (1 − α) · task``; T² keeps the gradient's size as T grows. Scores are
    outputs ``[N, classes, …]``; with several outputs the first term is their mean.

    teacher: None for the network as it was before any compression; a Network, the path of a saved one (``.pt2``), or any function of the
    inputs. temperature: T > 0. alpha: α in [0, 1]. Raises RecipeError on attach if teacher and student differ in their outputs' shapes.
    """

    stage: ClassVar[Stage] = "loss"

    teacher: Network | Teacher | str | None = None
    temperature: float = 4.0
    alpha: float = 0.9

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RecipeError(f"temperature: expected a number above 0, got {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise RecipeError(f"alpha: expected the soft term's weight in [0, 1], got {self.alpha}")

    def attach(self, network: Network, context: Context) -> "Distilling":
        """Check that the two answer in the same shape; the graph isn't touched."""
        teacher = _frozen(self.teacher, context)
        example = network.example(2)
        asked = _answer(teacher, example)
        given = _evaluated(network, example)
        for theirs, ours in zip(asked, given, strict=False):
            if theirs.shape != ours.shape or ours.dim() < 2 or ours.shape[1] < 2:
                raise RecipeError(
                    f"distill: the teacher answers {tuple(theirs.shape[1:])}, the student {tuple(ours.shape[1:])}; "
                    "both must be scores of the same two or more classes"
                )
        if len(asked) != len(given):
            raise RecipeError(f"distill: the teacher has {len(asked)} outputs, the student {len(given)}; they must match one by one")
        return Distilling(self, teacher, context)


class Distilling(Attached):
    """The teacher at work: it evaluates, without gradients."""

    def __init__(self, settings: Distill, teacher: Teacher, context: Context) -> None:
        self.settings, self.teacher, self.context = settings, teacher, context
        self.remembered: tuple[Tensor, ...] | None = None

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        """The mean of both terms by alpha."""
        soft = [soft_loss(ours, theirs, self.settings.temperature) for ours, theirs in zip(outputs, self.answers(batch), strict=True)]
        return self.settings.alpha * torch.stack(soft).mean() + (1.0 - self.settings.alpha) * task

    def answers(self, batch: Batch) -> tuple[Tensor, ...]:
        """The teacher's scores; remembered for the whole part where samples repeat unchanged and asking once for all is less work."""
        index, part = batch.index, self.context.data.train
        if index is None:
            return _answer(self.teacher, batch.inputs)
        if self.remembered is None:
            first = _answer(self.teacher, batch.inputs)
            wanted = len(part) * sum(x[0].numel() * x.element_size() for x in first)
            if wanted > CACHE_BYTES or self.context.steps * LARGE_BATCH < len(part):
                return first
            self.remembered = _answers(self.teacher, part)
        return tuple(x[index.to(x.device)] for x in self.remembered)


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T² · KL(softmax(teacher / T) ‖ softmax(student / T))`` over axis 1, the mean over all others."""
    ours = F.log_softmax(student.float() / temperature, dim=1)
    theirs = F.log_softmax(teacher.float() / temperature, dim=1)
    return (theirs.exp() * (theirs - ours)).sum(1).mean() * temperature**2


def _frozen(teacher: Network | Teacher | str | None, context: Context) -> Teacher:
    """The teacher as a function; a network is copied, so that its mode stays evaluation whoever else uses it."""
    if isinstance(teacher, str):
        return Network.load(teacher).eval()
    if teacher is None:
        return context.teacher.copy().eval()
    if isinstance(teacher, Network):
        return teacher.copy().eval()
    if isinstance(teacher, torch.nn.Module):
        teacher.eval()
    return teacher


def _answer(teacher: Teacher, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        answer: Any = teacher(*inputs)
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def _answers(teacher: Teacher, part: Part) -> tuple[Tensor, ...]:
    """Its scores for every sample of the part, in order."""
    pieces = [_answer(teacher, batch.inputs) for batch in part.batches(CHUNK)]
    return tuple(torch.cat(each) for each in zip(*pieces, strict=True))


def _evaluated(network: Network, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(*inputs)
    finally:
        network.train(training)
