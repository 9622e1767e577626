"""Watching the values of a graph while data flows through it: ranges for quantizers, statistics for layer-wise methods.

An observer is a plain function ``(seen, value) -> seen``; ``seen`` is None at first and has ``low`` and ``high``. Observing runs the graph
through an interpreter in evaluation mode; it adds nothing to the graph.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from karui.graph.network import Network


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of a value."""

    low: float
    high: float


Observer = Callable[[Any, Tensor], Any]


def observe(network: Network, batches: Iterable[Any], nodes: Sequence[Node], observer: Observer) -> dict[str, Any]:
    """Run batches and let ``observer`` see the value of each of ``nodes``; returns node name → what it has seen.

    batches: ``Batch`` objects, tensors, or tuples of tensors. The network's mode is as it was afterwards.
    """
    seen: dict[str, Any] = {node.name: None for node in nodes}

    def look(node: Node, value: Any) -> None:
        seen[node.name] = observer(seen[node.name], value)

    watch(network, batches, nodes, look)
    return seen


def watch(network: Network, batches: Iterable[Any], nodes: Sequence[Node], look: Callable[[Node, Any], None]) -> None:
    """Run batches in evaluation mode without gradients and call ``look(node, value)`` for each of ``nodes``, batch after batch."""
    training = network.training
    network.eval()
    try:
        runner = _Watch(network.module, frozenset(nodes), look)
        with torch.no_grad():
            for batch in batches:
                runner.run(*inputs_of(batch))
    finally:
        network.train(training)


def inputs_of(batch: Any) -> tuple[Tensor, ...]:
    """What a network takes from a ``Batch``, a tensor or a tuple of tensors."""
    if isinstance(batch, Tensor):
        return (batch,)
    inputs = getattr(batch, "inputs", batch)
    return tuple(inputs)


class _Watch(Interpreter):
    def __init__(self, module: GraphModule, nodes: frozenset[Node], look: Callable[[Node, Any], None]) -> None:
        super().__init__(module)
        self.nodes = nodes
        self.look = look

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.nodes:
            self.look(n, value)
        return value


# ── observers ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def minmax(seen: Range | None, value: Tensor) -> Range:
    """The least and the greatest value of all batches."""
    low, high = (float(x) for x in torch.aminmax(value.detach()))
    return Range(low=low, high=high) if seen is None else Range(low=min(seen.low, low), high=max(seen.high, high))


def moving_average(seen: Range | None, value: Tensor, momentum: float = 0.9) -> Range:
    """An exponential average of the batches' least and greatest values (Jacob et al. 2018, §3.1): single outliers count little."""
    now = minmax(None, value)
    if seen is None:
        return now
    return Range(low=momentum * seen.low + (1 - momentum) * now.low, high=momentum * seen.high + (1 - momentum) * now.high)
