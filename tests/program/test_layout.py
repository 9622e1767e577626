"""Channels first to channels last, and back."""

import numpy as np
import pytest

from karui.errors import DataError
from karui.program.layout import to_network, to_program
from tests.program.single_op import normal


def test_layouts_are_inverse() -> None:
    x, y = normal(2, 3, 4, 5), normal(2, 3, 4)
    assert to_program(x, "nhwc").shape == (2, 4, 5, 3) and to_program(y, "nlc").shape == (2, 4, 3)
    np.testing.assert_array_equal(to_network(to_program(x, "nhwc"), "nhwc"), x)
    np.testing.assert_array_equal(to_network(to_program(y, "nlc"), "nlc"), y)
    assert to_program(x, "plain") is x
    with pytest.raises(DataError, match="4 axes"):
        to_program(y, "nhwc")
