"""Structured pruning: whole channels leave, with everything that is coupled to them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from karui.compress.prune.importance import ChannelImportance, channel_importance
from karui.compress.select import chosen, patterns
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.coupling import coupling, remove_channels
from karui.graph.network import Network
from karui.graph.spaces import Coupling, Group


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Technique):
    """Remove the least important channels of every coupled group, at once, before the phase's training.

    Li et al. 2017, "Pruning filters for efficient ConvNets", §3, with groups after Fang et al. 2023, "DepGraph", §3.2: channels that meet
    in an add, a depthwise convolution or a shared layer are scored and removed together. Groups whose channels must stay (outputs, a
    normalisation over channels, ops without a rule) are left whole, and told with the reason.

    pruning_ratio: the share of channels to remove from each group, in [0, 1). round_to: keep a multiple of this many channels where a group
    has as many (SIMD lanes). importance: "l2_norm", "l1_norm", or a function of the producers' weights. include, exclude: patterns over the
    names of the layers that produce channels; a group is pruned only if all its producers are chosen.
    """

    stage: ClassVar[Stage] = "structure"

    pruning_ratio: float = 0.5
    round_to: int = 1
    importance: Literal["l2_norm", "l1_norm"] | ChannelImportance = "l2_norm"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.pruning_ratio < 1:
            raise RecipeError(f"pruning_ratio: expected the share of channels to remove, in [0, 1), got {self.pruning_ratio}")
        if self.round_to < 1:
            raise RecipeError(f"round_to: expected 1 or more channels, got {self.round_to}")
        channel_importance(self.importance)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    def attach(self, network: Network, context: Context) -> "ChannelsPruned":
        """Cut the network; parameters are replaced before training begins."""
        found = coupling(network)
        groups = {number: group for number, group in found.groups.items() if self._chosen(group)}
        if not groups:
            raise RecipeError(
                f"include {list(self.include)} and exclude {list(self.exclude)} leave no group of channels of '{network.name}'"
            )
        fixed = {group.name: group.fixed for group in groups.values() if group.fixed}
        free = {number: group for number, group in groups.items() if not group.fixed}
        keep = {number: self._keep(network, group) for number, group in free.items()}
        remove_channels(network, found, keep)
        for name, reason in fixed.items():
            context.report(f"'{name}' keeps its channels: {reason}")
        return ChannelsPruned(_facts(found, keep, fixed))

    def _chosen(self, group: Group) -> bool:
        return all(chosen(name, self.include, self.exclude) for name, _ in group.producers)

    def _keep(self, network: Network, group: Group) -> Tensor:
        """Which channels of a group stay (bool ``[channels]``); of equals, the first."""
        weights = [edit.value_of(network, name).movedim(axis, 0).flatten(1) for name, axis in group.producers]
        scores = channel_importance(self.importance)(weights)
        if scores.shape != (group.channels,):
            raise RecipeError(f"importance: gave shape {list(scores.shape)} for the {group.channels} channels of '{group.name}'")
        order = torch.argsort(scores, descending=True, stable=True)
        keep = torch.zeros(group.channels, dtype=torch.bool)
        keep[order[: kept_count(group.channels, self.pruning_ratio, self.round_to)].cpu()] = True
        return keep


class ChannelsPruned(Attached):
    """Nothing is left to do but to tell."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def finish(self) -> dict[str, Any]:
        """How many channels each group had and kept, and why the others were left whole."""
        return self.facts


def kept_count(channels: int, pruning_ratio: float, round_to: int) -> int:
    """How many channels stay: the multiple of ``round_to`` nearest to what the ratio asks for; at least one step, never more than all."""
    wanted = channels * (1.0 - pruning_ratio)
    return min(channels, max(round_to, round_to * math.floor(wanted / round_to + 0.5)))


def _facts(found: Coupling, keep: Mapping[int, Tensor], fixed: Mapping[str, str]) -> dict[str, Any]:
    groups = {found.groups[n].name: {"channels": found.groups[n].channels, "kept": int(mask.sum())} for n, mask in keep.items()}
    return {"groups": groups, "fixed": dict(fixed)}
