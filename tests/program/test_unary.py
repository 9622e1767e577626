"""The unary functions, against torch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from karui.errors import UnsupportedOp
from karui.program import unary
from tests.program.single_op import normal

TORCH_UNARY = {
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.2),
    "celu": lambda x: F.celu(x, 0.2),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "log_sigmoid": F.logsigmoid,
    "pow": lambda x: x**0.2,
}


@pytest.mark.parametrize("function", unary.FUNCTIONS)
def test_unary(function: str) -> None:
    positive = function in ("log", "log1p", "sqrt", "rsqrt", "reciprocal", "pow")
    x = np.linspace(0.01 if positive else -8, 8, 401).astype(np.float32).reshape(1, -1)
    theirs = TORCH_UNARY.get(function) or getattr(torch, function, None) or getattr(F, function)
    alpha = 0.2 if function in unary.NEEDS_ALPHA else None
    np.testing.assert_allclose(unary.apply(function, x, alpha), theirs(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-5)


def test_sigmoid_does_not_overflow() -> None:
    assert unary.apply("sigmoid", np.array([-1e4, 1e4], np.float32)).tolist() == [0, 1]


def test_unknown_functions_are_named() -> None:
    with pytest.raises(UnsupportedOp, match="'wobble'"):
        unary.apply("wobble", normal(2))
    with pytest.raises(UnsupportedOp, match="alpha"):
        unary.apply("elu", normal(2))
