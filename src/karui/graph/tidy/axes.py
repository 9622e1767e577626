"""Permutes that undo each other → none: a value that lies permuted goes on as it lies, through every op to which the order is all one.

Frameworks that keep channels last (Keras, TensorFlow) put a permute before and one behind each convolution. Here every value is looked at
as ``permute(base, order)``; ops that work element by element, or along axes that can be renamed, are moved onto the base, and only what
needs the written order gets a permute. What is left of the old ones is dead code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, Node, map_arg

from karui.graph.forms import is_form
from karui.graph.network import Network
from karui.graph.tidy.noise import free_views

aten = torch.ops.aten
Order = tuple[int, ...]

_UNARY = frozenset(
    getattr(aten, name).default
    for name in "relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh silu gelu elu selu celu leaky_relu softplus mish log_sigmoid abs"
    " neg exp log sqrt rsqrt square sin cos erf sign clamp clamp_min clamp_max clone contiguous reciprocal round floor ceil".split()
) | {aten.pow.Tensor_Scalar, aten.add.Scalar, aten.mul.Scalar, aten.sub.Scalar, aten.div.Scalar, aten.to.dtype, aten.rsub.Scalar}
_BINARY = frozenset(
    {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default, aten.minimum.default, aten.rsub.Tensor}
)
_ALONG: Mapping[Any, int] = {  # op → place of the axis
    aten.softmax.int: 1,
    aten.log_softmax.int: 1,
    aten.slice.Tensor: 1,
    aten.narrow.default: 1,
    aten.split.Tensor: 2,
    aten.split_with_sizes.default: 2,
    aten.chunk.default: 2,
}
_REDUCTIONS = frozenset({aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default})


def is_permute(node: Node) -> bool:
    """Whether a node only puts axes into another order."""
    return node.target in (aten.permute.default, aten.transpose.int, aten.movedim.int)


def order_of(node: Node, rank: int) -> Order:
    """Which axis of its input each axis of a permute's value is."""
    args: Any = node.args
    if node.target is aten.permute.default:
        return tuple(axis % rank for axis in args[1])
    order = list(range(rank))
    a, b = args[1] % rank, args[2] % rank
    if node.target is aten.transpose.int:
        order[a], order[b] = order[b], order[a]
    else:
        order.insert(b, order.pop(a))
    return tuple(order)


def settle(network: Network, *, chance: bool = False) -> bool:
    """Cancel permutes, if fewer of them are left then; returns whether it changed the graph.

    chance: dropout may move, too: the same share of other elements.
    """
    before = count(network)
    if before < 2:
        return False
    twin = network.copy()
    _Walk(graph=twin.module.graph, ranks=_ranks(network, twin), chance=chance).run()
    if count(twin) >= before:
        return False
    free_views(twin.module.graph)
    twin.module.recompile()
    network.become(twin)
    return True


def count(network: Network) -> int:
    """How many permutes there are."""
    return sum(is_permute(node) for node in network.module.graph.nodes)


def _ranks(network: Network, twin: Network) -> dict[Node, tuple[int, ...]]:
    """The shape of each node of the twin, for a batch of two."""
    values = network.values()
    shapes = {}
    for node, copy in zip(network.module.graph.nodes, twin.module.graph.nodes, strict=True):
        value = network.get(str(node.target)) if node.op == "get_attr" else values.get(node)
        if isinstance(value, torch.Tensor):
            shapes[copy] = tuple(int(size) for size in value.shape)
    return shapes


@dataclass
class _Walk:
    """One pass over the graph. ``held``: value → (base, order), where it is ``permute(base, order)`` of something else."""

    graph: Graph
    ranks: dict[Node, tuple[int, ...]]
    chance: bool
    held: dict[Node, tuple[Node, Order]] = field(default_factory=dict)
    made: dict[tuple[Node, Order], Node] = field(default_factory=dict)

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "call_function" and is_permute(node):
                base, order = self.of(node.args[0])
                step = order_of(node, len(order))
                self.held[node] = base, tuple(order[axis] for axis in step)
            elif node.op == "output" or not self._moved(node):
                self._settled(node)
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()

    def of(self, value: Any) -> tuple[Node, Order]:
        """A value as a base and an order."""
        return self.held.get(value, (value, tuple(range(len(self.ranks[value])))))

    def _settled(self, node: Node) -> None:
        """Give an op its operands in the order in which they were written."""

        def written(value: Node) -> Node:
            return self._written(value, node) if value in self.held else value

        node.args, node.kwargs = map_arg(node.args, written), map_arg(node.kwargs, written)

    def _written(self, value: Node, before: Node) -> Node:
        base, order = self.held[value]
        if order == tuple(range(len(order))):
            return base
        if (base, order) not in self.made:
            with self.graph.inserting_before(before):
                moved = [axis for place, axis in enumerate(order) if place != axis]
                swap = (aten.transpose.int, (base, *moved[::-1])) if len(moved) == 2 else (aten.permute.default, (base, list(order)))
                self.made[base, order] = self._new(*swap, {}, value)
        return self.made[base, order]

    def _new(self, target: Any, args: Any, kwargs: Any, like: Node) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        node.meta = dict(like.meta)
        return node

    def _moved(self, node: Node) -> bool:
        """Move the op onto the bases of its operands, if it can be and any of them lies permuted."""
        if not any(value in self.held for value in node.all_input_nodes):
            return False
        if node.target is aten.dropout.default and self.chance:
            return self.unary(node)
        for targets, move in _MOVES.items():
            if node.target in targets:
                return move(self, node)
        if is_form(node) and node.args[0] in self.held:
            return self._form(node)
        if node.op == "call_function" and str(node.target) == "<built-in function getitem>":
            return self._item(node)
        return False

    def _replaced(self, node: Node, args: Sequence[Any], order: Order, axis_gone: bool = False) -> bool:
        with self.graph.inserting_before(node):
            new = self._new(node.target, tuple(args), dict(node.kwargs), node)
        if node in self.ranks:
            shape = self.ranks[node]
            laid = [0] * len(order)
            for place, axis in enumerate(order):
                laid[axis] = shape[place]
            self.ranks[new] = tuple(laid)
        self.held[node] = new, order
        return True

    # ── the kinds of op ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def unary(self, node: Node) -> bool:
        base, order = self.of(node.args[0])
        if any(value in self.held for value in node.all_input_nodes[1:]):
            return False
        return self._replaced(node, (base, *node.args[1:]), order)

    def _form(self, node: Node) -> bool:
        """A quantizer on an activation; scales along an axis go with it."""
        base, order = self.of(node.args[0])
        args = list(node.args)
        if len(args) > 5 and args[5] is not None:
            args[5] = order[int(args[5]) % len(order)]  # type: ignore[arg-type]
        return self._replaced(node, (base, *args[1:]), order)

    def binary(self, node: Node) -> bool:
        operands = node.args[:2]
        orders = [self.held[value][1] for value in operands if isinstance(value, Node) and value in self.held]
        order = orders[0]
        moved = []
        for value in operands:
            laid = self._laid(value, order, node)
            if laid is None:
                return False
            moved.append(laid[0])
        if len(order) != len(self.ranks.get(node, ())):
            return False
        return self._replaced(node, (*moved, *node.args[2:]), order)

    def _laid(self, value: Any, order: Order, before: Node) -> tuple[Any] | None:
        """An operand as it lies under ``order``: a number, a value held so, a constant, or what is so thin that a permute moves nothing."""
        if not isinstance(value, Node):
            return (value,)
        if value in self.held:
            return (self.held[value][0],) if self.held[value][1] == order else None
        shape = self.ranks[value]
        if len(shape) == 0:
            return (value,)
        full = (1,) * (len(order) - len(shape)) + shape
        if len(full) != len(order):
            return None
        constant = value.op == "get_attr" or (value.op == "call_function" and not value.all_input_nodes)
        if not constant and sum(size > 1 for size in full[1:]) > 1:
            return None
        inverse = [order.index(axis) for axis in range(len(order))]
        with self.graph.inserting_before(before):
            whole = value if len(shape) == len(order) else self._new(aten.reshape.default, (value, list(full)), {}, value)
            if not constant:  # only one axis is longer than 1: a reshape says it without a permute
                laid = self._new(aten.reshape.default, (whole, [-1, *(full[axis] for axis in inverse[1:])]), {}, value)
                return (laid,) if inverse[0] == 0 else None
            return (self._new(aten.permute.default, (whole, inverse), {}, value),)

    def along(self, node: Node) -> bool:
        place = _ALONG[node.target]
        base, order = self.of(node.args[0])
        args = [base, *node.args[1:]]
        axis = int(args[place]) if len(args) > place else 0  # type: ignore[arg-type]
        args += [0] * (place + 1 - len(args))
        args[place] = order[axis % len(order)]
        return self._replaced(node, args, order)

    def _item(self, node: Node) -> bool:
        parts, order = self.held[node.args[0]]  # type: ignore[index]
        return self._replaced(node, (parts, *node.args[1:]), order)

    def concat(self, node: Node) -> bool:
        values = node.args[0]
        orders = {self.of(value)[1] for value in values}  # type: ignore[union-attr]
        if len(orders) != 1:
            return False
        order = orders.pop()
        axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
        return self._replaced(node, ([self.of(value)[0] for value in values], order[axis % len(order)]), order)  # type: ignore[union-attr]

    def reduction(self, node: Node) -> bool:
        base, order = self.of(node.args[0])
        rank = len(order)
        dims = node.args[1] if len(node.args) > 1 else None
        if not isinstance(dims, list | tuple) or not dims:
            return False
        gone = [int(dim) % rank for dim in dims]
        keeps = bool(node.args[2]) if len(node.args) > 2 else False
        left = [order[place] for place in range(rank) if keeps or place not in gone]
        ranked = sorted(left)
        after = tuple(range(rank)) if keeps else tuple(ranked.index(axis) for axis in left)
        after = order if keeps else after
        return self._replaced(node, (base, [order[place] for place in gone], *node.args[2:]), after)

    def pad(self, node: Node) -> bool:
        base, order = self.of(node.args[0])
        rank, pads = len(order), [int(n) for n in node.args[1]]  # type: ignore[union-attr, arg-type]
        if node.target is aten.pad.default and len(node.args) > 2 and node.args[2] != "constant":
            return False
        ends = {order[rank - 1 - i // 2]: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)}
        first = min((axis for axis, both in ends.items() if any(both)), default=rank)
        laid = [n for axis in range(rank - 1, first - 1, -1) for n in ends.get(axis, (0, 0))]
        return self._replaced(node, (base, laid, *node.args[2:]), order)


_MOVES: Mapping[frozenset[Any], Callable[[_Walk, Node], bool]] = {
    _UNARY: _Walk.unary,
    _BINARY: _Walk.binary,
    frozenset(_ALONG): _Walk.along,
    frozenset({aten.cat.default}): _Walk.concat,
    _REDUCTIONS: _Walk.reduction,
    frozenset({aten.constant_pad_nd.default, aten.pad.default}): _Walk.pad,
}
