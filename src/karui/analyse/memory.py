"""The greatest number of activation bytes that live at once, read off the graph.

A value lives from the op that makes it until its last reader has run; views and stages of a fused chain take no memory of their own (what
they look at lives on instead). The order is the graph's. What a device really needs is decided later, by the plan of the Program's arena.
"""

from dataclasses import asdict, dataclass
from typing import Any

from torch.fx import Node

from karui.analyse.cost import VIEWS, activation_bytes
from karui.graph.forms import is_form
from karui.graph.network import Network
from karui.graph.placement import is_fused


@dataclass(frozen=True, kw_only=True)
class Peak:
    """nbytes: bytes of one sample's activations at the worst moment. layer: where that is. alive: what lives then, node → bytes."""

    nbytes: int
    layer: str
    alive: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def peak(network: Network) -> Peak:
    """The worst moment of one sample's way through the graph; inputs count, parameters don't."""
    values = network.values(batch=2)
    order = [node for node in network.module.graph.nodes if node.op in ("placeholder", "call_function")]
    owner = {node: _owner(node) for node in order}
    sizes = {node: activation_bytes(node, values) for node in order if owner[node] is node and _from_activations(node)}
    last = _last_reads(network, order, owner)
    worst = Peak(nbytes=0, layer="", alive={})
    alive: dict[Node, int] = {}
    for step, node in enumerate(order):
        if node in sizes and last.get(node, -1) >= step:
            alive[node] = sizes[node]
        total = sum(alive.values())
        if total > worst.nbytes:
            worst = Peak(nbytes=total, layer=network.layer_of(node), alive={n.name: size for n, size in alive.items() if size})
        for done in [n for n in alive if last[n] <= step]:
            del alive[done]
    return worst


def _owner(node: Node) -> Node:
    """The value that holds the memory: a view's, or a form's, is that of what it looks at."""
    while (node.target in VIEWS or is_form(node)) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _from_activations(node: Node) -> bool:
    return node.op == "placeholder" or any(value.op != "get_attr" for value in node.all_input_nodes)


def _last_reads(network: Network, order: list[Node], owner: dict[Node, Node]) -> dict[Node, int]:
    """For each owner, the step of the last op that reads it; outputs are read at the very end."""
    last: dict[Node, int] = {}
    for step, node in enumerate(order):
        # A fused chain writes only at its end: what its stages read must live until then.
        for reader in [node, *([] if is_fused(node) else _stages(node))]:
            for value in reader.all_input_nodes:
                if value in owner:
                    last[owner[value]] = step
    for value in network.results():
        last[owner[value]] = len(order)
    return last


def _stages(node: Node) -> list[Node]:
    """The stages of the fused chain that ends at this node, from its end to its start."""
    stages = []
    while node.args and isinstance(node.args[0], Node) and is_fused(node.args[0]):
        node = node.args[0]
        stages.append(node)
    return stages
