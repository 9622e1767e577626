"""Weights that come back: the least of what is kept makes way for what the loss asks for most."""

from collections.abc import Sequence
from math import cos, floor, pi

import torch
from torch import Tensor

from karui.compress.prune.allocation import largest
from karui.compress.prune.evidence import Evidence
from karui.compress.prune.masked import Masked
from karui.graph.network import Network

END = 0.75  # the share of training after which masks stay
SHARE = 0.3  # of the kept units, at first
SWAPS = 10  # in a phase: what has just grown needs time, or the next cut takes it again


def share_at(progress: float) -> float:
    """``α/2 · (1 + cos(π t / T_end))``: Evci et al. 2020, "Rigging the lottery", §3, with α = 0.3 and T_end three quarters of training."""
    return SHARE / 2 * (1 + cos(pi * min(progress / END, 1.0)))


def swaps_at(moment: float, before: float) -> bool:
    """Whether one of the moments at which units are swapped has come since the moment ``before``."""
    return moment < END and floor(moment * SWAPS + 1e-9) != floor(before * SWAPS + 1e-9)


def swap(network: Network, weights: Sequence[Masked], evidence: Evidence, progress: float) -> None:
    """In each layer, drop a share of the kept units, the smallest, and let as many others grow where the dense gradient is largest.

    Evci et al. 2020, alg. 1. What has grown starts at zero; what was only just dropped may stay, with its value.
    """
    for each in weights:
        kept = each.stays(network)
        count = int(share_at(progress) * int(kept.sum()))
        if not count or bool(kept.all()):
            continue
        sizes = each.units.scores(each.weight(network).abs()).masked_fill(~kept, -torch.inf)
        stay = largest(sizes, len(kept) - int(kept.sum()) + count)
        wanted = each.units.scores(evidence.gradient(each.name).abs()).masked_fill(stay, -torch.inf)
        _put(network, each, stay | largest(wanted, len(kept) - count))


def _put(network: Network, each: Masked, stays: Tensor) -> None:
    before, weight = each.mask(network) != 0, network.get(each.name)
    each.put(network, stays, weight.detach(), free=True)
    with torch.no_grad():
        weight.masked_fill_((each.mask(network) != 0) & ~before, 0.0)
