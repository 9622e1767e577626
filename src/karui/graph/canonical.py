"""An exported program → the graph that karui edits.

Afterwards: plain inputs and a tuple of outputs; functional ops only; positional arguments; one get_attr node per name; one op for each
meaning, and ``aten.flatten.using_ints`` for a reshape that flattens; no guards, asserts, counters or dead code. Each node's meta holds
``karui_layer`` (the path of the user's module and the op) and ``karui_source`` (file:line of the user's code), nothing else.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from karui.errors import CaptureError
from karui.graph.functional import functionalize, where

aten = torch.ops.aten

_TORCH = os.path.dirname(torch.__file__) + os.sep
_LEAVES = ("torch.nn.", "karui.graph.doors.keras.Leaf")  # one layer each, named by its path alone
_RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
# These only mark a value for autograd or copy a constant that nobody writes into.
_TRANSPARENT = (aten.lift_fresh_copy.default, aten.detach.default, aten.alias.default)
# One name per meaning; the arguments are the same.
_SYNONYMS: Mapping[Any, Any] = {
    aten.absolute.default: aten.abs.default,
    aten.broadcast_to.default: aten.expand.default,
    aten.clip.default: aten.clamp.default,
    aten.concat.default: aten.cat.default,
    aten.concatenate.default: aten.cat.default,
    aten.divide.Tensor: aten.div.Tensor,
    aten.linalg_matmul.default: aten.matmul.default,
    aten.max.other: aten.maximum.default,
    aten.min.other: aten.minimum.default,
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.negative.default: aten.neg.default,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.swapaxes.default: aten.transpose.int,
    aten.swapdims.default: aten.transpose.int,
    aten.true_divide.Tensor: aten.div.Tensor,
}


def canonical(program: ExportedProgram, aliases: Mapping[str, str]) -> tuple[GraphModule, tuple[str, ...]]:
    """The graph of ``program`` and its outputs' names; ``aliases`` maps a parameter's other names to its first.

    Raises CaptureError for what can't be written this way.
    """
    raw = program.module(check_guards=False)
    assert isinstance(raw, GraphModule)
    graph = raw.graph
    names = _output_names(raw)
    graph.set_codegen(CodeGen())
    values = {node: node.meta.get("val") for node in graph.nodes}
    for node in graph.nodes:
        _label(node)
        _refuse_subgraph(node)
        _refuse_values(node, values[node])
    for node in graph.nodes:
        _positional(node)
    _merge_attributes(graph, aliases)
    functionalize(graph)
    _bypass(graph)
    for node in graph.nodes:
        node.target = _SYNONYMS.get(node.target, node.target)
    _flatten_reshapes(graph, values)
    names = _flat_outputs(graph, names)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    graph.lint()
    return GraphModule(raw, graph, class_name="Network"), names


def _label(node: Node) -> None:
    """Reduce a node's meta to the layer's path and the user's line."""
    stack = node.meta.get("nn_module_stack") or {}
    source = user_line(node.meta.get("stack_trace") or "")
    path, kind = next(reversed(stack.values())) if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    path = re.sub(r"@\d+", "", path)
    leaf = kind.startswith(_LEAVES) and ".container." not in kind
    op = node.target._schema.name.split("::")[-1] if isinstance(node.target, OpOverload) else node.name
    layer = path if leaf and path else ".".join(filter(None, (path, op.removesuffix("_"))))
    node.meta = {"karui_layer": layer, "karui_source": source} if node.op == "call_function" else {}


def user_line(trace: str) -> str:
    """``file:line`` of the innermost frame of a stack trace that lies outside torch, or an empty string."""
    found = [(file, line) for file, line in re.findall(r'File "([^"]+)", line (\d+)', trace) if not file.startswith((_TORCH, "<"))]
    return f"{found[-1][0]}:{found[-1][1]}" if found else ""


def _refuse_subgraph(node: Node) -> None:
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        return
    if "grad_enabled" in str(node.target):
        raise CaptureError(f"{where(node)}: torch.no_grad() inside forward; freeze parameters with requires_grad_(False) instead")
    if "autocast" in str(node.target):
        raise CaptureError(f"{where(node)}: torch.autocast inside forward; take it out (fine-tuning has amp=True for that)")
    raise CaptureError(f"{where(node)}: {node.target} holds a graph of its own, which karui can't edit; write it as plain tensor code")


def _refuse_values(node: Node, value: Any) -> None:
    """A size or a number that is read out of a tensor's values changes from batch to batch."""
    sizes = [value] if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) else list(getattr(value, "shape", ()))
    if any(free_unbacked_symbols(size) for size in sizes if not isinstance(size, int)):
        raise CaptureError(
            f"{where(node)}: {node.target} makes a number or a shape of a tensor's values (.item(), nonzero, boolean indexing), so it is no"
            " single graph; try torch.where, or move it out of forward"
        )


def _positional(node: Node) -> None:
    """Move keyword arguments that have a place to their place, so that readers need not look in two spots."""
    if not isinstance(node.target, OpOverload) or not node.kwargs:
        return
    args, kwargs = list(node.args), dict(node.kwargs)
    places = [a for a in node.target._schema.arguments if not a.kwarg_only]
    last = max((i for i, a in enumerate(places) if a.name in kwargs), default=-1)
    for place in places[len(args) : last + 1]:
        args.append(kwargs.pop(place.name) if place.name in kwargs else place.default_value)
    node.args, node.kwargs = tuple(args), kwargs


def _merge_attributes(graph: Graph, aliases: Mapping[str, str]) -> None:
    """One get_attr node per name, and one name per tensor."""
    first: dict[str, Node] = {}
    for node in list(graph.find_nodes(op="get_attr")):
        node.target = aliases.get(str(node.target), str(node.target))
        known = first.setdefault(node.target, node)
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def _bypass(graph: Graph) -> None:
    for node in graph.nodes:
        if node.target in _TRANSPARENT:
            node.replace_all_uses_with(node.args[0])


def _flatten_reshapes(graph: Graph, values: Mapping[Node, Any]) -> None:
    """``x.view(x.size(0), -1)`` and its many spellings → ``aten.flatten.using_ints(x, start, end)``, wherever axes are only merged."""
    for node in graph.nodes:
        if node.target not in _RESHAPES or not isinstance(values.get(node.args[0]), torch.Tensor):
            continue
        run = _merged_run(tuple(values[node.args[0]].shape), tuple(values[node].shape))
        if run is not None:
            node.target = aten.flatten.using_ints
            node.args = (node.args[0], *run)


def _merged_run(before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[int, int] | None:
    """Which axes (first, last; −1 for the end) were merged into one, the batch apart; None if that is not what happened."""
    merged = len(before) - len(after)
    if merged < 1 or len(after) < 2 or str(before[0]) != str(after[0]):
        return None
    for start in range(1, len(after)):
        end = start + merged
        product = 1
        for size in before[start : end + 1]:
            product = product * size
        rebuilt = (*before[:start], product, *before[end + 1 :])
        if tuple(map(str, rebuilt)) == tuple(map(str, after)):
            return start, end if end < len(before) - 1 else -1
    return None


def _output_names(module: GraphModule) -> tuple[str, ...]:
    """A name for each flat output: the keys of a dict, else its place."""
    spec = module.graph._codegen.pytree_info.out_spec if hasattr(module.graph._codegen, "pytree_info") else None
    if spec is None:
        return ()
    paths = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))[0]
    names = ["_".join(re.findall(r"\w+", pytree.keystr(path))) for path, _ in paths]
    return tuple("output" if not name else f"output_{name}" if name[0].isdigit() else name for name in names)


def _flat_outputs(graph: Graph, names: tuple[str, ...]) -> tuple[str, ...]:
    """Make the output a plain tuple of tensors; a ``None`` among the outputs is left out."""
    output = next(iter(graph.find_nodes(op="output")))
    flat = pytree.tree_leaves(output.args[0], is_leaf=lambda x: isinstance(x, Node))
    names = names if len(names) == len(flat) else tuple(f"output_{i}" for i in range(len(flat)))
    kept = [(name, value) for name, value in zip(names, flat) if value is not None]
    for name, value in kept:
        if not isinstance(value, Node):
            raise CaptureError(f"output '{name}' is the constant {value!r}, not a tensor; return tensors only")
    output.args = (tuple(value for _, value in kept),)
    return ("output",) if len(kept) == 1 and kept[0][0].startswith("output") else tuple(name for name, _ in kept)


def renamed(module: GraphModule, names: Mapping[str, str]) -> GraphModule:
    """The same graph with other names for its nodes."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in module.graph.nodes:
        args = torch.fx.node.map_arg(node.args, copies.__getitem__)
        kwargs = torch.fx.node.map_arg(node.kwargs, copies.__getitem__)
        copies[node] = graph.create_node(node.op, node.target, args, kwargs, name=names.get(node.name, node.name))
        copies[node].meta = dict(node.meta)
    return GraphModule(module, graph, class_name="Network")
