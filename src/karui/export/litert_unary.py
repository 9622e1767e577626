"""The functions of ``unary.py`` as LiteRT's builtins, or as a few of them."""

from collections.abc import Callable, Mapping
from typing import Any

from karui.export.litert_graph import Graph
from karui.program.program import Op

Function = Callable[[Graph, int, float], int]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)  # Abramowitz and Stegun 7.1.26, off by at most 1.5e-7
_ERF_P = 0.3275911


def unary(graph: Graph, op: Op) -> None:
    """A function of ``unary.py``."""
    function, alpha = op.attributes["function"], op.attributes.get("alpha")
    if function not in FUNCTIONS:
        raise graph.refuse(op, f"function '{function}'", "choose another activation")
    graph.finish(op, FUNCTIONS[function](graph, graph.real(op.inputs[0]), 0.0 if alpha is None else float(alpha)))


def _plain(kind: str, **options: Any) -> Function:
    return lambda graph, x, alpha: graph.node(kind, x, **options)


def _add(graph: Graph, x: int, number: float) -> int:
    return graph.node("ADD", x, graph.number(number))


def _times(graph: Graph, x: int, number: float) -> int:
    return graph.node("MUL", x, graph.number(number))


def _over(graph: Graph, number: float, x: int) -> int:
    return graph.node("DIV", graph.number(number), x)


def _exponential(graph: Graph, x: int, width: float, height: float, slope: float = 1.0) -> int:
    """slope · x where x is positive, height · (e^(x/width) − 1) where it is negative."""
    below = graph.node("MINIMUM", x, graph.number(0))
    curve = _times(graph, graph.node("ELU", _times(graph, below, 1 / width) if width != 1 else below), height)
    above = graph.node("RELU", x)
    return graph.node("ADD", curve, above if slope == 1 else _times(graph, above, slope))


def _softplus(graph: Graph, x: int, alpha: float = 0.0) -> int:
    """max(x, 0) + log(1 + e^−|x|): nothing overflows."""
    small = graph.node("EXP", graph.node("NEG", graph.node("ABS", x)))
    return graph.node("ADD", graph.node("RELU", x), graph.node("LOG", _add(graph, small, 1)))


def _erf(graph: Graph, x: int, alpha: float) -> int:
    size = graph.node("ABS", x)
    t = _over(graph, 1, _add(graph, _times(graph, size, _ERF_P), 1))
    series = graph.number(_ERF[-1])
    for factor in reversed(_ERF[:-1]):
        series = _add(graph, graph.node("MUL", series, t), factor)
    fall = graph.node("EXP", graph.node("NEG", graph.node("SQUARE", x)))
    left = graph.node("MUL", graph.node("MUL", series, t), fall)
    return graph.node("MUL", graph.node("SIGN", x), graph.node("SUB", graph.number(1), left))


def _elu(graph: Graph, x: int, alpha: float) -> int:
    return graph.node("ELU", x) if alpha == 1 else _exponential(graph, x, 1, alpha)


def _hard_sigmoid(graph: Graph, x: int, alpha: float = 0.0) -> int:
    return _times(graph, graph.node("ADD", x, graph.number(3), fusedActivationFunction="RELU6"), 1 / 6)


FUNCTIONS: Mapping[str, Function] = {
    "relu": _plain("RELU"),
    "relu6": _plain("RELU6"),
    "leaky_relu": lambda g, x, a: g.node("LEAKY_RELU", x, alpha=a),
    "elu": _elu,
    "celu": lambda g, x, a: _exponential(g, x, a, a),
    "selu": lambda g, x, a: _exponential(g, x, 1, _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE),
    "gelu": _plain("GELU", approximate=False),
    "gelu_tanh": _plain("GELU", approximate=True),
    "silu": lambda g, x, a: g.node("MUL", x, g.node("LOGISTIC", x)),
    "mish": lambda g, x, a: g.node("MUL", x, g.node("TANH", _softplus(g, x))),
    "sigmoid": _plain("LOGISTIC"),
    "log_sigmoid": lambda g, x, a: g.node("NEG", _softplus(g, g.node("NEG", x))),
    "hardsigmoid": _hard_sigmoid,
    "hardswish": _plain("HARD_SWISH"),
    "softplus": _softplus,
    "softsign": lambda g, x, a: g.node("DIV", x, _add(g, g.node("ABS", x), 1)),
    "tanh": _plain("TANH"),
    "exp": _plain("EXP"),
    "expm1": lambda g, x, a: _add(g, g.node("EXP", x), -1),
    "log": _plain("LOG"),
    "log1p": lambda g, x, a: g.node("LOG", _add(g, x, 1)),
    "sqrt": _plain("SQRT"),
    "rsqrt": _plain("RSQRT"),
    "reciprocal": lambda g, x, a: _over(g, 1, x),
    "square": _plain("SQUARE"),
    "pow": lambda g, x, a: g.node("POW", x, g.number(a)),
    "abs": _plain("ABS"),
    "neg": _plain("NEG"),
    "sign": _plain("SIGN"),
    "floor": _plain("FLOOR"),
    "ceil": _plain("CEIL"),
    "round": _plain("ROUND"),
    "erf": _erf,
    "sin": _plain("SIN"),
    "cos": _plain("COS"),
}
