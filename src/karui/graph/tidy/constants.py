"""What is computed of constants alone → constants, and parameters that every user sees moved the same way → parameters that lie so."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node, map_arg

from karui.graph import edit
from karui.graph.network import Network

aten = torch.ops.aten

_MOVES = frozenset(
    {
        aten.permute.default,
        aten.transpose.int,
        aten.movedim.int,
        aten.t.default,
        aten.reshape.default,
        aten.view.default,
        aten.flatten.using_ints,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
    }
)


def settle_parameters(network: Network) -> None:
    """Lay parameters as their users want them: ``conv2d(x, permute(w))`` → ``conv2d(x, w)``, with the values moved once and for all."""
    while any([_settled(network, node) for node in list(network.module.graph.find_nodes(op="get_attr"))]):
        pass
    edit.tidy(network)


def _settled(network: Network, node: Node) -> bool:
    """Move one parameter by what all its users do to it first; the step is taken off the graph."""
    steps = {(user.target, repr(user.args[1:])) for user in node.users}
    first = next(iter(node.users), None)
    if first is None or len(steps) != 1 or first.target not in _MOVES or any(user.args[0] is not node for user in node.users):
        return False
    if not all(isinstance(a, int | list | tuple) and _numbers(a) for a in first.args[1:]):
        return False
    name = str(node.target)
    with torch.no_grad():
        moved = first.target(network.get(name).detach(), *first.args[1:])
    network.set(name, moved)
    for user in list(node.users):
        user.replace_all_uses_with(node)
        network.module.graph.erase_node(user)
    return True


def _numbers(value: Any) -> bool:
    return isinstance(value, int) or all(isinstance(each, int) for each in value)


def fold(network: Network) -> bool:
    """Compute what depends on buffers and numbers alone; a parameter stays what it is. Returns whether anything was computed."""
    graph = network.module.graph
    buffers = network.buffers()
    known: dict[Node, Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target) in buffers:
            known[node] = buffers[str(node.target)]
        elif _constant(node, known) and (value := _value(node, known)) is not None:
            known[node] = value
    needed = [n for n in known if n.op == "call_function" and any(user not in known for user in n.users)]
    for node in needed:
        name = _free(network, f"{network.layer_of(node)}_constant".lstrip("."))
        network.add_buffer(name, known[node])
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(name))
    if needed:
        edit.tidy(network)
    return bool(needed)


def _constant(node: Node, known: dict[Node, Tensor]) -> bool:
    return (
        node.op == "call_function"
        and isinstance(node.target, OpOverload)
        and node.target.namespace == "aten"
        and bool(node.all_input_nodes)
        and all(n in known for n in node.all_input_nodes)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


def _value(node: Node, known: dict[Node, Tensor]) -> Tensor | None:
    call: Callable[..., Any] = node.target  # type: ignore[assignment]
    with torch.no_grad():
        value = call(*map_arg(node.args, known.__getitem__), **map_arg(node.kwargs, known.__getitem__))
    return value if isinstance(value, Tensor) and value.numel() <= 1 << 20 else None


def _free(network: Network, name: str) -> str:
    taken = network.state()
    free, i = name, 2
    while free in taken:
        free, i = f"{name}_{i}", i + 1
    return free


def merge_linear(network: Network) -> None:
    """``matmul(x, w) + b`` → ``linear(x, wᵀ, b)``, and a constant added behind a convolution → its bias."""
    graph = network.module.graph
    for node in list(graph.nodes):
        if node.target is aten.matmul.default and _sole_matrix(network, node.args[1]):
            weight: Any = node.args[1]
            network.set(str(weight.target), network.get(str(weight.target)).detach().t())
            node.target, node.args = aten.linear.default, (node.args[0], weight, None)
        if node.target is aten.add.Tensor and len(node.args) == 2:
            _merged_bias(network, node)
    edit.tidy(network)


def _sole_matrix(network: Network, value: Any) -> bool:
    return isinstance(value, Node) and value.op == "get_attr" and len(value.users) == 1 and network.get(str(value.target)).dim() == 2


def _merged_bias(network: Network, node: Node) -> None:
    layer, bias = node.args[0], node.args[1]
    if not isinstance(layer, Node) or not isinstance(bias, Node) or bias.op != "get_attr" or len(layer.users) != 1 or len(bias.users) != 1:
        return
    convolution = layer.target in (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding)
    if not (convolution or layer.target is aten.linear.default) or (len(layer.args) > 2 and layer.args[2] is not None):
        return
    value = network.get(str(bias.target))
    weight: Any = layer.args[1]
    channels = network.get(str(weight.target)).shape[0] if isinstance(weight, Node) and weight.op == "get_attr" else 0
    spread = [channels, *[1] * (network.get(str(weight.target)).dim() - 2)] if convolution else [channels]
    if list(value.shape) not in (spread, [1, *spread]):
        return
    network.set(str(bias.target), value.detach().reshape(-1))
    with network.module.graph.inserting_before(layer):
        moved = network.module.graph.get_attr(str(bias.target))
    args = list(layer.args) + [None] * (3 - len(layer.args))
    args[2] = moved
    layer.args = tuple(args)
    node.replace_all_uses_with(layer)
    network.module.graph.erase_node(node)
    network.module.graph.erase_node(bias)
