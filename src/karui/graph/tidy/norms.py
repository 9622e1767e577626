"""Layer norms that are spelled out → ``aten.layer_norm`` (Ba et al. 2016, arXiv:1607.06450, eq. 4)."""

from typing import Any

import torch
from torch.fx import Node

from karui.graph.network import Network
from karui.graph.tidy.reading import ADDS, DIVS, MULS, SUBS, Reader, reader, replaced

aten = torch.ops.aten

_ROOTS = (aten.sqrt.default, aten.rsqrt.default, aten.pow.Tensor_Scalar)


def name_norms(network: Network) -> bool:
    """Replace ``(x − mean) / sqrt(variance + eps) · weight + bias`` by a layer-norm; returns whether any was found."""
    if not any(node.target in _ROOTS for node in network.module.graph.nodes):
        return False
    read, changed, values = reader(network), False, network.values()
    for node in list(network.module.graph.nodes):
        if node.op != "call_function" or node not in network.module.graph.nodes:
            continue
        core = _normalised(read, node)
        if core is None:
            continue
        x, dims, eps = core
        shape = tuple(values[x].shape)
        axes = sorted(dim % len(shape) for dim in dims)
        if axes != list(range(len(shape) - len(axes), len(shape))) or axes[0] == 0:
            continue
        inner = list(shape[axes[0] :])
        end, weight = _followed(network, node, MULS, inner)
        end, bias = _followed(network, end, ADDS, inner)
        if weight is None and bias is not None:  # layer_norm takes no bias alone
            end, bias = node, None
        replaced(network, end, aten.layer_norm.default, (x, inner, weight, bias, eps))
        changed = True
    if changed:
        network.module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        network.module.recompile()
    return changed


def _normalised(read: Reader, node: Node) -> tuple[Node, list[int], float] | None:
    """``(x, dims, eps)`` where a node is ``(x − mean) / sqrt(variance + eps)``."""
    args: Any = node.args
    if node.target in DIVS and len(args) == 2 and not node.kwargs:
        centred, root = args
        under = root.args[0] if isinstance(root, Node) and root.target is aten.sqrt.default else None
        if under is None and isinstance(root, Node) and root.target is aten.pow.Tensor_Scalar and root.args[1] == 0.5:
            under = root.args[0]
    elif node.target in MULS:
        centred, root = args if isinstance(args[1], Node) and args[1].target is aten.rsqrt.default else args[::-1]
        under = root.args[0] if isinstance(root, Node) and root.target is aten.rsqrt.default else None
    else:
        return None
    plus = read.plus(under)
    middle = _centred(centred)
    if plus is None or middle is None:
        return None
    x, dims = middle
    over = _variance(read, plus[1], centred, x)
    return (x, dims, plus[0]) if over is not None and sorted(over) == sorted(dims) else None


def _centred(value: Any) -> tuple[Node, list[int]] | None:
    """``(x, dims)`` where a value is ``x − mean(x, dims)``."""
    if not isinstance(value, Node) or value.target not in SUBS or value.kwargs:
        return None
    given: Any = value.args
    x, mean = given[:2]
    if not isinstance(mean, Node) or mean.target is not aten.mean.dim:
        return None
    args: Any = mean.args
    return (x, list(args[1])) if args[0] is x and len(args) > 2 and args[2] else None


def _variance(read: Reader, value: Node, centred: Node, x: Node) -> list[int] | None:
    """The axes where a value is the variance of ``x``, without Bessel's correction."""
    args: Any = value.args
    if value.target is aten.mean.dim and len(args) > 2 and args[2]:
        squared = read.square(args[0])
        same = squared is centred or (squared is not None and _centred(squared) == _centred(centred))
        return list(args[1]) if same else None
    if value.target is aten.var.dim and args[0] is x and len(args) > 3 and not args[2] and args[3]:  # not unbiased, keepdim
        return list(args[1])
    if value.target is aten.var.correction and args[0] is x and value.kwargs.get("correction") == 0 and value.kwargs.get("keepdim"):
        return list(args[1])
    return None


def _followed(network: Network, node: Node, ops: tuple[Any, ...], shape: list[int]) -> tuple[Node, Node | None]:
    """The next node and its other operand, where the only user multiplies (adds) a tensor of this shape."""
    if len(node.users) == 1:
        user = next(iter(node.users))
        if user.target in ops and not user.kwargs and len(user.args) == 2:
            other: Any = user.args[1] if user.args[0] is node else user.args[0]
            if isinstance(other, Node) and other.op == "get_attr" and list(network.get(str(other.target)).shape) == shape:
                return user, _before(network, other, node)
    return node, None


def _before(network: Network, constant: Node, place: Node) -> Node:
    """The constant, from before ``place``."""
    place.prepend(constant)
    return constant
