"""The few safe edits of a graph: put a form on a parameter or on an edge, look forms up, take them off, change shapes, check."""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node

from karui.errors import RecipeError
from karui.graph.forms import is_form
from karui.graph.network import Network


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form as it stands in the graph.

    op: the custom op. node: its node. state: the op's argument name → the name of the parameter or buffer that it reads. constants: the
    op's argument name → its number.
    """

    op: Any
    node: Node
    state: Mapping[str, str]
    constants: Mapping[str, Any]


def put_on_parameter(
    network: Network,
    parameter: str,
    op: Any,
    *,
    state: Mapping[str, Tensor] | None = None,
    args: tuple[Any, ...] | None = None,
    beneath: bool = False,
) -> Node:
    """Append a form to a parameter: after its last form, and seen by everyone who uses the parameter, however often it is tied.

    beneath: before its first form instead, for one that doesn't look at what it is given: masks then act on what it gives.
    op: ``torch.ops.karui.mask.default`` and the like. state: key → tensor, registered as ``{parameter}_{key}`` (``conv1.weight_mask``), a
    parameter where the tensor is an ``nn.Parameter``, else a buffer. args: the operands after the weight, in which a key of ``state``
    stands for its tensor; left out, they are the state in its order. Raises RecipeError if such a form is there already.
    """
    parameter = network.canonical_name(parameter)
    return _insert(network, chain_of(network, parameter)[0 if beneath else -1], op, parameter, state or {}, args)


def put_on_edge(
    network: Network,
    node: Node,
    op: Any,
    *,
    state: Mapping[str, Tensor] | None = None,
    args: tuple[Any, ...] | None = None,
    name: str | None = None,
    users: Collection[Node] | None = None,
) -> Node:
    """Put a form on a node's value and move all users of the value to it, or only ``users``; state is registered as ``{name}_{key}``.

    ``name`` defaults to the node's own. ``state`` and ``args`` are those of ``put_on_parameter``.
    """
    return _insert(network, node, op, name or node.name, state or {}, args, users)


def forms_on(network: Network, parameter: str) -> list[Form]:
    """The forms on a parameter, from the latent weight outwards."""
    return [form_of(node) for node in chain_of(network, parameter)[1:]]


def form_on_edge(node: Node) -> Form | None:
    """The form that a value goes through at once, if there is one (an activation's quantizer)."""
    if len(node.users) == 1:
        user = next(iter(node.users))
        if is_form(user) and user.args[0] is node:
            return form_of(user)
    return None


def form_of(node: Node) -> Form:
    """Read a form's node."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    state: dict[str, str] = {}
    constants: dict[str, Any] = {a.name: a.default_value for a in node.target._schema.arguments[1:] if a.has_default_value()}
    for name, value in [*list(zip(names, node.args))[1:], *node.kwargs.items()]:
        constants.pop(name, None)
        if isinstance(value, Node) and value.op == "get_attr":
            state[name] = str(value.target)
        else:
            constants[name] = value
    return Form(op=node.target, node=node, state=state, constants=constants)


def value_of(network: Network, parameter: str) -> Tensor:
    """A parameter's value after all its forms: what the layer really multiplies with. Detached."""
    chain = chain_of(network, parameter)
    with torch.no_grad():
        value = network.get(parameter).detach()
        for node in chain[1:]:
            value = _apply(network, node, value)
    return value


def remove_form(network: Network, form: Form) -> None:
    """Take a form off again, with those of its parameters and buffers that nobody else reads."""
    value = form.node.args[0]
    assert isinstance(value, Node)
    form.node.replace_all_uses_with(value)
    network.module.graph.erase_node(form.node)
    tidy(network)


def tidy(network: Network) -> None:
    """Remove nodes without users, then the parameters and buffers that no node reads; recompile."""
    graph = network.module.graph
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    read = {str(node.target) for node in graph.find_nodes(op="get_attr")}
    for name in [*network.parameters(), *network.buffers()]:
        if name not in read:
            network.remove(name)
            network.ties.pop(name, None)
    graph.lint()
    network.module.recompile()


def end_of(network: Network, layer: str) -> Node:
    """The last value that a user's layer makes: of ``conv1`` the convolution, of ``blocks.2`` what leaves the whole block.

    Raises RecipeError: no such layer; with the nearest names that there are.
    """
    inside: dict[str, Node] = {}
    for node in network.module.graph.nodes:
        if node.op == "call_function" and not is_form(node):
            path = network.layer_of(node)
            inside.update({path[:end]: node for end in (*(i for i, c in enumerate(path) if c == "."), len(path))})
    if layer not in inside:
        near = difflib.get_close_matches(layer, inside, n=3, cutoff=0.4) or list(inside)[:5]
        raise RecipeError(f"network '{network.name}' has no layer '{layer}'; there are {', '.join(map(repr, near))}")
    return inside[layer]


def tap(network: Network, node: Node, name: str) -> None:
    """Let each call of the network lay ``node``'s value down in ``network.tapped[name]``. Raises RecipeError if the name is taken."""
    if name in network.taps:
        raise RecipeError(f"network '{network.name}' is tapped as '{name}' already; choose another name")
    (output,) = network.module.graph.find_nodes(op="output")
    output.args = ((*output.args[0], node),)
    network.taps = (*network.taps, name)
    network.module.recompile()


def untap(network: Network, names: Collection[str] | None = None) -> None:
    """Take taps off again: those called ``names``, or all. Parameters that only they read go as well."""
    gone = set(network.taps if names is None else names)
    if not gone & set(network.taps):
        return
    (output,) = network.module.graph.find_nodes(op="output")
    own, tapped = network.results(), output.args[0][len(network.outputs) :]
    kept = [(name, node) for name, node in zip(network.taps, tapped, strict=True) if name not in gone]
    output.args = ((*own, *(node for _, node in kept)),)
    network.taps, network.tapped = tuple(name for name, _ in kept), {}
    tidy(network)


# ── structure ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def resize(network: Network, name: str, axis: int, keep: Tensor) -> None:
    """Keep only the entries ``keep`` (int64 indices) of a parameter or buffer along ``axis``, and of the state of the forms on it.

    Counts as a change of structure; the parameter is a new object, so optimizers must be rebuilt. Arguments of ops (``groups``, sizes in
    reshapes) are the caller's to mend; call ``check`` after all of it.
    """
    name = network.canonical_name(name)
    old = network.get(name)
    axis %= old.dim()
    keep = keep.to(old.device)
    for form in forms_on(network, name):
        channels = form.constants.get("axis", 0)
        for key, owned in form.state.items():
            state = network.get(owned).detach()
            if key == "codebook":  # of all channels, however many entries it has
                continue
            if state.shape == old.shape:
                network.set(owned, state.index_select(axis, keep))
            elif channels is not None and channels % old.dim() == axis and state.shape == old.shape[axis : axis + 1]:
                network.set(owned, state.index_select(0, keep))
    network.set(name, old.detach().index_select(axis, keep))


def replace_node(network: Network, node: Node, build: Callable[[Graph], Node]) -> Node:
    """Put the value that ``build(graph)`` makes (its nodes are inserted before ``node``) in the place of ``node``; unused state goes.

    New parameters must have been added to the network (``add_parameter``) before. Counts as a change of structure.
    """
    graph = network.module.graph
    before = set(graph.nodes)
    with graph.inserting_before(node):
        value = build(graph)
    for new in set(graph.nodes) - before:
        new.meta = {"karui_layer": network.layer_of(node), "karui_source": node.meta.get("karui_source", "")}
    node.replace_all_uses_with(value)
    network.structure += 1
    tidy(network)
    return value


def check(network: Network) -> None:
    """Run the graph at two batch sizes, in evaluation mode; raises RecipeError, which names the layer where it stops or the odd output."""
    training = network.training
    network.eval()
    try:
        shapes = [[tuple(y.shape) for y in _Named(network).run(*network.example(batch))] for batch in (2, 3)]
    finally:
        network.train(training)
    for name, two, three in zip(network.outputs, *shapes):
        if two[:1] != (2,) or three != (3, *two[1:]):
            raise RecipeError(
                f"network '{network.name}' no longer runs at any batch size: output '{name}' is {two} for 2 samples, {three} for 3"
            )


class _Named(Interpreter):
    """Runs a graph and says at which layer it stopped."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.network = network

    def run_node(self, n: Node) -> Any:
        try:
            with torch.no_grad():
                return super().run_node(n)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0][:160]
            raise RecipeError(f"'{self.network.layer_of(n)}' no longer runs after the change of structure ({n.target}): {reason}") from None


# ── how it is done ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def chain_of(network: Network, parameter: str) -> list[Node]:
    """A parameter's get_attr node and the forms on it, in order; layers read the last."""
    chain = [network.node_of(parameter)]
    while True:
        following = [user for user in chain[-1].users if is_form(user) and user.args[0] is chain[-1]]
        if not following:
            return chain
        chain.append(following[0])


def _insert(
    network: Network,
    value: Node,
    op: Any,
    prefix: str,
    state: Mapping[str, Tensor],
    args: tuple[Any, ...] | None,
    only: Collection[Node] | None = None,
) -> Node:
    operands = tuple(state) if args is None else args
    names = {key: f"{prefix}_{key}" for key in state}
    _refuse_taken(network, names, op)
    for key, tensor in state.items():
        register = network.add_parameter if isinstance(tensor, nn.Parameter) else network.add_buffer
        register(names[key], tensor)
    graph = network.module.graph
    users = [user for user in value.users if only is None or user in only]
    with graph.inserting_after(_last_input(value)):
        form = graph.call_function(op, ())
    with graph.inserting_before(form):
        nodes = {key: graph.get_attr(name) for key, name in names.items()}
    form.args = (value, *(nodes[a] if isinstance(a, str) and a in nodes else a for a in operands))
    form.meta = {"karui_layer": network.layer_of(value), "karui_source": value.meta.get("karui_source", "")}
    for user in users:
        user.replace_input_with(value, form)
    graph.lint()
    network.module.recompile()
    return form


def _last_input(value: Node) -> Node:
    """Where nodes on ``value`` may start: inputs and parameters come first in a graph, so after the last of them for one of them."""
    if value.op not in ("placeholder",):
        return value
    return list(value.graph.find_nodes(op="placeholder"))[-1]


def _refuse_taken(network: Network, names: Mapping[str, str], op: Any) -> None:
    own = network.parameters().keys() | network.buffers().keys()
    for name in names.values():
        if name in own:
            raise RecipeError(f"'{name}' is there already: {op} is on that value; change its state instead of putting it on twice")


def _apply(network: Network, form: Node, value: Tensor) -> Tensor:
    def operand(argument: Any) -> Any:
        return network.get(str(argument.target)).detach() if isinstance(argument, Node) else argument

    assert callable(form.target)
    result = form.target(value, *map(operand, form.args[1:]), **{k: operand(v) for k, v in form.kwargs.items()})
    assert isinstance(result, Tensor)
    return result
