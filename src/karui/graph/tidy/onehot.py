"""A one-hot vector times a matrix → a row of the matrix: ``aten.embedding``, which no device has to multiply for."""

from typing import Any

import torch
from torch.fx import Node

from karui.graph import edit
from karui.graph.network import Network
from karui.graph.tidy.reading import replaced

aten = torch.ops.aten

_CASTS = (aten.to.dtype, aten.to.dtype_layout)


def name_lookups(network: Network) -> bool:
    """Replace ``linear((ids[…, None] == arange(n)).float(), w, b)`` by ``embedding(ids, wᵀ) + b``; returns whether any was found.

    Codes outside of the matrix, of which the one-hot vector is zero, are no longer allowed.
    """
    changed = False
    for node in list(network.module.graph.find_nodes(op="call_function", target=aten.linear.default)):
        ids, weight = _codes(network, node.args[0]), node.args[1]
        if ids is None or not isinstance(weight, Node) or weight.op != "get_attr" or len(weight.users) != 1:
            continue
        network.set(str(weight.target), network.get(str(weight.target)).detach().t())
        bias: Any = node.args[2] if len(node.args) > 2 else None
        graph = network.module.graph
        with graph.inserting_before(node):
            rows = graph.call_function(aten.embedding.default, (weight, ids))
        rows.meta = dict(node.meta)
        if bias is None:
            node.replace_all_uses_with(rows)
        else:
            replaced(network, node, aten.add.Tensor, (rows, bias))
        changed = True
    if changed:
        edit.tidy(network)
    return changed


def _codes(network: Network, value: Any) -> Node | None:
    """The whole numbers of which a value is the one-hot vectors along its last axis."""
    if not isinstance(value, Node) or value.target not in _CASTS or not isinstance(value.args[0], Node):
        return None
    same = value.args[0]
    if same.target is not aten.eq.Tensor or len(same.users) != 1 or len(value.users) != 1:
        return None
    for column, counted in (same.args, same.args[::-1]):
        if not isinstance(column, Node) or not isinstance(counted, Node) or (numbers := _constant(network, counted)) is None:
            continue
        flat = numbers.flatten()
        counts = len(flat) == numbers.shape[-1] and torch.equal(flat.to(torch.int64), torch.arange(len(flat)))
        source = column.args[0] if column.args else None
        if counts and isinstance(source, Node) and _adds_an_axis(network, column, source):
            return source
    return None


def _constant(network: Network, node: Node) -> torch.Tensor | None:
    """What a node gives, if it depends on nothing."""
    if node.op == "get_attr":
        return network.get(str(node.target)).detach()
    if node.target in (aten.arange.default, aten.arange.start, aten.arange.start_step):
        return node.target(*node.args, **node.kwargs)
    return None


def _adds_an_axis(network: Network, column: Node, source: Node) -> bool:
    """Whether ``column`` is ``source`` of whole numbers with an axis of one behind it."""
    if column.target not in (aten.reshape.default, aten.view.default, aten.unsqueeze.default):
        return False
    values = network.values()
    return not values[source].dtype.is_floating_point and (*values[source].shape, 1) == tuple(values[column].shape)
