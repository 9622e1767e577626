"""Every kind that isn't a layer of weights, in C against the interpreter."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.errors import ToolError, UnsupportedOp
from karui.export import c
from karui.export.c_ops import RULES
from karui.program.kinds import KINDS
from karui.program.program import Affine, Output, Program, Sign
from karui.program.unary import FUNCTIONS
from karui.run import host
from tests.export.many import QUICK, check, inputs_of, merged
from tests.program.single_op import affine, codes, floats, int8, normal, program, tensor
from tests.program.weights import make_weight

A, B, Y = affine(0.05, 7), affine(0.031, -20), affine(0.08, 3)
Case = tuple[str, Program]


def one(
    kind: str, shapes: Sequence[Sequence[int]], out: Sequence[int], weights: Any = None, quants: Any = None, dtype: Any = None, **a: Any
) -> Program:
    """One op; ``quants``: of the inputs, then the output; None: floats."""
    quants = quants or [None] * (len(shapes) + 1)
    inputs = [tensor(f"x{i}", s, q, dtype if i == 0 else None) for i, (s, q) in enumerate(zip(shapes, quants))]
    return program(kind, inputs, [tensor("y", out, quants[-1])], weights, **a)


def elementwise() -> Iterator[Case]:
    for kind in ("add", "sub", "mul", "div"):
        for i, (a, b, y) in enumerate(
            (((4, 5, 6), (4, 5, 6), (4, 5, 6)), ((4, 5, 6), (6,), (4, 5, 6)), ((4, 1, 6), (5, 1), (4, 5, 6)), ((1,), (3, 2), (3, 2)))
        ):
            yield f"{kind}{i}", one(kind, [a, b], y, clamp=[-1.0, None] if i % 2 else None)
            if KINDS[kind].integer:
                yield f"{kind}{i} int8", one(kind, [a, b], y, quants=[A, B, Y], clamp=[3, None] if i % 2 else None)
    yield "affine", one("affine", [(4, 5, 3)], (4, 5, 3), {"scale": floats(normal(3)), "bias": floats(normal(3))}, clamp=[None, 0.5])
    yield (
        "pixels",
        one("affine", [(4, 5, 3)], (4, 5, 3), {"scale": floats(normal(3)), "bias": floats(normal(3))}, dtype="uint8", clamp=None),
    )
    yield "clamp", one("clamp", [(3, 7)], (3, 7), clamp=[-0.25, 0.75])
    yield "clamp int8", one("clamp", [(3, 7)], (3, 7), quants=[A, A], clamp=[-9, 44])
    yield "quantize", one("quantize", [(500,)], (500,), quants=[None, Y])
    yield "quantize fine", one("quantize", [(500,)], (500,), quants=[None, affine(0.5, 0)])
    yield "quantize 4", one("quantize", [(50,)], (50,), quants=[None, Affine(bits=4, scale=0.25, zero_point=2)])
    yield "dequantize", one("dequantize", [(50,)], (50,), quants=[A, None])
    yield "signs", one("quantize", [(50,)], (50,), quants=[None, Sign(scale=0.5)])


def reductions() -> Iterator[Case]:
    for i, (axes, keepdims, out) in enumerate(
        (([0, 1], False, (6,)), ([2], True, (4, 5, 1)), ([0, 1, 2], False, ()), ([1], False, (4, 6)))
    ):
        yield f"mean{i}", one("mean", [(4, 5, 6)], out, axes=axes, keepdims=keepdims, clamp=[0.0, None] if i % 2 else None)
        yield f"mean{i} int8", one("mean", [(4, 5, 6)], out, quants=[A, Y], axes=axes, keepdims=keepdims, clamp=None)
        for function in ("sum", "max", "min"):
            yield f"{function}{i}", one("reduce", [(4, 5, 6)], out, function=function, axes=axes, keepdims=keepdims)
    two = {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0, 1, 1]}
    one_d = {"kernel": 3, "stride": 2, "padding": [1, 2]}
    for suffix, shape, out, a in (("2d", (7, 6, 4), (4, 6, 4), two), ("1d", (9, 4), (5, 4), one_d)):
        yield f"max{suffix}", one(f"max_pool{suffix}", [shape], out, **a)
        yield f"max{suffix} int8", one(f"max_pool{suffix}", [shape], out, quants=[A, A], **a)
        for counted in (True, False):
            yield f"avg{suffix} {counted}", one(f"avg_pool{suffix}", [shape], out, **a, count_include_pad=counted, clamp=[-0.5, 0.5])
            yield (
                f"avg{suffix} {counted} int8",
                one(f"avg_pool{suffix}", [shape], out, quants=[A, Y], **a, count_include_pad=counted, clamp=[-5, None]),
            )


def moves() -> Iterator[Case]:
    for suffix, q in (("", None), (" int8", A)):
        two, three = [q, q], [q, q, q]
        yield f"reshape{suffix}", one("reshape", [(3, 4)], (2, 6), quants=two)
        yield f"transpose{suffix}", one("transpose", [(3, 4, 5)], (5, 3, 4), quants=two, perm=[2, 0, 1])
        yield f"transpose rows{suffix}", one("transpose", [(3, 4, 5)], (4, 3, 5), quants=two, perm=[1, 0, 2])
        yield f"slice{suffix}", one("slice", [(3, 9, 2)], (3, 3, 2), quants=two, axis=1, start=2, stop=8, step=2)
        yield f"slice rows{suffix}", one("slice", [(3, 9, 2)], (2, 9, 2), quants=two, axis=0, start=1, stop=3, step=1)
        yield f"concat{suffix}", one("concat", [(3, 2), (3, 5)], (3, 7), quants=three, axis=1)
        yield f"concat rows{suffix}", one("concat", [(1, 5), (3, 5)], (4, 5), quants=three, axis=0)
        value = 1.5 if q is None else -7
        yield f"pad{suffix}", one("pad", [(3, 4, 2)], (6, 4, 3), quants=two, padding=[[1, 2], [0, 0], [0, 1]], value=value)
        yield f"nearest{suffix}", one("upsample_nearest2d", [(3, 4, 2)], (6, 12, 2), quants=two, scale=[2, 3])
    for i, (shape, table, dtype) in enumerate(
        (((4, 5, 3), (256,), "int8"), ((4, 5, 3), (3, 256), "int8"), ((4, 5, 3), (3, 256), "uint8"), ((4, 5, 1), (256,), "uint8"))
    ):
        weights = {"table": int8(codes(*table), 0.1)}
        yield f"lookup{i}", one("lookup", [shape], shape, weights, quants=[A if dtype == "int8" else None, Y], dtype=dtype)
    yield "constant", one("constant", [], (3, 4), {"value": floats(normal(3, 4))}, quants=[None])
    yield "constant int8", one("constant", [], (3, 4), {"value": int8(codes(3, 4), 0.1)}, quants=[Y])


def over_an_axis() -> Iterator[Case]:
    for axis in range(3):
        yield f"softmax{axis}", one("softmax", [(4, 5, 6)], (4, 5, 6), axis=axis)
    for threshold in (0.0, 0.5, 40.0):
        yield f"exit_if {threshold}", one("exit_if", [(7,), (7,)], (7,), threshold=threshold)
    both = {"scale": floats(normal(5, 6)), "bias": floats(normal(5, 6))}
    yield "layer_norm", one("layer_norm", [(4, 5, 6)], (4, 5, 6), both, dims=2, eps=1e-5)
    yield "layer_norm plain", one("layer_norm", [(4, 6)], (4, 6), dims=1, eps=1e-3)
    each = {"scale": floats(normal(6)), "bias": floats(normal(6))}
    yield "group_norm", one("group_norm", [(4, 5, 6)], (4, 5, 6), each, groups=3, eps=1e-5)
    for i, (a, b, transpose, y) in enumerate(
        (
            ((4, 6), (6, 5), False, (4, 5)),
            ((3, 4, 20), (3, 5, 20), True, (3, 4, 5)),
            ((2, 1, 4, 6), (3, 6, 5), False, (2, 3, 4, 5)),
            ((4, 6), (2, 5, 6), True, (2, 4, 5)),
        )
    ):
        yield f"matmul{i}", one("matmul", [a, b], y, transpose_b=transpose, scale=0.3)
    for i, (size, align) in enumerate((((7, 9), False), ((7, 9), True), ((2, 2), False), ((1, 1), True))):
        yield f"bilinear{i}", one("upsample_bilinear2d", [(4, 3, 2)], (*size, 2), size=list(size), align_corners=align)


def functions() -> Iterator[Case]:
    for name in FUNCTIONS:
        alpha = {"pow": 3.0, "leaky_relu": 0.1}.get(name, 0.7)
        yield name, one("unary", [(400,)], (400,), function=name, alpha=alpha)


def embedding(w: Any) -> Program:
    p = program(
        "embedding", [tensor("x", (5,), None, "int32")], [tensor("y", (5, w.shape[1]), None)], {"weight": floats(np.zeros(w.shape))}
    )
    return Program(**{**vars(p), "weights": {"weight": w}})


def tables_and_recurrences() -> Iterator[Case]:
    for support in ("dense", "element", "block", "n:m"):
        for values in ("float", "affine", "sign", "ternary", "codebook"):
            yield f"embedding {support} {values}", embedding(make_weight(support, values, (3, 12), seed=4, name="weight"))
    for kind, gates in (("gru", 3), ("lstm", 4)):
        for i, (support, values) in enumerate((("dense", "float"), ("element", "float"), ("block", "affine"), ("dense", "codebook"))):
            ih = make_weight(support, values, (gates * 5, 7), seed=i, name="weight_ih")
            hh = make_weight("dense" if i == 2 else support, values, (gates * 5, 5), seed=i + 9, name="weight_hh")
            outs = [tensor("y", (6, 5), None), *(tensor(n, (5,), None) for n in ("h", "c")[: gates - 2])]
            given = {"weight_ih": floats(np.zeros(ih.shape)), "weight_hh": floats(np.zeros(hh.shape))}
            if i != 1:
                given |= {"bias_ih": floats(normal(gates * 5)), "bias_hh": floats(normal(gates * 5))}
            p = program(kind, [tensor("x", (6, 7), None)], outs, given, reverse=bool(i % 2))
            weights = {**p.weights, "weight_ih": ih, "weight_hh": hh}
            yield f"{kind} {support} {values}", Program(**{**vars(p), "weights": weights})


GROUPS = {
    "elementwise": elementwise,
    "reductions": reductions,
    "moves": moves,
    "over_an_axis": over_an_axis,
    "functions": functions,
    "tables_and_recurrences": tables_and_recurrences,
}


@pytest.mark.parametrize("group", GROUPS)
def test_like_the_interpreter(group: str, tmp_path: Path) -> None:
    whole = merged(dict(GROUPS[group]()))
    inputs = inputs_of(whole)
    for entry, array in zip(whole.inputs, inputs, strict=True):
        if "quantize" in entry.name and array.dtype == np.float32:  # ties, and more than a code can hold
            array[0] = (np.arange(array.shape[1]) - array.shape[1] / 2).reshape(array.shape[1:]) / 4
            array[1].reshape(-1)[:3] = np.nan, np.inf, -np.inf
    check(whole, tmp_path, inputs)


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(KINDS)


def test_a_code_outside_the_table_is_refused(tmp_path: Path) -> None:
    library = host.build(c.write(embedding(make_weight("dense", "float", (3, 4), seed=0, name="weight")), tmp_path), flags=QUICK)
    for bad in (3, -1):
        with pytest.raises(ToolError, match="outside its table"):
            library.run([np.full((1, 5), bad, np.int32)])


def test_an_unknown_function_is_named(tmp_path: Path) -> None:
    p = one("unary", [(4,)], (4,), function="mystery", alpha=None)
    with pytest.raises(UnsupportedOp, match="'layer' .unary.: function 'mystery'"):
        c.write(p, tmp_path)
    with pytest.raises(UnsupportedOp, match="'layer' .twirl.: kind 'twirl'"):
        c.write(one("twirl", [(4,)], (4,)), tmp_path)


def test_an_output_twice_and_an_input_as_output(tmp_path: Path) -> None:
    p = one("clamp", [(3,)], (3,), clamp=[0.0, None])
    more = (Output(name="same", tensor="x0"), Output(name="twice", tensor="y"))
    check(Program(**{**vars(p), "outputs": (*p.outputs, *more)}), tmp_path)
