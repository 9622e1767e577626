"""How patterns read a graph: numbers, products, sums."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from karui.graph.network import Network

aten = torch.ops.aten

MULS = (aten.mul.Tensor, aten.mul.Scalar)
DIVS = (aten.div.Tensor, aten.div.Scalar)
ADDS = (aten.add.Tensor, aten.add.Scalar)
SUBS = (aten.sub.Tensor, aten.sub.Scalar)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads one network. ``near``: how far a number may be from the one that a formula has, as a share of it."""

    network: Network
    buffers: dict[str, torch.Tensor]
    near: float = 1e-3

    def number(self, value: Any) -> float | None:
        """A number that stands in the graph, or a buffer of one element."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, Node) and value.op == "get_attr" and str(value.target) in self.buffers:
            tensor = self.buffers[str(value.target)]
            return float(tensor) if tensor.numel() == 1 and not tensor.is_complex() else None
        return None

    def close(self, a: float | None, b: float) -> bool:
        """Whether ``a`` is the number that a formula has."""
        return a is not None and abs(a - b) <= self.near * max(abs(b), 1e-12)

    def product(self, value: Any, own: bool = True) -> tuple[float, list[Node]]:
        """A value as a number times other values; products and quotients that nobody else uses are taken apart."""
        if (number := self.number(value)) is not None:
            return number, []
        if not isinstance(value, Node) or (not own and len(value.users) != 1):
            return 1.0, [value]
        args = value.args
        if value.target in MULS:
            a, b = self.product(args[0], False), self.product(args[1], False)
            return a[0] * b[0], a[1] + b[1]
        if value.target in DIVS and len(args) == 2 and not value.kwargs and (by := self.number(args[1])):
            number, factors = self.product(args[0], False)
            return number / by, factors
        return 1.0, [value]

    def plus(self, value: Any) -> tuple[float, Node] | None:
        """``(c, x)`` where a value is ``x + c``."""
        if not isinstance(value, Node) or value.target not in ADDS or value.kwargs or len(value.args) != 2:
            return None
        a, b = value.args
        for number, other in ((a, b), (b, a)):
            found = self.number(number)
            if found is not None and isinstance(other, Node) and self.number(other) is None:
                return found, other
        return None

    def square(self, value: Any) -> Node | None:
        """``x`` where a value is ``x²``."""
        if not isinstance(value, Node):
            return None
        args: Any = value.args
        if value.target is aten.square.default or (value.target is aten.pow.Tensor_Scalar and args[1] == 2):
            return args[0]
        if value.target in MULS and args[0] is args[1]:
            return args[0]
        if value.target is aten.pow.Tensor_Tensor and self.number(args[1]) == 2:
            return args[0]
        return None


def reader(network: Network) -> Reader:
    """A reader of the network as it is now."""
    return Reader(network=network, buffers=network.buffers())


def replaced(network: Network, old: Node, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Node:
    """Put a new op in an old one's place."""
    graph = network.module.graph
    with graph.inserting_before(old):
        new = graph.call_function(op, args, kwargs or {})
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    graph.erase_node(old)
    return new
