"""The functions that a ``unary`` op may name, in NumPy: float64 inside, float32 out. ``alpha`` is the one setting some of them have."""

from collections.abc import Callable, Mapping
from math import erf, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from karui.errors import UnsupportedOp
from karui.program.program import Array

Function = Callable[[NDArray[np.float64], float], NDArray[np.float64]]

_ERF = np.frompyfunc(erf, 1, 1)
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -x))


def _erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(_ERF(x), np.float64)


def _elu(x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


FUNCTIONS: Mapping[str, Function] = {
    "relu": lambda x, a: np.maximum(x, 0),
    "relu6": lambda x, a: np.clip(x, 0, 6),
    "leaky_relu": lambda x, a: np.where(x > 0, x, a * x),
    "elu": _elu,
    "celu": lambda x, a: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0) / a)),
    "selu": lambda x, a: _SELU_SCALE * _elu(x, _SELU_ALPHA),
    "gelu": lambda x, a: 0.5 * x * (1 + _erf(x / sqrt(2))),
    "gelu_tanh": lambda x, a: 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
    "silu": lambda x, a: x * _sigmoid(x),
    "mish": lambda x, a: x * np.tanh(np.logaddexp(0, x)),
    "sigmoid": lambda x, a: _sigmoid(x),
    "log_sigmoid": lambda x, a: -np.logaddexp(0, -x),
    "hardsigmoid": lambda x, a: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x, a: x * np.clip(x + 3, 0, 6) / 6,
    "softplus": lambda x, a: np.logaddexp(0, x),
    "softsign": lambda x, a: x / (1 + np.abs(x)),
    "tanh": lambda x, a: np.tanh(x),
    "exp": lambda x, a: np.exp(x),
    "expm1": lambda x, a: np.expm1(x),
    "log": lambda x, a: np.log(x),
    "log1p": lambda x, a: np.log1p(x),
    "sqrt": lambda x, a: np.sqrt(x),
    "rsqrt": lambda x, a: 1 / np.sqrt(x),
    "reciprocal": lambda x, a: 1 / x,
    "square": lambda x, a: x * x,
    "pow": lambda x, a: np.power(x, a),
    "abs": lambda x, a: np.abs(x),
    "neg": lambda x, a: -x,
    "sign": lambda x, a: np.sign(x),
    "floor": lambda x, a: np.floor(x),
    "ceil": lambda x, a: np.ceil(x),
    "round": lambda x, a: np.rint(x),
    "erf": lambda x, a: _erf(x),
    "sin": lambda x, a: np.sin(x),
    "cos": lambda x, a: np.cos(x),
}
NEEDS_ALPHA = ("leaky_relu", "elu", "celu", "pow")


def apply(function: str, x: Array, alpha: float | None = None) -> NDArray[np.float32]:
    """``function`` of every element, float32 in the shape of ``x``. Where it is not defined the result is NaN or infinite, silently."""
    if function not in FUNCTIONS:
        raise UnsupportedOp(f"no unary function is called '{function}'; there are {', '.join(FUNCTIONS)}")
    if alpha is None and function in NEEDS_ALPHA:
        raise UnsupportedOp(f"the unary function '{function}' needs its setting 'alpha'")
    with np.errstate(all="ignore"):
        return FUNCTIONS[function](np.asarray(x, np.float64), 0.0 if alpha is None else alpha).astype(np.float32)
