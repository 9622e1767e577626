"""Attention that is spelled out → ``aten.scaled_dot_product_attention`` (Vaswani et al. 2017, arXiv:1706.03762, eq. 1)."""

from typing import Any

import torch
from torch.fx import Node

from karui.graph import edit
from karui.graph.network import Network
from karui.graph.tidy.reading import Reader, reader, replaced

aten = torch.ops.aten

_PRODUCTS = (aten.matmul.default, aten.bmm.default)


def name_attention(network: Network) -> bool:
    """Replace ``softmax(c · q kᵀ + mask) v`` by one op, where the mask is a constant or absent; returns whether any was found."""
    ends = [node for op in _PRODUCTS for node in network.module.graph.find_nodes(op="call_function", target=op)]
    softmaxes = [node for node in ends if _alone(node.args[0], aten.softmax.int)]
    if not softmaxes:
        return False
    read, values = reader(network), network.values()
    shapes = {node: tuple(value.shape) for node, value in values.items() if isinstance(value, torch.Tensor)}
    found = [_named(network, read, shapes, node) for node in softmaxes]
    if any(found):
        edit.tidy(network)
    return any(found)


def _named(network: Network, read: Reader, shapes: dict[Node, tuple[int, ...]], end: Node) -> bool:
    weights: Any = end.args[0]
    rank = len(shapes[weights])
    if weights.args[1] not in (-1, rank - 1):
        return False
    scores, mask = _unmasked(read, weights.args[0])
    scale, factors = read.product(scores, own=False)
    product = factors[0] if len(factors) == 1 else None
    if product is None or product.target not in _PRODUCTS or len(product.users) != 1 or scale <= 0:
        return False
    q: Any = product.args[0]
    v: Any = end.args[1]
    step = _keys(product.args[1], rank)
    if step is None or not rank == len(shapes[q]) == len(shapes[v]) >= 3:
        return False
    base, order = step
    if tuple(shapes[base][axis] for axis in order[:-2]) != shapes[q][:-2] or shapes[v][:-2] != shapes[q][:-2]:
        return False
    k = base
    if order != list(range(rank)):
        with network.module.graph.inserting_before(product):
            k = network.module.graph.call_function(aten.permute.default, (base, order))
        k.meta = {key: value for key, value in product.meta.items() if key != "val"}
    replaced(network, end, aten.scaled_dot_product_attention.default, (q, k, v, mask), {"scale": scale})
    return True


def _alone(value: Any, op: Any) -> bool:
    return isinstance(value, Node) and value.target is op and len(value.users) == 1


def _unmasked(read: Reader, value: Any) -> tuple[Any, Node | None]:
    """The scores without a mask of buffers that is added to them, and that mask."""
    if _alone(value, aten.add.Tensor) and not value.kwargs:
        for mask, scores in (value.args, value.args[::-1]):
            if isinstance(mask, Node) and mask.op == "get_attr" and str(mask.target) in read.buffers and isinstance(scores, Node):
                return scores, mask
    return value, None


def _keys(value: Any, rank: int) -> tuple[Node, list[int]] | None:
    """``(x, order)`` where a value is kᵀ and k is ``x`` with its axes in this order."""
    if not isinstance(value, Node) or len(value.users) != 1:
        return None
    args: Any = value.args
    if value.target is aten.transpose.int and {axis % rank for axis in args[1:3]} == {rank - 2, rank - 1}:
        return args[0], list(range(rank))
    if value.target is aten.permute.default and len(args[1]) == rank:
        order = [axis % rank for axis in args[1]]
        return args[0], [*order[:-2], order[-1], order[-2]]
    return None
