"""Does the captured graph compute what the module computes? In evaluation, on the example; else which layer differs first."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from karui.errors import CaptureError
from karui.graph.network import Network

TOLERANCE = 1e-5


def tensors_of(outputs: Any) -> tuple[Tensor, ...]:
    """The tensors of a module's output, in order, whatever they are packed in."""
    return tuple(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))


def difference(a: Tensor, b: Tensor) -> float:
    """``max|a − b| / max|b|``; equal infinities and NaNs differ by nothing, shapes that disagree by infinity."""
    if a.shape != b.shape:
        return float("inf")
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a.double() - b.double()).abs())
    greatest = b.double().abs().nan_to_num(posinf=0.0).max() if b.numel() else torch.tensor(0.0)
    worst = gap.max().nan_to_num(nan=float("inf")) if gap.numel() else torch.tensor(0.0)
    return float(worst / greatest.clamp_min(1e-30))


def verify(network: Network, module: nn.Module, inputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Compare ``network.eval()`` with what ``module.eval()`` gave; raises CaptureError, which names the first layer that differs."""
    network.eval()
    with torch.no_grad():
        found = network(*inputs)
    if len(found) != len(expected):
        raise CaptureError(
            f"in training the network has {len(found)} outputs, in evaluation {len(expected)};"
            " make them the same (switch auxiliary outputs off: aux_logits=False)"
        )
    for name, a, b in zip(network.outputs, found, expected):
        gap = difference(a, b)
        if not gap <= TOLERANCE:
            layer = first_difference(network, module.eval(), inputs)
            raise CaptureError(
                f"{layer} computes something else in the graph than in evaluation (output '{name}': {gap:.1e} of its greatest value,"
                f" at most {TOLERANCE:.0e}); does its forward depend on self.training or on chance? Use torch's layers for that"
            )


def first_difference(network: Network, module: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """The innermost module, in the order in which they end, whose output differs between the module and the graph in evaluation."""
    calls: list[tuple[str, str, Tensor]] = []

    def keep(path: str, kind: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.append((path, kind, output.detach().clone()))

        return hook

    handles = [child.register_forward_hook(keep(path, type(child).__name__)) for path, child in module.named_modules() if path]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    values = _values(network, inputs)
    paths = [path for path, _, _ in calls]
    for path, kind, expected in calls:
        last = _last_of(values, path)
        if paths.count(path) == 1 and last is not None and not difference(values[last], expected) <= TOLERANCE:
            source = last.meta.get("karui_source", "")
            return f"{source}: '{path}' ({kind})" if source else f"'{path}' ({kind})"
    return f"the forward of {type(module).__name__}"


def _values(network: Network, inputs: tuple[Tensor, ...]) -> dict[Node, Tensor]:
    values: dict[Node, Tensor] = {}

    class Keep(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and n.op == "call_function":
                values[n] = value
            return value

    with torch.no_grad():
        Keep(network.module, garbage_collect_values=False).run(*inputs)
    return values


def _last_of(values: dict[Node, Tensor], path: str) -> Node | None:
    """The last node that came from a module or from within it."""
    found = None
    for node in values:
        layer = node.meta.get("karui_layer", "")
        if layer == path or layer.startswith(path + "."):
            found = node
    return found
