"""Activations that are spelled out → their op: GELU (both), SiLU, Mish, hard-sigmoid, hard-swish."""

import math
from typing import Any

import torch
from torch.fx import Node

from karui.graph.network import Network
from karui.graph.tidy.reading import DIVS, MULS, Reader, reader, replaced

aten = torch.ops.aten


def name_activations(network: Network) -> bool:
    """Replace what is the formula of an activation by that activation; returns whether any was found."""
    read, changed = reader(network), False
    for node in list(network.module.graph.nodes):
        if node.op != "call_function" or node not in network.module.graph.nodes:
            continue
        found = _hard_sigmoid(read, node) or (_gated(read, node) if node.target in (*MULS, *DIVS) else None)
        if found is not None:
            op, args, kwargs = found
            replaced(network, node, op, args, kwargs)
            changed = True
    if changed:
        network.module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        network.module.recompile()
    return changed


_Found = tuple[Any, tuple[Any, ...], dict[str, Any]] | None


def _gated(read: Reader, node: Node) -> _Found:
    """``c · x · gate(x)``."""
    number, factors = read.product(node)
    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        if not gate.args:
            continue
        if read.close(number, 1) and gate.args[0] is x and gate.target is aten.sigmoid.default:
            return aten.silu.default, (x,), {}
        if read.close(number, 1) and gate.args[0] is x and gate.target is aten.hardsigmoid.default:
            return aten.hardswish.default, (x,), {}
        if read.close(number, 1 / 6) and _six(read, gate) is x:
            return aten.hardswish.default, (x,), {}
        if read.close(number, 1) and gate.target is aten.tanh.default and _softplus(gate.args[0]) is x:
            return aten.mish.default, (x,), {}
        plus = read.plus(gate)
        if read.close(number, 0.5) and plus is not None and read.close(plus[0], 1):
            kind = _gelu(read, plus[1], x)
            if kind is not None:
                return aten.gelu.default, (x,), {} if kind == "none" else {"approximate": kind}
    return None


def _gelu(read: Reader, inner: Node, x: Node) -> str | None:
    """Which approximation of GELU ``x/2 · (1 + inner)`` is (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    if not inner.args:
        return None
    number, factors = read.product(inner.args[0])
    if inner.target is aten.erf.default and factors == [x] and read.close(number, math.sqrt(0.5)):
        return "none"
    if inner.target is aten.tanh.default and read.close(number, math.sqrt(2 / math.pi)):
        if len(factors) == 1 and _cubic(read, factors[0], x):
            return "tanh"
        if len(factors) == 2 and x in factors and _one_plus_square(read, factors[1 - factors.index(x)], x):
            return "tanh"
    return None


def _cubic(read: Reader, value: Node, x: Node) -> bool:
    """``x + 0.044715 · x³``."""
    if value.target is not aten.add.Tensor or x not in value.args[:2]:
        return False
    number, factors = read.product(value.args[1] if value.args[0] is x else value.args[0])
    cube = len(factors) == 1 and factors[0].target is aten.pow.Tensor_Scalar and factors[0].args == (x, 3)
    thrice = factors == [x, x, x] or (len(factors) == 2 and x in factors and any(read.square(f) is x for f in factors))
    power = len(factors) == 1 and factors[0].target is aten.pow.Tensor_Tensor and factors[0].args[0] is x
    return read.close(number, 0.044715) and (cube or thrice or (power and read.number(factors[0].args[1]) == 3))


def _one_plus_square(read: Reader, value: Node, x: Node) -> bool:
    """``1 + 0.044715 · x²``."""
    plus = read.plus(value)
    if plus is None or not read.close(plus[0], 1):
        return False
    number, factors = read.product(plus[1])
    return read.close(number, 0.044715) and (factors == [x, x] or (len(factors) == 1 and read.square(factors[0]) is x))


def _softplus(value: Any) -> Node | None:
    plain = isinstance(value, Node) and value.target is aten.softplus.default and len(value.args) == 1
    return value.args[0] if plain else None


def _six(read: Reader, value: Node) -> Node | None:
    """``x`` where a value is ``min(max(x + 3, 0), 6)``."""
    plus = read.plus(value.args[0]) if _bounds(read, value) == (0, 6) else None
    return plus[1] if plus is not None and read.close(plus[0], 3) else None


def _hard_sigmoid(read: Reader, node: Node) -> _Found:
    """``min(max(x + 3, 0), 6) / 6``, or ``min(max(x / 6 + 1/2, 0), 1)``."""
    if node.target in (*MULS, *DIVS):
        number, factors = read.product(node)
        if len(factors) == 1 and read.close(number, 1 / 6) and (x := _six(read, factors[0])) is not None:
            return aten.hardsigmoid.default, (x,), {}
    if _bounds(read, node) == (0, 1) and (plus := read.plus(node.args[0])) is not None and read.close(plus[0], 0.5):
        number, factors = read.product(plus[1])
        if read.close(number, 1 / 6) and len(factors) == 1:
            return aten.hardsigmoid.default, (factors[0],), {}
    return None


def _bounds(read: Reader, node: Node) -> tuple[float | None, float | None] | None:
    """The bounds of a clamp."""
    if node.target is aten.relu6.default:
        return 0, 6
    if node.target in (aten.hardtanh.default, aten.clamp.default):
        defaults: tuple[Any, ...] = (-1.0, 1.0) if node.target is aten.hardtanh.default else (None, None)
        given = [*node.args[1:3], *defaults[len(node.args[1:3]) :]]
        return read.number(given[0]), read.number(given[1])
    return None
