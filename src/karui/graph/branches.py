"""Where a network may be left early, and the small branches that leave it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from karui.errors import RecipeError
from karui.graph import edit, modes
from karui.graph.exits import EXIT_IF
from karui.graph.network import Network
from karui.graph.placement import BATCH_NORMS, CLAMPS, CONVOLUTIONS, LINEARS

aten = torch.ops.aten

# What a layer's own activation is finished by: a branch begins behind it, so that a runtime can still fuse it.
_FINISH = CLAMPS | BATCH_NORMS | {aten.max_pool2d.default, aten.max_pool1d.default, aten.dropout.default}
_POOLS: dict[tuple[str, int], Any] = {
    ("avg", 2): aten.avg_pool2d.default,
    ("max", 2): aten.max_pool2d.default,
    ("avg", 1): aten.avg_pool1d.default,
    ("max", 1): aten.max_pool1d.default,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a branch is made of. channels: of stages of 3 × 3 convolutions in front, none or several, each with a batch-norm and a ReLU.
    depth: convolutions of a stage, the first of stride 2. grid: the rows and columns that pooling leaves at most. pool: "avg" or "max".
    hidden: units of a linear layer before the last, 0: none.
    """

    channels: tuple[int, ...] = ()
    depth: int = 1
    grid: int
    pool: str
    hidden: int


@dataclass(frozen=True, kw_only=True)
class Exit:
    """An exit in a graph: its op, the branch's scores, the value that is taken else, and the name of the buffer with its threshold."""

    node: Node
    early: Node
    late: Node
    threshold: str


def exits_of(network: Network) -> list[Exit]:
    """The exits that make the network's only output, the one that is asked first in front."""
    found = []
    results = network.results()
    node = results[0] if len(results) == 1 else None
    while isinstance(node, Node) and node.target is EXIT_IF:
        early, late, threshold = node.args
        assert isinstance(early, Node) and isinstance(late, Node) and isinstance(threshold, Node)
        found.append(Exit(node=node, early=early, late=late, threshold=str(threshold.target)))
        node = late
    return found


def narrow_places(network: Network) -> list[Node]:
    """The values that everything later depends on, in the graph's order: nothing else made before them is read behind them.

    Neither inputs nor the output itself.
    """
    values = network.values()
    order: dict[Node, int] = {}  # what depends on an input, but for sizes
    for node in network.module.graph.nodes:
        if node.op == "placeholder" or (node.op == "call_function" and any(value in order for value in node.all_input_nodes)):
            if isinstance(values[node], Tensor | tuple | list):
                order[node] = len(order)
    found, furthest = [], -1
    for node, i in list(order.items())[:-1]:
        if furthest <= i and node.op != "placeholder" and isinstance(values[node], Tensor):
            found.append(node)
        readers = [order.get(user, len(order) if user.op == "output" else i) for user in node.users]  # a size that is asked for is no value
        furthest = max(furthest, *readers)
    return found


def ancestors(node: Node) -> set[Node]:
    """A value and all that it is computed from."""
    pending, found = [node], {node}
    while pending:
        for value in pending.pop().all_input_nodes:
            if value not in found:
                found.add(value)
                pending.append(value)
    return found


def place_named(network: Network, layer: str) -> Node:
    """The value behind a layer's own batch-norm, activation, pool and quantizer, or an input of this name. Raises RecipeError: none."""
    for node, spec in zip(network.module.graph.find_nodes(op="placeholder"), network.inputs, strict=True):
        if spec.name == layer:
            return finished(node)
    return finished(edit.end_of(network, layer))


def finished(node: Node) -> Node:
    """The value that a layer's chain of batch-norm, activation, pool and quantizer ends with."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if (user.target not in _FINISH and edit.form_on_edge(node) is None) or user.args[0] is not node:
            break
        node = user
    return node


# ── branches ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def put_exit(network: Network, value: Node, name: str, shape: Shape, seed: int) -> Exit:
    """Branch off at ``value`` and let the scores be asked before whatever makes the output now; nobody leaves (threshold +inf) yet.

    name: of the branch; its layers are ``{name}.conv1``, ``{name}.norm1``, …, ``{name}.hidden`` and ``{name}.fc``, its threshold
    ``{name}.threshold``. Raises RecipeError for a value that no branch can be made of.
    """
    (late,) = network.results()
    values = network.values()
    classes = int(values[late].shape[1])
    branch = _Branch(network, value, tuple(values[value].shape[1:]), name, seed)
    early = branch.build(shape, classes)
    network.add_buffer(f"{name}.threshold", torch.tensor(torch.inf))
    graph = network.module.graph
    (output,) = graph.find_nodes(op="output")
    with graph.inserting_before(output):
        threshold = graph.get_attr(f"{name}.threshold")
        node = graph.call_function(EXIT_IF, (early, late, threshold))
    node.meta = {"karui_layer": name, "karui_source": ""}
    output.args = (tuple(node if each is late else each for each in output.args[0]),)
    network.structure += 1
    graph.lint()
    if not network.training:
        modes.switch(graph, training=False)
    network.module.recompile()
    return Exit(node=node, early=early, late=late, threshold=f"{name}.threshold")


def remove_exit(network: Network, each: Exit) -> None:
    """Take an exit out, with its branch."""
    each.node.replace_all_uses_with(each.late)
    network.module.graph.erase_node(each.node)
    network.structure += 1
    edit.tidy(network)


class _Branch:
    """Writes the ops of a branch, one after the other, behind the value where it begins."""

    def __init__(self, network: Network, value: Node, shape: tuple[int, ...], name: str, seed: int) -> None:
        self.network, self.node, self.shape, self.name = network, value, shape, name
        self.begin = network.layer_of(value) if value.op != "placeholder" else str(value.target)
        self.generator = torch.Generator().manual_seed(seed)
        last = list(value.graph.find_nodes(op="placeholder"))[-1] if value.op == "placeholder" else value
        self.before = last.next

    def build(self, shape: Shape, classes: int) -> Node:
        """All of it; the scores."""
        if len(self.shape) not in (1, 2, 3):
            raise RecipeError(f"exits: '{self.begin}' gives values {list(self.shape)}; choose a layer of pictures, sequences or features")
        if len(self.shape) == 2 and not _channels_first(self.node):
            self.op("mean", aten.mean.dim, [1])
            self.shape = self.shape[1:]
        space = len(self.shape) - 1
        layers = [(channels, 1 if i else 2) for channels in shape.channels for i in range(shape.depth)] if space else []
        for i, (channels, stride) in enumerate(layers, 1):
            self.convolution(i, channels, stride)
        kernel = [-(-n // shape.grid) for n in self.shape[1:]]
        if any(k > 1 for k in kernel):
            self.op("pool", _POOLS[shape.pool, space], kernel, kernel)
            self.shape = (self.shape[0], *(n // k for n, k in zip(self.shape[1:], kernel, strict=True)))
        if space:
            self.op("flatten", aten.flatten.using_ints, 1)
            self.shape = (prod(self.shape),)
        if shape.hidden:
            self.linear("hidden", shape.hidden)
            self.op("hidden", aten.relu.default)
        return self.linear("fc", classes)

    def convolution(self, i: int, channels: int, stride: int) -> None:
        """The i-th: 3 × 3 (or 3), padding 1, a batch-norm, a ReLU."""
        space = len(self.shape) - 1
        weight = self.parameter(f"conv{i}.weight", _drawn((channels, self.shape[0], *[3] * space), self.generator))
        op = aten.conv2d.default if space == 2 else aten.conv1d.default
        self.op(f"conv{i}", op, weight, None, [stride] * space, [1] * space, [1] * space, 1)
        gain, bias = (self.parameter(f"norm{i}.{role}", fill(channels)) for role, fill in (("weight", torch.ones), ("bias", torch.zeros)))
        mean = self.buffer(f"norm{i}.running_mean", torch.zeros(channels))
        variance = self.buffer(f"norm{i}.running_var", torch.ones(channels))
        self.op(f"norm{i}", aten.batch_norm.default, gain, bias, mean, variance, True, 0.1, 1e-5, False)
        self.op(f"norm{i}", aten.relu.default)
        self.shape = (channels, *(-(-n // stride) for n in self.shape[1:]))

    def linear(self, layer: str, units: int) -> Node:
        """A linear layer."""
        drawn = [_drawn(size, self.generator, self.shape[0]) for size in ((units, *self.shape), (units,))]
        weight, bias = (self.parameter(f"{layer}.{role}", each) for role, each in zip(("weight", "bias"), drawn, strict=True))
        self.shape = (units,)
        return self.op(layer, aten.linear.default, weight, bias)

    def parameter(self, name: str, value: Tensor) -> Node:
        """A new parameter of the branch."""
        self.network.add_parameter(f"{self.name}.{name}", value.to(self.network.device))
        return self.read(name)

    def buffer(self, name: str, value: Tensor) -> Node:
        """A new buffer of the branch."""
        self.network.add_buffer(f"{self.name}.{name}", value.to(self.network.device))
        return self.read(name)

    def read(self, name: str) -> Node:
        """A parameter's or buffer's node."""
        with self.inserting():
            return self.node.graph.get_attr(f"{self.name}.{name}")

    def op(self, layer: str, target: Any, *more: Any) -> Node:
        """One op on the value as it stands."""
        with self.inserting():
            self.node = self.node.graph.call_function(target, (self.node, *more))
        self.node.meta = {"karui_layer": f"{self.name}.{layer}", "karui_source": ""}
        return self.node

    def inserting(self) -> AbstractContextManager[None]:
        """Where the next node goes."""
        return self.node.graph.inserting_before(self.before)


def _drawn(shape: tuple[int, ...], generator: torch.Generator, inputs: int | None = None) -> Tensor:
    """As torch's own layers draw: uniform within 1 / sqrt(inputs)."""
    bound = (inputs or prod(shape[1:])) ** -0.5
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def _channels_first(node: Node) -> bool:
    """Of a value ``[N, a, b]``: whether a are channels (of a convolution, or of an input), not tokens (of a linear layer)."""
    while node.op == "call_function":
        if node.target in CONVOLUTIONS:
            return True
        if node.target in LINEARS | {aten.layer_norm.default, aten.embedding.default} or not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return True
