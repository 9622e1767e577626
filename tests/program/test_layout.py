"""Channels first to channels last, and back."""

import numpy as np
import pytest

from karui.errors import DataError
from karui.program.layout import dequantize, to_network, to_program
from tests.program.single_op import affine, normal, program, tensor


def test_layouts_are_inverse() -> None:
    x, y = normal(2, 3, 4, 5), normal(2, 3, 4)
    assert to_program(x, "nhwc").shape == (2, 4, 5, 3) and to_program(y, "nlc").shape == (2, 4, 3)
    np.testing.assert_array_equal(to_network(to_program(x, "nhwc"), "nhwc"), x)
    np.testing.assert_array_equal(to_network(to_program(y, "nlc"), "nlc"), y)
    assert to_program(x, "plain") is x
    with pytest.raises(DataError, match="4 axes"):
        to_program(y, "nhwc")


def test_outputs_as_reals() -> None:
    codes = np.array([[-7, 3]], np.int8)
    p = program("reshape", [tensor("x", (2,), affine(0.5, -7))], [tensor("y", (2,), affine(0.5, -7))])
    assert dequantize(p, 0, codes).tolist() == [[0.0, 5.0]]
    p = program("reshape", [tensor("x", (2,), None)], [tensor("y", (2,), None)])
    assert dequantize(p, 0, np.float32([[1.5, 2]])).tolist() == [[1.5, 2.0]]
