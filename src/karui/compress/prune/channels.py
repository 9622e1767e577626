"""Structured pruning: whole channels leave, with everything that is coupled to them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from karui.compress.prune.channel_importance import ChannelImportance, channel_importance, scores_of, seen_of
from karui.compress.prune.evidence import Evidence
from karui.compress.select import chosen, patterns
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.errors import RecipeError
from karui.graph.coupling import coupling, remove_channels
from karui.graph.network import Network
from karui.graph.spaces import Coupling, Group

Share = Literal["uniform", "global"]
SEARCHES = 12  # halvings of the interval in which the ratio for a MAC budget lies: to 1/4096


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Technique):
    """Remove the least important channels of every coupled group, at once, before the phase's training.

    Li et al. 2017, "Pruning filters for efficient ConvNets", §3, with groups after Fang et al. 2023, "DepGraph", §3.2: channels that meet
    in an add, a depthwise convolution, a shared layer or a head are scored and removed together. Groups whose channels must stay (outputs,
    ops without a rule) are left whole, and told with the reason.

    pruning_ratio: the share of channels to remove, in [0, 1). macs: instead of it, the share of the network's MACs to leave, in (0, 1]; the
    ratio is found. allocation: "uniform" takes the ratio of each group; "global" ranks all channels together, each group's scores over
    their mean, and leaves ``floor`` of every group at least. round_to: keep a multiple of this many channels where a group has as many
    (SIMD lanes). importance: "l2_norm", "l1_norm", "bn_scale", "taylor", "taylor_bn", or a function of a group as ``Seen``. samples: of
    the calibration data, for gradients. include, exclude: patterns over the names of the layers that make channels; a group is pruned only
    if all of them are chosen.
    """

    stage: ClassVar[Stage] = "structure"

    pruning_ratio: float = 0.5
    macs: float | None = None
    allocation: Share = "uniform"
    floor: float = 0.1
    round_to: int = 1
    importance: Literal["l2_norm", "l1_norm", "bn_scale", "taylor", "taylor_bn"] | ChannelImportance = "l2_norm"
    samples: int = 512
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.pruning_ratio < 1:
            raise RecipeError(f"pruning_ratio: expected the share of channels to remove, in [0, 1), got {self.pruning_ratio}")
        if self.macs is not None and not 0 < self.macs <= 1:
            raise RecipeError(f"macs: expected the share of the MACs to leave, in (0, 1], got {self.macs}")
        if self.allocation not in get_args(Share):
            raise RecipeError(f"allocation: expected one of {', '.join(get_args(Share))}, got {self.allocation!r}")
        if not 0 <= self.floor <= 1:
            raise RecipeError(f"floor: expected the share of a group that stays at least, in [0, 1], got {self.floor}")
        for name in ("round_to", "samples"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: expected 1 or more, got {getattr(self, name)}")
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
        evidence = Evidence(network, context.data, samples=self.samples)
        scores = {n: scores_of(self.importance, seen_of(network, found, g, evidence)) for n, g in groups.items() if g.free.any()}
        before = context.cost(network).macs
        ratio = self.pruning_ratio if self.macs is None else self._ratio_for(network, found, scores, context)
        keep = self._keep(found, scores, ratio)
        remove_channels(network, found, keep)
        fixed = {group.name: group.fixed for group in groups.values() if group.fixed}
        for name, reason in fixed.items():
            context.report(f"'{name}' keeps its channels: {reason}")
        return ChannelsPruned(_facts(found, keep, fixed) | {"macs": context.cost(network).macs / max(before, 1)})

    def _chosen(self, group: Group) -> bool:
        return all(chosen(name, self.include, self.exclude) for name, _ in group.producers)

    def _ratio_for(self, network: Network, found: Coupling, scores: Mapping[int, Tensor], context: Context) -> float:
        """The smallest ratio that leaves no more than ``macs`` of the MACs, by halving. Raises RecipeError where none does."""
        goal = (self.macs or 1.0) * context.cost(network).macs

        def macs(ratio: float) -> int:
            trial = network.copy()
            remove_channels(trial, found, self._keep(found, scores, ratio))
            return context.cost(trial).macs

        low, high = 0.0, 1.0 - 1e-6
        if (least := macs(high)) > goal:
            share = least / max(context.cost(network).macs, 1)
            raise RecipeError(f"macs: {self.macs} can't be reached: {share:.3f} of the MACs stay with one channel a group; raise it")
        if macs(low) <= goal:
            return low
        for _ in range(SEARCHES):
            middle = (low + high) / 2
            low, high = (low, middle) if macs(middle) <= goal else (middle, high)
        return high

    def _keep(self, found: Coupling, scores: Mapping[int, Tensor], ratio: float) -> dict[int, Tensor]:
        """Which units of each group stay (bool ``[units]``); of equals, the first."""
        free = {number: torch.from_numpy(found.groups[number].free) for number in scores}
        shares = {number: ratio for number in scores} if self.allocation == "uniform" else _global_shares(scores, free, ratio, self.floor)
        keep = {}
        for number, each in scores.items():
            group = found.groups[number]
            ranked = each.masked_fill(~free[number], torch.inf)
            width = max(1, group.channels // len(group.units))  # channels that leave with one unit
            step = math.lcm(self.round_to, width) // width
            count = max(kept_count(len(ranked), shares[number], step), int((~free[number]).sum()))
            mask = torch.zeros(len(ranked), dtype=torch.bool)
            mask[torch.argsort(ranked, descending=True, stable=True)[:count]] = True
            keep[number] = mask
        _fill_needs(found, keep, scores)
        return keep


class ChannelsPruned(Attached):
    """Nothing is left to do but to tell."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def finish(self) -> dict[str, Any]:
        """How many channels each group had and kept, why the others were left whole, and the share of the MACs that is left."""
        return self.facts


def kept_count(channels: int, pruning_ratio: float, round_to: int) -> int:
    """How many channels stay: the multiple of ``round_to`` nearest to what the ratio asks for; at least one step, never more than all."""
    wanted = channels * (1.0 - pruning_ratio)
    return min(channels, max(round_to, round_to * math.floor(wanted / round_to + 0.5)))


def _global_shares(scores: Mapping[int, Tensor], free: Mapping[int, Tensor], ratio: float, floor: float) -> dict[int, float]:
    """Each group's own ratio, where all free channels are ranked together by their score over their group's mean."""
    relative = {number: each / each[free[number]].mean().clamp_min(torch.finfo(each.dtype).tiny) for number, each in scores.items()}
    ranked = torch.cat([each.masked_fill(~free[number], torch.inf) for number, each in relative.items()])
    gone = torch.zeros_like(ranked, dtype=torch.bool)
    gone[torch.argsort(ranked, stable=True)[: round(ratio * int(ranked.isfinite().sum()))]] = True  # of equals, the first
    parts = gone.split([len(each) for each in scores.values()])
    return {n: min(float(part.sum()) / len(part), 1 - floor) for n, part in zip(scores, parts, strict=True)}


def _fill_needs(found: Coupling, keep: Mapping[int, Tensor], scores: Mapping[int, Tensor]) -> None:
    """Where a layer would be left without any channel (half of a group that is split, say), bring its best one back."""
    places = {int(unit): (number, place) for number in keep for place, unit in enumerate(found.groups[number].units)}
    for _, ids in found.needs:
        units = [int(unit) for unit in np.unique(found.units[ids[ids >= 0]])]
        if (ids < 0).any() or any(unit not in places or bool(keep[places[unit][0]][places[unit][1]]) for unit in units):
            continue
        number, place = max((places[unit] for unit in units), key=lambda at: float(scores[at[0]][at[1]]))
        keep[number][place] = True


def _facts(found: Coupling, keep: Mapping[int, Tensor], fixed: Mapping[str, str]) -> dict[str, Any]:
    groups = {}
    for number, mask in keep.items():
        group = found.groups[number]
        member = next(m for m in found.members if (m.parameter, m.axis) == group.producers[0])
        groups[group.name] = {"channels": group.channels, "kept": int(found.kept(member.ids, {number: mask}).sum())}
    return {"groups": groups, "fixed": dict(fixed)}
