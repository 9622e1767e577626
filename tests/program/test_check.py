"""Every way in which a Program can be ill-formed is found, and named; well-formed ones pass."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from karui.program.check import RULES, check
from karui.program.check_weight import check_weight
from karui.program.kinds import KINDS
from karui.program.program import (
    Affine,
    Array,
    Block,
    CodebookValues,
    Element,
    FloatValues,
    NofM,
    Output,
    Program,
    SignValues,
    TernaryValues,
    Weight,
)
from tests.golden.every import every
from tests.program.builders import ALL, int8_values, lenet, residual


def changed_op(program: Program, index: int, **changes: Any) -> Program:
    ops = list(program.ops)
    ops[index] = replace(ops[index], **changes)
    return replace(program, ops=tuple(ops))


def changed_tensor(program: Program, key: str, **changes: Any) -> Program:
    return replace(program, tensors={**program.tensors, key: replace(program.tensor(key), **changes)})


def changed_weight(program: Program, name: str, **changes: Any) -> Program:
    return replace(program, weights={**program.weights, name: replace(program.weights[name], **changes)})


def attributes(program: Program, index: int, **changes: Any) -> Program:
    return changed_op(program, index, attributes={**program.ops[index].attributes, **changes})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("integer", [False, True])
def test_networks_pass(name: str, integer: bool) -> None:
    check(ALL[name](integer=integer, sparsity=0.5))


def test_every_support_and_values_passes() -> None:
    check(every())


def test_the_rules_cover_what_kinds_says() -> None:
    assert {meaning for kind in KINDS.values() for meaning in kind.attributes.values()} == set(RULES)


FLOAT, INT8, PIXELS = lenet(), lenet(integer=True), residual(integer=True, pixels=True)
# ops of FLOAT: conv1 pool1 conv2 flatten fc1 fc2; INT8 has a quantize before them
BROKEN: dict[str, Callable[[], Program]] = {
    "'conv1' (conv3d): the kind is unknown": lambda: changed_op(FLOAT, 0, kind="conv3d"),
    "2 inputs, expected 1": lambda: changed_op(FLOAT, 0, inputs=("input", "input")),
    "2 outputs, expected 1": lambda: changed_op(FLOAT, 0, outputs=("conv1_y", "fc2_y")),
    "there is no tensor 'nowhere'": lambda: changed_op(FLOAT, 0, inputs=("nowhere",)),
    "'fc1_y' is read before it is written": lambda: changed_op(FLOAT, 0, inputs=("fc1_y",)),
    "written twice": lambda: changed_op(FLOAT, 1, outputs=("conv1_y",)),
    "an output is written twice: input": lambda: changed_op(FLOAT, 1, outputs=("input",)),
    "its weight is missing": lambda: changed_op(FLOAT, 0, weights={}),
    "it takes no weight 'scale'": lambda: changed_op(FLOAT, 0, weights={**FLOAT.ops[0].weights, "scale": "conv1.bias"}),
    "there is no weight 'nothing'": lambda: changed_op(FLOAT, 0, weights={"weight": "nothing"}),
    "it has no attribute 'bias'": lambda: attributes(FLOAT, 0, bias=True),
    "its attribute 'stride' is missing": lambda: changed_op(FLOAT, 0, attributes={"padding": [0] * 4, "dilation": [1, 1], "groups": 1}),
    "stride = [0, 1], expected [y, x]": lambda: attributes(FLOAT, 0, stride=[0, 1]),
    "stride = [1], expected": lambda: attributes(FLOAT, 0, stride=[1]),
    "groups = 0, expected int": lambda: attributes(FLOAT, 0, groups=0),
    "groups = True, expected int": lambda: attributes(FLOAT, 0, groups=True),
    "padding = [0, 0, 0, -1]": lambda: attributes(FLOAT, 0, padding=[0, 0, 0, -1]),
    "clamp = [1.0, 0.0]": lambda: attributes(FLOAT, 0, clamp=[1.0, 0.0]),
    "clamp = [nan, None]": lambda: attributes(FLOAT, 0, clamp=[float("nan"), None]),
    "must be codes of int8": lambda: attributes(INT8, 1, clamp=[0.5, None]),
    "but [12, 12, 6] follows from its input": lambda: changed_tensor(FLOAT, "conv1_y", shape=(12, 12, 7)),
    "input channels, but the weight takes": lambda: attributes(FLOAT, 0, groups=2),
    "a window of 5 doesn't fit": lambda: changed_tensor(FLOAT, "input", shape=(4, 16, 1)),
    "can't become": lambda: changed_tensor(FLOAT, "flatten_y", shape=(47,)),
    "but the weight takes": lambda: changed_op(FLOAT, 5, inputs=("flatten_y",)),
    "has shape [12], expected [6]": lambda: changed_op(FLOAT, 0, weights={"weight": "conv1.weight", "bias": "conv2.bias"}),
    "is int8 without a scale": lambda: changed_tensor(INT8, "conv1_y", quant=None),
    "must keep scale and zero point": lambda: changed_tensor(INT8, "pool1_y", quant=Affine(scale=1.0, zero_point=0)),
    "its output is int8, but its input 'input' is float32": lambda: changed_op(INT8, 1, inputs=("input",)),
    "its output is float32, but its input": lambda: changed_tensor(INT8, "fc2_y", dtype="float32", quant=None),
    "no integer form": lambda: changed_op(PIXELS, 4, kind="div"),
    "holds floats": lambda: float_weight(),
    "its bias must hold floats": lambda: int8_bias(),
    "scale 0.0 must be above 0": lambda: changed_tensor(INT8, "conv1_y", quant=Affine(scale=0.0, zero_point=0)),
    "scale nan must be": lambda: changed_tensor(INT8, "conv1_y", quant=Affine(scale=float("nan"), zero_point=0)),
    "zero point 128": lambda: changed_tensor(INT8, "conv1_y", quant=Affine(scale=1.0, zero_point=128)),
    "zero point 8, expected -8 to 7": lambda: changed_tensor(INT8, "conv1_y", quant=Affine(bits=4, scale=1.0, zero_point=8)),
    "float32 has no scale": lambda: changed_tensor(INT8, "input", quant=Affine(scale=1.0, zero_point=0)),
    "dtype 'float16'": lambda: changed_tensor(FLOAT, "input", dtype="float16"),
    "layout 'nchw'": lambda: changed_tensor(FLOAT, "input", layout="nchw"),
    "layout 'nhwc' with shape [10]": lambda: changed_tensor(FLOAT, "fc2_y", layout="nhwc"),
    "shape [0, 16, 1]": lambda: changed_tensor(FLOAT, "input", shape=(0, 16, 1)),
    "elements, at most": lambda: changed_tensor(FLOAT, "input", shape=(1 << 15, 1 << 15, 1)),
    "is called 'other'": lambda: changed_tensor(FLOAT, "input", name="other"),
    "the program has no output": lambda: replace(FLOAT, outputs=()),
    "there is no tensor 'gone'": lambda: replace(FLOAT, outputs=(Output(name="y", tensor="gone"),)),
    "two outputs have one name": lambda: replace(FLOAT, outputs=FLOAT.outputs * 2),
    "two inputs share one tensor": lambda: replace(FLOAT, inputs=(*FLOAT.inputs, replace(FLOAT.inputs[0], name="again"))),
    "output 'fc2_y' is never written": lambda: replace(FLOAT, ops=FLOAT.ops[:-1]),
    "a label that isn't printable": lambda: replace(FLOAT, outputs=(replace(FLOAT.outputs[0], labels=("a\nb",)),)),
    "printable characters": lambda: changed_op(FLOAT, 0, name='conv\n#include "x"'),
    "the program's name": lambda: replace(FLOAT, name=""),
    "the tensors differ": lambda: replace(FLOAT, states=(("fc1_y", "fc2_y"),)),
    "state: there is no tensor": lambda: replace(FLOAT, states=(("fc1_y", "gone"),)),
    "its tensor must be uint8": lambda: replace(FLOAT, inputs=(replace(FLOAT.inputs[0], pixels=PIXELS.inputs[0].pixels),)),
    "means and stds of": lambda: replace(
        PIXELS, inputs=(replace(PIXELS.inputs[0], pixels=replace(PIXELS.inputs[0].pixels, mean=(0.0, 0.0))),)
    ),
    "a std of 0": lambda: replace(PIXELS, inputs=(replace(PIXELS.inputs[0], pixels=replace(PIXELS.inputs[0].pixels, std=(0.0,) * 3)),)),
}


def float_weight() -> Program:
    w = INT8.weights["conv1.weight"]
    return changed_weight(INT8, "conv1.weight", values=FloatValues(data=w.real()))


def int8_bias() -> Program:
    values = int8_values(np.ones((6, 1), np.float32))
    return changed_weight(FLOAT, "conv1.bias", values=replace(values, codes=values.codes[:, 0]))


@pytest.mark.parametrize("message", BROKEN)
def test_broken_programs_are_named(message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(BROKEN[message]())
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

MASK = np.arange(24).reshape(4, 6) % 3 == 0
ZERO, ONE = np.asarray(0, np.int32), np.asarray(1, np.float32)


def signs(codes: Array, scale: Array = ONE) -> SignValues:
    return SignValues(codes=np.asarray(codes, np.int8), scale=scale)


def floats(data: Array) -> FloatValues:
    return FloatValues(data=np.asarray(data, np.float32))


AFFINE = int8_values(np.where(MASK, np.linspace(-1, 1, 24).reshape(4, 6), 0.0), bits=4)
BAD_WEIGHTS: dict[str, dict[str, Any]] = {
    "its data has shape [4, 5]": {"values": floats(np.zeros((4, 5)))},
    "its data is float64": {"values": FloatValues(data=np.zeros((4, 6)))},
    "its mask is int64": {"support": Element(mask=MASK.astype(np.int64)), "values": floats(np.zeros((4, 6)))},
    "its mask has shape": {"support": Element(mask=MASK[:2]), "values": floats(np.zeros((4, 6)))},
    "outside its support isn't zero": {"support": Element(mask=MASK), "values": floats(np.ones((4, 6)))},
    "its mask cuts through blocks": {"support": Block(rows=2, columns=2, mask=MASK), "values": floats(np.zeros((4, 6)))},
    "blocks of 0": {"support": Block(rows=0, columns=2, mask=MASK), "values": floats(np.zeros((4, 6)))},
    "a run of 3 stores 3, at most 2": {"support": NofM(n=2, m=3, mask=np.ones((4, 6), bool)), "values": floats(np.zeros((4, 6)))},
    "3 of 2": {"support": NofM(n=3, m=2, mask=MASK), "values": floats(np.zeros((4, 6)))},
    "codes lie outside": {"values": replace(AFFINE, codes=np.full((4, 6), 8, np.int8))},
    "9 bits": {"values": replace(AFFINE, bits=9)},
    "its scale has shape [3]": {"values": replace(AFFINE, scale=np.ones(3, np.float32))},
    "its scale isn't finite": {"values": replace(AFFINE, scale=np.full(4, np.inf, np.float32))},
    "its zero point has shape": {"values": replace(AFFINE, zero_point=ZERO)},
    "a zero point lies outside": {"values": replace(AFFINE, zero_point=np.full(4, 9, np.int32))},
    "its scale has shape [4], expected [4, 2]": {"values": replace(AFFINE, group=4)},
    "its codes must be −1 or +1": {"values": signs(np.zeros((4, 6)))},
    "must be a float32": {"values": signs(np.ones((4, 6)), np.asarray(1.0))},
    "its codes must be −1, 0 or +1": {"values": TernaryValues(codes=np.full((4, 6), 2, np.int8), positive=ONE, negative=ONE)},
    "outside its codebook": {"values": CodebookValues(index=np.full((4, 6), 3, np.uint8), codebook=np.zeros(3, np.float32), scale=ONE)},
    "its codebook is float64": {"values": CodebookValues(index=np.zeros((4, 6), np.uint8), codebook=np.zeros(3), scale=ONE)},
    "1 to 256 entries": {"values": CodebookValues(index=np.zeros((4, 6), np.uint8), codebook=np.zeros(0, np.float32), scale=ONE)},
    "unknown values": {"values": None},
    "unknown support": {"support": "half", "values": floats(np.zeros((4, 6)))},
    "a sparse weight needs an axis": {"shape": (), "support": Element(mask=np.asarray(True)), "values": floats(np.zeros(()))},
    "elements, at most": {"shape": (1 << 15, 1 << 15), "values": floats(np.zeros(1))},
}


@pytest.mark.parametrize("message", BAD_WEIGHTS)
def test_broken_weights_are_named(message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_weight(Weight(**{"name": "w", "shape": (4, 6), **BAD_WEIGHTS[message]}))
    assert message in str(caught.value) and "weight 'w'" in str(caught.value)


def test_scalars_of_numpy_are_arrays_too() -> None:
    check_weight(Weight(name="w", shape=(4, 6), values=signs(np.ones((4, 6)), np.float32(0.5))))  # type: ignore[arg-type]
