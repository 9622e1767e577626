"""What changes no number → nothing: casts to the dtype that is there already, copies, memory formats, slices of everything."""

from typing import Any

import torch
from torch.fx import Graph

from karui.graph.network import Network

aten = torch.ops.aten

_END = 9223372036854775807  # what torch writes for the end of an axis
_COPIES = (aten.clone.default, aten.contiguous.default)
_CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.type_as.default, aten._to_copy.default)


def silence(network: Network) -> bool:
    """Take out every node that gives what it was given; returns whether there was one."""
    graph = network.module.graph
    if not any(node.target in (*_COPIES, *_CASTS, aten.slice.Tensor) for node in graph.nodes):
        return False
    values, changed = network.values(), False
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in (*_COPIES, *_CASTS, aten.slice.Tensor):
            continue
        source: Any = node.args[0]
        before = network.get(str(source.target)) if source.op == "get_attr" else values.get(source)
        idle = _whole(node.args) if node.target is aten.slice.Tensor else _dtype(values.get(node)) == _dtype(before)
        if node.target in _COPIES or idle:
            node.replace_all_uses_with(source)
            changed = True
    if changed:
        free_views(graph)
        graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        network.module.recompile()
    return changed


def free_views(graph: Graph) -> None:
    """A view asks for memory in order, which nobody lays in order any more: make it a reshape."""
    for node in graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default


def _whole(args: Any) -> bool:
    """Whether a slice takes all there is."""
    _, start, end, step = [*args[1:], 0, None, None, 1][: len(args) - 1] + [0, None, None, 1][len(args) - 1 :]
    return start in (0, None) and end in (None, _END) and step == 1


def _dtype(value: Any) -> Any:
    return value.dtype if isinstance(value, torch.Tensor) else None
