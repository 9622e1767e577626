"""Less dropout for a layer with fewer weights: they can memorise less."""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import torch
from torch import fx

from karui.graph.network import Network
from karui.graph.placement import MOVES

DROPOUTS = frozenset({torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default})


class Dropouts:
    """The dropouts whose values go into pruned layers, each with its rate before pruning and those layers' weights, by name."""

    def __init__(self, network: Network, layers: Mapping[str, Sequence[fx.Node]]) -> None:
        self.network = network
        self.rates: dict[str, float] = {}
        self.weights: dict[str, list[str]] = {}
        for name, nodes in layers.items():
            for node in nodes:
                found = _before(node)
                if found is not None:
                    self.rates[found.name] = float(found.args[1])  # type: ignore[arg-type]
                    self.weights.setdefault(found.name, []).append(name)

    def follow(self, kept: Callable[[list[str]], float]) -> None:
        """``D_r = D_o · sqrt(C_r / C_o)``: Han et al. 2015, §3.2, eq. 2; ``kept`` tells the share of weights that is left of some."""
        self._set({name: rate * sqrt(kept(self.weights[name])) for name, rate in self.rates.items()})

    def put_back(self) -> None:
        """The rates before pruning."""
        self._set(self.rates)

    def _set(self, rates: Mapping[str, float]) -> None:
        nodes = [node for node in self.network.module.graph.nodes if node.name in rates and node.args[1] != rates[node.name]]
        for node in nodes:
            node.update_arg(1, rates[node.name])
        if nodes:
            self.network.module.recompile()


def _before(layer: fx.Node) -> fx.Node | None:
    """The dropout whose value, perhaps moved or clamped, a layer reads."""
    node = layer.args[0]
    while isinstance(node, fx.Node) and node.op == "call_function":
        if node.target in DROPOUTS:
            return node if isinstance(node.args[1], float) and 0 < node.args[1] < 1 else None
        if node.target not in MOVES:
            return None
        node = node.args[0]
    return None
