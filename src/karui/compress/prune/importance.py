"""How much a weight or a channel matters: plain functions, larger is more important.

A weight's importance takes the weight as the network sees it (after masks) and returns a tensor of its shape. A channel's importance
takes, for one coupled group, the weights of every layer that produces its channels, each as ``[channels, rest]``, and returns
``[channels]``.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from karui.errors import RecipeError

WeightImportance = Callable[[Tensor], Tensor]
ChannelImportance = Callable[[Sequence[Tensor]], Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: Han et al. 2015, "Learning both weights and connections for efficient neural networks", §3."""
    return weight.abs()


def l2_norm(producers: Sequence[Tensor]) -> Tensor:
    """``Σ_producers ‖w_c‖₂``: He et al. 2018, "Soft filter pruning", eq. 2 with p = 2, summed over a group (Fang et al. 2023)."""
    return torch.stack([weight.norm(dim=1) for weight in producers]).sum(0)


def l1_norm(producers: Sequence[Tensor]) -> Tensor:
    """``Σ_producers ‖w_c‖₁``: Li et al. 2017, "Pruning filters for efficient ConvNets", §3.1."""
    return torch.stack([weight.abs().sum(1) for weight in producers]).sum(0)


def weight_importance(rule: str | WeightImportance) -> WeightImportance:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    if callable(rule):
        return rule
    if rule != "magnitude":
        raise RecipeError(f"importance: {rule!r} is not a weight's importance: use 'magnitude' or a function weight → scores of its shape")
    return magnitude


def channel_importance(rule: str | ChannelImportance) -> ChannelImportance:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    if callable(rule):
        return rule
    known: dict[str, ChannelImportance] = {"l2_norm": l2_norm, "l1_norm": l1_norm}
    if rule not in known:
        raise RecipeError(
            f"importance: {rule!r} is not a channel's importance: use {', '.join(known)} or a function of the producers' weights"
        )
    return known[rule]
