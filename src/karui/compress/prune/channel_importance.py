"""How much a channel matters: plain functions of one group as it is ``Seen``, larger is more important.

What leaves together is a *unit* of a group: one channel, the same channel of several layers, or all channels of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from karui.compress.prune.evidence import Evidence
from karui.compress.select import rule_named
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.carry import argument
from karui.graph.network import Network
from karui.graph.spaces import Coupling, Group, Ids, Role


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A group of channels, as an importance may look at it; every tensor is ``[units, rest]``, a row for what leaves with a unit.

    name: the group's. weights: of the layers that make the channels. What follows is worked out when it is asked for: ``readers``, the
    weights of the layers that read them; ``scales``, the gains of batch-norms on them; and the gradients of the mean loss over the
    calibration samples with regard to each of the three.
    """

    name: str
    units: int
    weights: tuple[Tensor, ...]
    _other: Callable[[Role, bool], tuple[Tensor, ...]]

    @property
    def readers(self) -> tuple[Tensor, ...]:
        """The weights that read the channels."""
        return self._other("in", False)

    @property
    def scales(self) -> tuple[Tensor, ...]:
        """What each channel is multiplied with in a norm; biases and statistics aren't in it."""
        return self._other("scale", False)

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        """Of ``weights``."""
        return self._other("out", True)

    @property
    def scale_gradients(self) -> tuple[Tensor, ...]:
        """Of ``scales``."""
        return self._other("scale", True)


ChannelImportance = Callable[[Seen], Tensor]


def seen_of(network: Network, found: Coupling, group: Group, evidence: Evidence) -> Seen:
    """One group of a network."""

    def rows(role: Role, gradient: bool) -> tuple[Tensor, ...]:
        taken = []
        for member in found.members:
            if member.role == role and np.isin(found.units[member.ids[member.ids >= 0]], group.units).any():
                if role == "scale" and not _is_gain(network, member.parameter):
                    continue
                value = evidence.gradient(member.parameter) if gradient else edit.value_of(network, member.parameter)
                taken.append(by_unit(value.movedim(member.axis, 0).reshape(len(member.ids), -1), member.ids, found, group))
        return tuple(taken)

    return Seen(name=group.name, units=len(group.units), weights=rows("out", False), _other=rows)


def _is_gain(network: Network, parameter: str) -> bool:
    """Whether a vector beside the channels is what a norm multiplies them with."""
    node = network.node_of(parameter)
    return any("_norm" in str(user.target) and argument(user, "weight") is node for user in node.users)


def by_unit(rows: Tensor, ids: Ids, found: Coupling, group: Group) -> Tensor:
    """``[units, rest]`` from a row for each entry of an axis: those of one unit side by side, zeros where it has fewer than others."""
    units = np.where(ids >= 0, found.units[np.maximum(ids, 0)], -1)
    places = {unit: place for place, unit in enumerate(group.units.tolist())}
    place = np.array([places.get(unit, -1) for unit in units.tolist()])
    order = np.argsort(place, kind="stable")
    order = order[place[order] >= 0]
    held = place[order]
    counts = np.bincount(held, minlength=len(group.units))
    slot = np.arange(len(held)) - np.repeat(np.cumsum(counts) - counts, counts)
    result = rows.new_zeros(len(group.units), int(counts.max(initial=1)), rows.shape[1])
    result[torch.from_numpy(held), torch.from_numpy(slot)] = rows[torch.from_numpy(order)]
    return result.flatten(1)


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def l2_norm(seen: Seen) -> Tensor:
    """``Σ_layers ‖w_c‖₂``: He et al. 2018, "Soft filter pruning", eq. 2 with p = 2, summed over a group (Fang et al. 2023)."""
    return _total([weight.norm(dim=1) for weight in seen.weights], seen)


def l1_norm(seen: Seen) -> Tensor:
    """``Σ_layers ‖w_c‖₁``: Li et al. 2017, "Pruning filters for efficient ConvNets", §3.1."""
    return _total([weight.abs().sum(1) for weight in seen.weights], seen)


def bn_scale(seen: Seen) -> Tensor:
    """``Σ_norms |γ_c|``: Liu et al. 2017, "Learning efficient convolutional networks through network slimming"; without a norm l2_norm."""
    return _total([scale.abs().sum(1) for scale in seen.scales], seen) if seen.scales else l2_norm(seen)


def taylor(seen: Seen) -> Tensor:
    """``Σ_layers (Σ_k w_ck · ∂L/∂w_ck)²``: Molchanov et al. 2019, "Importance estimation for neural network pruning", eq. 8, over weights.

    Summed over channel c's weights it is the loss that setting all of them to zero costs, to first order.
    """
    return _total([(weight * gradient).sum(1) ** 2 for weight, gradient in zip(seen.weights, seen.gradients, strict=True)], seen)


def taylor_bn(seen: Seen) -> Tensor:
    """``Σ_norms (γ_c · ∂L/∂γ_c)²``: Molchanov et al. 2019, §4.2, the gate taken from the batch-norm's gain. Without a norm: taylor."""
    if not seen.scales:
        return taylor(seen)
    return _total([(scale * gradient).sum(1) ** 2 for scale, gradient in zip(seen.scales, seen.scale_gradients, strict=True)], seen)


def _total(scores: Sequence[Tensor], seen: Seen) -> Tensor:
    return torch.stack(list(scores)).sum(0)


RULES: dict[str, ChannelImportance] = {
    "l2_norm": l2_norm,
    "l1_norm": l1_norm,
    "bn_scale": bn_scale,
    "taylor": taylor,
    "taylor_bn": taylor_bn,
}


def channel_importance(rule: str | ChannelImportance) -> ChannelImportance:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    return rule_named(rule, RULES, "importance", kind="a channel's importance", form="Seen → scores [units]")


def scores_of(rule: str | ChannelImportance, seen: Seen) -> Tensor:
    """The rule's scores, checked: ``[units]``, on the CPU. Raises RecipeError for another shape or NaN."""
    scores = channel_importance(rule)(seen)
    if scores.shape != (seen.units,):
        raise RecipeError(f"importance: gave shape {list(scores.shape)} for the {seen.units} channels of '{seen.name}'")
    if bool(scores.isnan().any()):
        raise RecipeError(f"importance: gave NaN for '{seen.name}'; check the rule, and that the weights are finite")
    return scores.detach().float().cpu()
