"""Where activation quantizers sit, and which of them must share a scale.

The rule (tried bit for bit against integer kernels): the graph's input, and the end of every chain that starts at an op that makes new
numbers (a convolution, a linear layer, an add, a mean, a cat …) and goes on through batch-norm and clamping while the value has one user.
Ops that only move numbers (max-pool, flatten, dropout …) keep the quantizer of their input.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from karui.graph.forms import is_form
from karui.graph.network import Network

aten = torch.ops.aten

CONVOLUTIONS: frozenset[Any] = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
    }
)
LINEARS: frozenset[Any] = frozenset({aten.linear.default})
ADDS: frozenset[Any] = frozenset({aten.add.Tensor, aten.mul.Tensor})
MEANS: frozenset[Any] = frozenset({aten.mean.dim, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool1d.default})
POOLS: frozenset[Any] = frozenset({aten.avg_pool2d.default, aten.avg_pool1d.default})
CATS: frozenset[Any] = frozenset({aten.cat.default})
UNARY: frozenset[Any] = frozenset(
    getattr(aten, name).default
    for name in "sigmoid tanh silu gelu hardswish hardsigmoid leaky_relu elu softplus mish prelu celu selu log_sigmoid".split()
)
CLAMPS: frozenset[Any] = frozenset({aten.relu.default, aten.relu6.default, aten.hardtanh.default})
BATCH_NORMS: frozenset[Any] = frozenset({aten.batch_norm.default})

# Each number comes out as it went in, so the scale stays.
MOVES: frozenset[Any] = CLAMPS | frozenset(
    {
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.flatten.using_ints,
        aten.view.default,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.squeeze.dim,
        aten.squeeze.default,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.dropout.default,
        aten.feature_dropout.default,
        aten.contiguous.default,
        aten.clone.default,
        aten.expand.default,
        aten.constant_pad_nd.default,
        aten.pad.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
        aten.flip.default,
        aten.roll.default,
        aten.upsample_nearest1d.vec,
        aten.upsample_nearest1d.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest2d.default,
    }
)


def activation_points(network: Network) -> list[Node]:
    """The nodes whose value is quantized, in the graph's order, each once; quantizers that are there already don't hide them."""
    points: dict[Node, None] = {}
    for node in network.module.graph.nodes:
        if node.op == "placeholder":
            if _input_is_float(network, node):
                points[node] = None
        elif _starts(node):
            points[_end(node)] = None
    return list(points)


def _input_is_float(network: Network, node: Node) -> bool:
    return any(spec.name == node.target and spec.dtype.startswith("float") for spec in network.inputs)


def _starts(node: Node) -> bool:
    """Whether a node makes new numbers from an activation (not from parameters alone)."""
    if node.op != "call_function":
        return False
    if node.target not in CONVOLUTIONS | LINEARS | ADDS | MEANS | POOLS | CATS | UNARY:
        return False
    return any(_from_input(value) for value in node.all_input_nodes)


def _from_input(node: Node) -> bool:
    """Whether a value depends on the network's input."""
    pending, seen = [node], set()
    while pending:
        value = pending.pop()
        if value.op == "placeholder":
            return True
        if value not in seen:
            seen.add(value)
            pending.extend(value.all_input_nodes)
    return False


def _end(start: Node) -> Node:
    """The end of the chain that starts here."""
    node = start
    fuses = CLAMPS | BATCH_NORMS if start.target in CONVOLUTIONS | LINEARS else CLAMPS
    if start.target in CATS | UNARY | POOLS:
        return node
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target not in fuses or user.args[0] is not node:
            break
        node = user
    return node


def source_of(node: Node) -> Node:
    """The value that a value's numbers come from: back through ops that only move numbers, and through forms."""
    while (node.target in MOVES or is_form(node)) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def is_fused(node: Node) -> bool:
    """Whether a value is only a stage of a chain (a convolution before its batch-norm and clamp): no runtime keeps it in memory."""
    start = node
    while start.target in CLAMPS | BATCH_NORMS and isinstance(start.args[0], Node) and len(start.args[0].users) == 1:
        start = start.args[0]
    if start.target not in CONVOLUTIONS | LINEARS | ADDS | MEANS:
        return False
    return node is not _end(start) and len(node.users) == 1


def shared_scales(network: Network) -> list[tuple[Node, ...]]:
    """Groups of activation points that integer kernels want in one scale: what a cat joins, and an average pool's input and output.

    A group holds at least two points, in the graph's order; points in no group are free.
    """
    points = activation_points(network)
    group = {point: {point} for point in points}
    for node in network.module.graph.nodes:
        if node.target not in CATS | POOLS or node not in group:
            continue
        for value in node.all_input_nodes:
            point = _point_behind(value, group)
            if point is not None and group[point] is not group[node]:
                merged = group[point] | group[node]
                group.update(dict.fromkeys(merged, merged))
    found = {id(members): members for members in group.values() if len(members) > 1}
    return [tuple(point for point in points if point in members) for members in found.values()]


def _point_behind(value: Node, points: Mapping[Node, object]) -> Node | None:
    """The activation point that a value's numbers come from, if it is one."""
    while value not in points:
        if not (value.target in MOVES or is_form(value)) or not isinstance(value.args[0], Node):
            return None
        value = value.args[0]
    return value
