"""Which channels must go together, and how they go: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", §3.

Every convolution and linear layer opens a group for its output channels; the ops that follow carry the group along one axis of their
values (one rule per op, in ``carry.py``), and join groups where channels meet one by one: an add, a mul, a layer used twice. Where a
channel's fate isn't known (an output, a normalisation over channels, an op without a rule) the group is fixed, with the reason.
"""

from collections.abc import Mapping

from torch import Tensor

from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.carry import Tracer, argument, parameter_of
from karui.graph.network import Network
from karui.graph.spaces import Coupling


def coupling(network: Network) -> Coupling:
    """The network's groups of channels, and every axis of a parameter or buffer that is made of them."""
    shapes = {node: tuple(value.shape) for node, value in network.values().items() if isinstance(value, Tensor)}
    return Tracer(network, shapes).trace()


def remove_channels(network: Network, found: Coupling, keep: Mapping[int, Tensor]) -> None:
    """Keep, of each group, the channels where ``keep[group]`` (bool ``[channels]``) is True; groups that aren't named stay whole.

    Parameters, running statistics and the state of forms shrink; so do ``groups`` of depthwise convolutions and sizes written in
    reshapes. The graph is then run at two batch sizes. Raises RecipeError: a fixed group, a mask of another length, or no channel left.
    """
    for number, mask in keep.items():
        group = found.groups[number]
        if group.fixed and not bool(mask.all()):
            raise RecipeError(f"'{group.name}': its channels must stay: {group.fixed}")
        if len(mask) != group.channels or not bool(mask.any()):
            raise RecipeError(
                f"'{group.name}': expected a mask over {group.channels} channels that keeps one at least, got {mask.tolist()}"
            )
    factors = _multipliers(network)
    for (parameter, axis), runs in found.axes.items():
        kept = found.kept(runs, keep)
        if not bool(kept.all()):
            edit.resize(network, parameter, axis, kept.nonzero().flatten())
    nodes = {node.name: node for node in network.module.graph.nodes}
    for node, place, runs in found.constants:
        sizes = list(nodes[node].args[1])
        sizes[place] = int(found.kept(runs, keep).sum())
        nodes[node].update_arg(1, sizes)
    for name, (parameter, factor) in factors.items():
        place = [a.name for a in nodes[name].target._schema.arguments].index("groups")
        nodes[name].update_arg(place, network.get(parameter).shape[0] // factor)
    network.module.recompile()
    edit.check(network)


def _multipliers(network: Network) -> dict[str, tuple[str, int]]:
    """Each grouped convolution's weight, and its output channels per group, which cutting doesn't change."""
    found = {}
    for node in network.module.graph.nodes:
        if node.op == "call_function" and "aten.conv" in str(node.target) and argument(node, "groups") > 1:
            name = parameter_of(node.args[1])
            if name is not None and "transpose" not in str(node.target):
                found[node.name] = (name, network.get(name).shape[0] // argument(node, "groups"))
    return found
