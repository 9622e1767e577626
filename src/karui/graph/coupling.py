"""Which channels must go together, and how they go: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", §3.

Every convolution and linear layer makes channels; the ops that follow carry each of them along the axes of their values (one rule per op,
listed in ``carry_table.py``), and join those that meet one by one: in an add, in a layer used twice, in a head. Where a channel's fate
isn't known (an output, an op without a rule) it is fixed, with the reason.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.carry import BATCH, Tracer
from karui.graph.carry_table import rule_of
from karui.graph.network import Network
from karui.graph.spaces import Coupling


def coupling(network: Network) -> Coupling:
    """The network's groups of channels, and every axis of a parameter or buffer that is made of them."""
    shapes = {node: tuple(value.shape) for node, value in network.values(BATCH).items() if isinstance(value, Tensor)}
    return Tracer(network, shapes, rule_of).trace()


def remove_channels(network: Network, found: Coupling, keep: Mapping[int, Tensor]) -> None:
    """Keep, of each group, the units where ``keep[group]`` (bool ``[units]``) is True; groups that aren't named stay whole.

    Parameters, running statistics and the state of forms shrink; so do the numbers of groups, heads and sizes that the graph spells out.
    The graph is then run at two batch sizes. Raises RecipeError: a unit that must stay, a mask of another length, or a cut that would
    leave nothing of a layer.
    """
    for number, mask in keep.items():
        group = found.groups[number]
        if len(mask) != len(group.units) or not bool(mask.any()):
            told = f"one of {len(mask)} that keeps {int(mask.sum())}"
            raise RecipeError(f"'{group.name}': expected a mask over {len(group.units)} channels that keeps one at least, got {told}")
        if not group.free[~mask.cpu().numpy()].all():
            raise RecipeError(f"'{group.name}': its channels must stay: {group.fixed}")
    kept = found.keeper(keep)
    for where, ids in found.needs:
        if not kept(ids).any():
            raise RecipeError(f"'{where}' would be left without any channel; keep one of those that it takes")
    for member in found.members:
        stays = kept(member.ids)
        if not stays.all():
            edit.resize(network, member.parameter, member.axis, torch.from_numpy(stays.nonzero()[0]))
    nodes = {node.name: node for node in network.module.graph.nodes}
    for name, mend in found.mends:
        mend(nodes[name], kept)
    network.module.recompile()
    edit.check(network)
