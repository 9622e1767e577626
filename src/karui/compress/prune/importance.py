"""How much a weight matters: plain functions of what is seen of one layer, of the weight's shape; larger is more important.

A function of the user's own has the same form: ``lambda seen: seen.weight.abs() * seen.inputs``. What it doesn't ask for isn't computed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from karui.compress.prune.evidence import Evidence
from karui.compress.select import rule_named
from karui.errors import RecipeError


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What is known of one layer's weight at the moment of a cut.

    name: the parameter's. weight: as the network sees it, zero where it is masked; with ``regrow="latent"`` what lies beneath the mask.
    """

    name: str
    weight: Tensor
    evidence: Evidence
    moved: Mapping[str, Tensor] | None = None

    @property
    def gradient(self) -> Tensor:
        """The mean of dL/dw over calibration samples; masked weights have one too."""
        return self.evidence.gradient(self.name)

    @property
    def fisher(self) -> Tensor:
        """The mean of (dL/dw)² over calibration samples."""
        return self.evidence.fisher(self.name)

    @property
    def inputs(self) -> Tensor:
        """``‖x_k‖₂`` of what the weight is multiplied with, over calibration samples; broadcasts against the weight."""
        return self.evidence.inputs(self.name)

    @property
    def movement(self) -> Tensor:
        """``−Σ w · dL/dw`` over the training steps of the phase so far."""
        if self.moved is None:
            raise RecipeError('importance: movement is only gathered for importance="movement"; use the gradient instead')
        return self.moved[self.name]


WeightImportance = Callable[[Seen], Tensor]
ImportanceName = Literal["magnitude", "l2", "taylor", "fisher", "movement", "wanda"]


def magnitude(seen: Seen) -> Tensor:
    """``|w|``: Han et al. 2015, "Learning both weights and connections for efficient neural networks", §3; of a block, the L1 norm."""
    return seen.weight.abs()


def l2(seen: Seen) -> Tensor:
    """``w²``: as magnitude for single weights of one layer; of a block, the L2 norm."""
    return seen.weight.square()


def taylor(seen: Seen) -> Tensor:
    """``(w · dL/dw)²``: Molchanov et al. 2019, "Importance estimation for neural network pruning", eq. 8, weight by weight."""
    return (seen.weight * seen.gradient).square()


def fisher(seen: Seen) -> Tensor:
    """``w² · F / 2``: how much the loss would grow (LeCun et al. 1989, "Optimal brain damage"), with the Fisher diagonal for the Hessian's.

    Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", weight by weight.
    """
    return seen.weight.square() * seen.fisher / 2


def movement(seen: Seen) -> Tensor:
    """``−Σ w · dL/dw`` while training: Sanh et al. 2020, "Movement pruning", eq. 4. Weights that grow are kept, whatever their size."""
    return seen.movement


def wanda(seen: Seen) -> Tensor:
    """``|w| · ‖x‖₂``: Sun et al. 2023, "A simple and effective pruning approach for large language models", eq. 1; needs no targets.

    It tells weights of one layer apart rather than layers: ``allocation="uniform"`` or ``"erk"`` suits it.
    """
    return seen.weight.abs() * seen.inputs


KNOWN: dict[ImportanceName, WeightImportance] = {
    "magnitude": magnitude,
    "l2": l2,
    "taylor": taylor,
    "fisher": fisher,
    "movement": movement,
    "wanda": wanda,
}


def weight_importance(rule: ImportanceName | WeightImportance) -> WeightImportance:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    return rule_named(rule, KNOWN, "importance", kind="a weight's importance", form="Seen → scores of the weight's shape")
