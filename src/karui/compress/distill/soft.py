"""How far a student's answers are from its teacher's: plain functions of what both said to a batch; a scalar to minimise.

A function of the user's own has the same form: ``lambda said: (said.student - said.teacher).abs().mean()``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from karui.compress.select import rule_named
from karui.errors import RecipeError

EPSILON = 1e-8  # of a correlation: answers that are all alike have none


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """What both said to one batch.

    student, teacher: one output of each, ``[N, …]``; for rules on scores ``[rows, classes]``, where a row is a sample, or a place of a
    dense output. temperature: of this step. targets: the batch's, as the data gives them; ``labels`` those of the rows.
    """

    student: Tensor
    teacher: Tensor
    temperature: float
    targets: Any = None

    @property
    def labels(self) -> Tensor:
        """The right class of each row: ``[rows]`` int64. Raises RecipeError where the data has no such targets."""
        y = self.targets
        if not isinstance(y, Tensor) or y.is_floating_point() or y.numel() != len(self.student):
            raise RecipeError("distill: this way of matching needs one class for each score's row as target; choose match = 'kl'")
        if not 0 <= int(y.min()) <= int(y.max()) < self.student.shape[1]:
            raise RecipeError(
                f"distill: targets go from {int(y.min())} to {int(y.max())}, the scores are of {self.student.shape[1]} classes; "
                "choose match = 'kl', which needs no labels"
            )
        return y.reshape(-1)


Match = Callable[[Said], Tensor]
MatchName = Literal["kl", "dkd", "dist", "mse"]


def kl(said: Said) -> Tensor:
    """``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, the mean over rows.

    Hinton et al. 2015, "Distilling the knowledge in a neural network", §2; T² keeps the gradient's size as T grows.
    """
    theirs = F.log_softmax(said.teacher / said.temperature, dim=1)
    ours = F.log_softmax(said.student / said.temperature, dim=1)
    return _divergence(theirs, ours).mean() * said.temperature**2


def dkd(said: Said, *, target_weight: float = 1.0, other_weight: float = 8.0) -> Tensor:
    """Zhao et al. 2022, "Decoupled knowledge distillation", eq. 7: how sure of the right class, and, apart from it, how the others rank.

    In ``kl`` the second part is weighed by how unsure the teacher is, so a sure one teaches little; here it weighs ``other_weight``.
    """
    labels, t = said.labels[:, None], said.temperature
    binary = []
    for scores in (said.teacher, said.student):
        logp = F.log_softmax(scores / t, dim=1)
        right = logp.gather(1, labels)
        other = logp.scatter(1, labels, -torch.inf).logsumexp(1, keepdim=True)
        binary.append(torch.cat([right, other], dim=1))
    wrong = torch.ones_like(said.student, dtype=torch.bool).scatter(1, labels, False)
    theirs, ours = (F.log_softmax(scores[wrong].view(len(scores), -1) / t, dim=1) for scores in (said.teacher, said.student))
    target = _divergence(binary[0], binary[1]).mean()
    return (target_weight * target + other_weight * _divergence(theirs, ours).mean()) * t**2


def dist(said: Said, *, between: float = 1.0, within: float = 1.0) -> Tensor:
    """Huang et al. 2022, "Knowledge distillation from a stronger teacher", eq. 9–11: correlate, don't equal.

    between: the weight of one minus Pearson's correlation over the classes of a row; within: of that over the rows of a class.
    """
    theirs, ours = (F.softmax(scores / said.temperature, dim=1) for scores in (said.teacher, said.student))
    rows, columns = _correlation(theirs, ours), _correlation(theirs.T, ours.T)
    return (between * (1 - rows).mean() + within * (1 - columns).mean()) * said.temperature**2


def mse(said: Said) -> Tensor:
    """The mean square of the difference, of numbers as they are: for regression; of scores, what ``kl`` becomes as T grows.

    Ba and Caruana 2014, "Do deep nets really need to be deep?", eq. 1.
    """
    return F.mse_loss(said.student, said.teacher)


RULES: dict[MatchName, Match] = {"kl": kl, "dkd": dkd, "dist": dist, "mse": mse}


def match_named(match: Match | MatchName) -> Match:
    """The rule of this name, or a function as it is. Raises RecipeError."""
    return rule_named(match, RULES, "match", kind="a way of matching", form="Said → one number")


def on_scores(match: Match) -> bool:
    """Whether a rule is one of ours that wants rows of scores; ``mse``, and functions of the user's, take outputs as they are."""
    return getattr(match, "func", match) in (kl, dkd, dist)


def rows_of(scores: Tensor, axis: int) -> Tensor:
    """Scores as ``[rows, classes]`` float32; ``axis`` is where the classes lie in ``[N, …]``."""
    return scores.float().movedim(axis, -1).flatten(0, -2)


def _divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    """``KL(theirs ‖ ours)`` of each row, given logarithms."""
    return (theirs.exp() * (theirs - ours)).sum(1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, row by row."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)
