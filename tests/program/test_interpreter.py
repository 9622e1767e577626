"""``run`` and ``run_op``: every kind has its rule, what does not fit is refused, batches and states."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from karui.errors import DataError, UnsupportedOp
from karui.program import floating, integers, moves
from karui.program.interpreter import run, run_op
from karui.program.kinds import KINDS
from karui.program.program import AffineValues, Array, Values
from tests.program import builders
from tests.program.single_op import affine, codes, floats, int8, integer, normal, program, tensor
from tests.program.single_op import floating as floats_only

XQ, YQ = affine(0.03, -7), affine(0.05, 4)
GROUPED = AffineValues(
    bits=4, codes=codes(5, 24) // 16, scale=np.full((5, 3), 0.01, np.float32), zero_point=np.zeros((5, 3), np.int32), group=8
)


def test_every_kind_has_a_rule() -> None:
    assert set(KINDS) == set(floating.RULES) | set(integers.RULES) | set(moves.RULES) | {"constant"}
    assert {kind for kind, row in KINDS.items() if row.integer} == set(integers.RULES) | set(moves.RULES) - {"embedding"} | {"constant"}


def pooled(arithmetic: Any) -> Array:
    window = {"kernel": [2, 2], "stride": [1, 1], "padding": [1, 0, 0, 0], "count_include_pad": False, "clamp": None}
    return integer("avg_pool2d", [codes(1, 2, 2, 1)], [XQ, YQ], (2, 1, 1), arithmetic=arithmetic, **window)


def of_nine_bits() -> AffineValues:
    values = int8([[-128, 1]], 1.0)
    return AffineValues(bits=8, codes=values.codes, scale=values.scale, zero_point=np.array([1], np.int32))


def layer(values: Values, bias: float, arithmetic: Any, output: Any = YQ) -> Array:
    shape = np.shape(getattr(values, "codes", None))
    weights: dict[str, Values] = {"weight": values, "bias": floats(np.full(shape[0], bias))}
    return integer("linear", [codes(1, shape[1])], [XQ, output], (shape[0],), weights, arithmetic=arithmetic, clamp=None)


REFUSED: list[tuple[Any, str]] = [
    (lambda: integer("concat", [codes(1, 2), codes(1, 2)], [XQ, YQ, XQ], (4,), axis=0), "keeps dtype, scale and zero point"),
    (lambda: integer("reshape", [codes(1, 4)], [XQ, YQ], (2, 2)), "keeps dtype, scale and zero point"),
    (lambda: layer(int8([[1, 2]], 1.0), 0.0, "karui", None), "put a dequantize between"),
    (lambda: integer("softmax", [codes(1, 4)], [XQ, YQ], (4,), axis=0), "no rule for it in integers"),
    (lambda: floats_only("softmax", [normal(1, 4)], (5,), axis=0), r"gives float32 \[4\], but the program says float32 \[5\]"),
    (lambda: floats_only("frobnicate", [normal(1, 4)], (4,)), "no rule"),
    (lambda: integer("add", [codes(1, 2), codes(1, 2)], [XQ, affine(1e9), YQ], (2,), clamp=None), "finer than an input's"),
    (lambda: pooled("litert_ref"), "one scale and zero point on both sides"),
    (lambda: layer(GROUPED, 0.0, "xnnpack"), "LiteRT has one scale per output channel"),
    (lambda: layer(of_nine_bits(), 0.0, "litert_ref"), "LiteRT has weights of 8 bits"),
]


@pytest.mark.parametrize(("call", "says"), REFUSED)
def test_refusals_name_the_layer(call: Any, says: str) -> None:
    with pytest.raises(UnsupportedOp, match=says) as caught:
        call()
    assert "'layer'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "inputs", [[], [np.zeros((1, 16, 16, 1))], [np.zeros((1, 1, 16, 16), np.float32)], [np.zeros((1, 16, 16, 1), np.float32)] * 2]
)
def test_inputs_that_do_not_fit(inputs: list[Array]) -> None:
    with pytest.raises(DataError):
        run(builders.lenet(), inputs)


# ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_integers_follow_floats() -> None:
    """The same LeNet in float and in int8: the logits go together."""
    coarse = builders.lenet(integer=True, pixels=True)
    exact = builders.lenet(pixels=True)
    kept = {
        name: replace(exact.weights[name], values=floats(weight.real())) for name, weight in coarse.weights.items() if name in exact.weights
    }
    exact = replace(exact, weights={**exact.weights, **kept})
    inputs = builders.sample(exact, 64)
    wanted, got = run(exact, inputs)[0], run(coarse, inputs)[0]
    assert np.corrcoef(wanted.ravel(), got.ravel())[0, 1] > 0.99


def test_parts_of_a_batch_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    p = builders.residual(integer=True)
    inputs = builders.sample(p, 7)
    whole = run(p, inputs, keep=True)
    monkeypatch.setattr("karui.program.interpreter._ELEMENTS", 2000)
    parts = run(p, inputs, keep=True)
    assert whole.keys() == parts.keys() == p.tensors.keys()
    assert all((whole[name] == parts[name]).all() for name in whole)
    np.testing.assert_array_equal(run(p, inputs)[0], whole[p.outputs[0].tensor])


def test_one_op_alone_agrees_with_the_run() -> None:
    p = builders.lenet(integer=True)
    values = run(p, builders.sample(p, 3), keep=True)
    for op in p.ops:
        np.testing.assert_array_equal(run_op(p, op, [values[name] for name in op.inputs])[0], values[op.outputs[0]])


def test_an_empty_batch_gives_empty_outputs() -> None:
    assert run(builders.lenet(integer=True), [np.zeros((0, 16, 16, 1), np.float32)])[0].shape == (0, 10)


def test_states_start_at_zero_and_are_carried_by_the_caller() -> None:
    """A running sum: y = x + state, and y is the next state."""
    one = program("add", [tensor("x", (2,), None), tensor("before", (2,), None)], [tensor("y", (2,), None)], clamp=None)
    p = replace(one, inputs=one.inputs[:1], states=(("y", "before"),))
    x = normal(3, 2)
    first = run(p, [x])[0]
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(run(p, [x], states={"before": first})[0], x + x)
    quantized = replace(p, tensors={name: replace(v, dtype="int8", quant=XQ) for name, v in p.tensors.items()})
    q = codes(3, 2)
    np.testing.assert_array_equal(run(quantized, [q])[0], q)
