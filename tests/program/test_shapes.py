"""The shapes that the rules foretell are those that the interpreter gives; what makes no sense is refused in words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.program import shapes
from karui.program.check import check
from karui.program.interpreter import run
from karui.program.kinds import KINDS
from karui.program.program import Op
from karui.program.shapes import output_shapes
from tests.export.many import inputs_of
from tests.export.test_c_layers import LAYERS, one_layer
from tests.export.test_c_ops import GROUPS
from tests.program.weights import make_weight


def foretell(kind, inputs, weights=None, **attributes):
    op = Op(kind=kind, name="", inputs=(), outputs=("y",), attributes=attributes)
    return output_shapes(op, inputs, weights or {}, [(1,)])


@pytest.mark.parametrize("group", GROUPS)
def test_every_op_has_the_shape_that_is_computed(group: str) -> None:
    for name, program in GROUPS[group]():
        check(program)
        for out, array in zip(program.outputs, run(program, inputs_of(program, 1)), strict=True):
            assert array.shape[1:] == program.tensor(out.tensor).shape, name


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_the_shape_that_is_computed(name: str) -> None:
    program = one_layer(name, make_weight("dense", "float", LAYERS[name][2], seed=0, name="weight"), integer=False)
    check(program)
    run(program, inputs_of(program, 1))  # compares the shapes itself


def test_every_kind_has_a_rule() -> None:
    assert set(shapes._RULES) | {"reshape"} == set(KINDS)


@given(st.lists(st.integers(1, 3), max_size=4), st.lists(st.integers(1, 3), max_size=4))
def test_broadcasting_is_numpys(a: list[int], b: list[int]) -> None:
    try:
        expected = np.broadcast_shapes(tuple(a), tuple(b))
    except ValueError:
        with pytest.raises(ValueError, match="don't broadcast"):
            foretell("add", [tuple(a), tuple(b)])
    else:
        assert foretell("add", [tuple(a), tuple(b)]) == (expected,)


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), st.integers(1, 3))
def test_a_convolution_counts_its_windows(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> None:
    starts = [i for i in range(0, size + before + after, stride) if i + dilation * (kernel - 1) < size + before + after]
    attributes = {"stride": stride, "padding": [before, after], "dilation": dilation, "groups": 1}
    if starts:
        assert foretell("conv1d", [(size, 2)], {"weight": (3, kernel, 2)}, **attributes) == ((len(starts), 3),)
    else:
        with pytest.raises(ValueError, match="doesn't fit"):
            foretell("conv1d", [(size, 2)], {"weight": (3, kernel, 2)}, **attributes)


def test_recurrences() -> None:
    weights = {"weight_ih": (12, 7), "weight_hh": (12, 4)}
    assert foretell("gru", [(5, 7)], weights) == ((5, 4), (4,))
    assert foretell("lstm", [(5, 7)], {"weight_ih": (16, 7), "weight_hh": (16, 4)}) == ((5, 4), (4,), (4,))
    with pytest.raises(ValueError, match="for an input"):
        foretell("lstm", [(5, 7)], weights)


@pytest.mark.parametrize(
    ("kind", "inputs", "weights", "attributes", "message"),
    [
        ("linear", [(3, 5)], {"weight": (4, 6)}, {}, "takes 6 features"),
        ("matmul", [(3, 5), (4, 2)], {}, {"transpose_b": False}, "5 columns against 4 rows"),
        ("concat", [(3, 5), (4, 6)], {}, {"axis": 1}, "differ beside axis 1"),
        ("concat", [(3,)], {}, {"axis": 1}, "axis 1 is not one"),
        ("transpose", [(3, 5)], {}, {"perm": [0, 0]}, "no order"),
        ("slice", [(3, 5)], {}, {"axis": 1, "start": 2, "stop": 6, "step": 1}, "2:6:1"),
        ("mean", [(3, 5)], {}, {"axes": [0, 0], "keepdims": False}, "each once"),
        ("pad", [(3, 5)], {}, {"padding": [[1, 1]]}, "for 2 axes"),
        ("max_pool2d", [(8, 8, 1)], {}, {"kernel": [2, 2], "stride": [2, 2], "padding": [2, 0, 0, 0]}, "not below kernel"),
        ("lookup", [(3, 5)], {"table": (4, 256)}, {}, "expected [256] or [5, 256]"),
        ("group_norm", [(3, 5)], {}, {"groups": 2}, "groups of channels"),
        ("layer_norm", [(3, 5)], {"scale": (3,)}, {"dims": 1}, "expected [5]"),
        ("reshape", [(3, 5)], {}, {}, "can't become"),
        ("exit_if", [(1,), (1,)], {}, {"threshold": 0.5}, "two classes or more"),
        ("exit_if", [(5,), (6,)], {}, {"threshold": 0.5}, "gives [5] scores, the rest of the network [6]"),
    ],
)
def test_nonsense_is_refused(kind, inputs, weights, attributes, message) -> None:
    with pytest.raises(ValueError) as caught:
        foretell(kind, inputs, weights, **attributes)
    assert message in str(caught.value)
