"""Unstructured pruning: single weights are masked, by their importance."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from karui.compress.prune.importance import WeightImportance, weight_importance
from karui.compress.prune.schedule import Schedule, ScheduleName, at_update, schedule_of, settled_at
from karui.compress.select import patterns, weights
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.network import Network

Scope = Literal["global", "layer"]
MASK = torch.ops.karui.mask.default


@dataclass(frozen=True, kw_only=True)
class Prune(Technique):
    """Mask the least important weights of convolutions and linear layers.

    Han et al. 2015, "Learning both weights and connections for efficient neural networks", §3; the cubic schedule is Zhu & Gupta 2017, "To
    prune, or not to prune", eq. 1. Masked weights get no gradient and never come back; without training everything is pruned at once.

    sparsity: the share of zeros to end with, in [0, 1). scope: "global" ranks all chosen weights together (each layer keeps one at least),
    "layer" gives every layer the same sparsity. schedule: "one_shot", "cubic", "iterative" (in ``rounds`` rounds), or a function
    ``(progress, final) → sparsity``. importance: "magnitude", or a function weight → scores. include, exclude: patterns over names.
    A parameter that has a mask already keeps it, and the zeros in it count.
    """

    stage: ClassVar[Stage] = "weights"

    sparsity: float = 0.9
    scope: Scope = "global"
    schedule: ScheduleName | Schedule = "cubic"
    rounds: int = 5
    importance: Literal["magnitude"] | WeightImportance = "magnitude"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise RecipeError(f"sparsity: expected the share of zeros in [0, 1), got {self.sparsity}")
        if self.scope not in get_args(Scope):
            raise RecipeError(f"scope: expected one of {', '.join(get_args(Scope))}, got {self.scope!r}")
        if self.rounds < 1:
            raise RecipeError(f"rounds: expected 1 or more, got {self.rounds}")
        schedule_of(self.schedule, rounds=self.rounds)
        weight_importance(self.importance)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    def attach(self, network: Network, context: Context) -> "Pruning":
        """Put a mask on every chosen weight that has none, and make the schedule's first cut."""
        names = tuple(weights(network, self.include, self.exclude))
        for name in names:
            if mask_of(network, name) is None:
                edit.put_on_parameter(network, name, MASK, state={"mask": torch.ones_like(network.get(name))})
        pruning = Pruning(self, network, names)
        if context.steps == 0:
            pruning.cut(self.sparsity)
        else:
            pruning.step(0.0)
        return pruning


class Pruning(Attached):
    """Masks at work. What was cut is read from the masks, so a resumed run goes on from them."""

    def __init__(self, settings: Prune, network: Network, names: tuple[str, ...]) -> None:
        self.settings, self.network, self.names = settings, network, names
        self.schedule = schedule_of(settings.schedule, rounds=settings.rounds)
        self.settles = settled_at(self.schedule, settings.sparsity)
        self.moment = -1.0  # of the last look at the masks; only saves looking again

    def step(self, progress: float) -> bool:
        """Cut to the sparsity of this moment, at a bounded number of moments."""
        moment = at_update(progress)
        if moment != self.moment:
            self.cut(self.schedule(moment, self.settings.sparsity))
            self.moment = moment
        return False

    def cut(self, sparsity: float) -> None:
        """Bring the masks to this sparsity, where they aren't there yet."""
        for names in [self.names] if self.settings.scope == "global" else [(name,) for name in self.names]:
            masks = [self._mask(name) for name in names]
            drop = round(sparsity * sum(mask.numel() for mask in masks))
            if drop > sum(map(zeros_in, masks)):
                self._cut(names, masks, drop)

    def _cut(self, names: tuple[str, ...], masks: list[Tensor], drop: int) -> None:
        rule = weight_importance(self.settings.importance)
        scores = []
        for name, mask in zip(names, masks, strict=True):
            score = rule(self.network.get(name).detach() * mask).flatten().float()
            if score.numel() != mask.numel():
                raise RecipeError(f"importance: gave {score.numel()} scores for the {mask.numel()} weights of '{name}'")
            score = score.masked_fill(mask.flatten() == 0, -torch.inf)
            score[score.argmax()] = torch.inf  # a layer without any weight would cut the network in two
            scores.append(score)
        keep = largest(torch.cat(scores), drop)
        for mask, part in zip(masks, keep.split([mask.numel() for mask in masks]), strict=True):
            mask.copy_(part.view_as(mask))

    def _mask(self, name: str) -> Tensor:
        found = mask_of(self.network, name)
        assert found is not None
        return self.network.get(found)

    def finish(self) -> dict[str, Any]:
        """Reach the final sparsity, whatever the schedule said; tells what share of zeros there is, in all and per layer."""
        self.cut(self.settings.sparsity)
        masks = {name: self._mask(name) for name in self.names}
        zeros = {name: zeros_in(mask) for name, mask in masks.items()}
        layers = {name: zeros[name] / mask.numel() for name, mask in masks.items()}
        return {"sparsity": sum(zeros.values()) / sum(mask.numel() for mask in masks.values()), "layers": layers}


def mask_of(network: Network, parameter: str) -> str | None:
    """The name of the mask on a parameter, if it has one."""
    return next((form.state["mask"] for form in edit.forms_on(network, parameter) if form.op is MASK), None)


def zeros_in(mask: Tensor) -> int:
    """How many entries are zero; quicker than a sum."""
    return mask.numel() - int(torch.count_nonzero(mask))


def largest(scores: Tensor, drop: int) -> Tensor:
    """True for all but the ``drop`` smallest of ``scores`` (``[N]``); of equals, those that come first are dropped."""
    if drop <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # NumPy's selection takes 0.15 s for 25 million scores, torch's kthvalue 2.5 s
    limit = float(np.partition(scores.cpu().numpy(), drop - 1)[drop - 1])
    keep = scores >= limit
    surplus = int(torch.count_nonzero(keep)) - (len(scores) - drop)
    keep[(scores == limit).nonzero().flatten()[:surplus]] = False
    return keep
