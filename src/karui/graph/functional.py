"""In-place ops → functional ones, with later readers moved to the result; mutation that can't be moved safely is refused."""

from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

from karui.errors import CaptureError

aten = torch.ops.aten

# Functional twins whose name or overload is not simply the same without the underscore.
TWINS: dict[Any, Any] = {
    aten.bernoulli_.float: aten.bernoulli.p,
    aten.detach_.default: aten.detach.default,
    aten.zero_.default: aten.zeros_like.default,
    aten.normal_.default: aten.normal_functional.default,
}

# These hand back their very input in some cases without saying so in their schema.
SOMETIMES_VIEWS = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default}


def functionalize(graph: Graph) -> None:
    """Rewrite every in-place op of the graph; raises CaptureError where a mutated tensor is seen through a view."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    storage: dict[Node, Node] = {}  # value → the first value that holds its memory
    for node in list(graph.nodes):
        written = _written(node)
        if written is None:
            source = _aliased(node)
            storage[node] = node if source is None else storage.get(source, source)
            continue
        storage[node] = node  # after the rewrite it is a new tensor
        if written.op == "get_attr" and str(written.target).endswith("num_batches_tracked"):
            continue  # a counter: nothing reads it, it goes as dead code
        _refuse_state(node, written)
        _refuse_views(node, written, storage, order)
        for user in list(written.users):
            if user is not node and order[user] > order[node]:
                user.replace_input_with(written, node)
        _substitute(node, _twin(node))


def _written(node: Node) -> Node | None:
    """The value that this node overwrites, if it is an in-place op."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return None
    for place, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            if place == 0 and isinstance(node.args[0], Node):
                return node.args[0]
            raise CaptureError(
                f"{where(node)}: {node.target} writes into its argument '{argument.name}'; use the form that returns a new tensor"
            )
    return None


def _aliased(node: Node) -> Node | None:
    """The value whose memory this node's value may share."""
    if node.op != "call_function" or not node.args:
        return None
    first = node.args[0]
    if not isinstance(node.target, OpOverload):
        return first if isinstance(first, Node) else None  # getitem
    shares = node.target in SOMETIMES_VIEWS or any(a.alias_info is not None for a in node.target._schema.arguments[:1])
    return first if shares and isinstance(first, Node) else None


def _refuse_state(node: Node, written: Node) -> None:
    if written.op == "get_attr":
        known = node if node.meta.get("karui_source") else next((n for n in node.all_input_nodes if n.op == "call_function"), node)
        raise CaptureError(
            f"{where(known)}: forward changes '{written.target}' in place; karui captures networks whose forward keeps no state of its own"
            " (batch-norm's running statistics apart): move the change out of forward"
        )


def _refuse_views(node: Node, written: Node, storage: dict[Node, Node], order: dict[Node, int]) -> None:
    """Refuse if anyone reads the same memory later under another name: it would miss the change."""
    shared = storage[written]
    for other, memory in storage.items():
        if memory is not shared or other is written or other is node:
            continue
        if any(order[user] > order[node] for user in other.users):
            raise CaptureError(
                f"{where(node)}: {node.target} changes '{written.name}', which shares memory with '{other.name}' that is read later;"
                " write the change without mutation (torch.cat, torch.where, or .clone() before it)"
            )


def _twin(node: Node) -> Any:
    target = node.target
    assert isinstance(target, OpOverload)
    if target in TWINS:
        return TWINS[target]
    packet = getattr(aten, target._schema.name.split("::")[1].removesuffix("_"), None)
    twin = getattr(packet, target._overloadname, None)
    if twin is None or twin._schema.is_mutable or len(twin._schema.arguments) != len(target._schema.arguments):
        raise CaptureError(
            f"{where(node)}: {target} changes a tensor in place and has no functional twin; use an op that returns a new tensor"
        )
    return twin


def _substitute(node: Node, twin: Any) -> None:
    """Call the twin; a value that the in-place op left to its default is written out, for the twin may have none."""
    assert isinstance(node.target, OpOverload)
    places = node.target._schema.arguments
    while len(node.args) < len(places) and not places[len(node.args)].kwarg_only and places[len(node.args)].has_default_value():
        node.args = (*node.args, places[len(node.args)].default_value)
    node.target = twin


def where(node: Node) -> str:
    """``file:line (layer)`` of a captured node, as far as it is known."""
    source, layer = node.meta.get("karui_source", ""), node.meta.get("karui_layer", node.name)
    return f"{source} ('{layer}')" if source else f"'{layer}'"
