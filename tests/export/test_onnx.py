"""ONNX against the interpreter: floats within 1e-4 of the greatest, integers within one code on all but a few values."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from karui.errors import RecipeError, ToolError, UnsupportedOp
from karui.export import onnx as target
from karui.export.onnx_ops import FUNCTIONS, RULES
from karui.program import unary
from karui.program.interpreter import run
from karui.program.kinds import KINDS
from karui.program.program import Array, Output, Program
from karui.run.onnxruntime import load
from tests.export.many import inputs_of, merged
from tests.export.test_c_layers import all_pairs
from tests.export.test_c_ops import GROUPS, embedding
from tests.program.builders import ALL, NHWC, Builder, lenet, residual, sample
from tests.program.single_op import affine, floats, normal, program, tensor
from tests.program.weights import SUPPORTS, make_weight


def agree(p: Program, found: list[Array], expected: list[Array], *, differing: float = 0.06) -> None:
    """Floats within 1e-4 of the greatest; codes within one, and ``differing`` says on how many of them."""
    for out, a, b in zip(p.outputs, found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, out.name
        if a.dtype != np.float32:
            off = np.abs(a.astype(int) - b.astype(int))
            assert off.max(initial=0) <= 1 and (off > 0).mean() <= differing, f"{out.name}: {off.max()}, {(off > 0).mean():.3f}"
            continue
        finite = np.isfinite(b)
        worst = np.abs(a[finite] - b[finite]).max(initial=0) / max(np.abs(b[finite]).max(initial=0), 1e-30)
        assert worst <= 1e-4, f"{out.name}: {worst:.2e}"


def check(p: Program, folder: Path, inputs: list[Array] | None = None, **how: float) -> None:
    inputs = inputs_of(p) if inputs is None else inputs
    agree(p, load(target.write(p, folder)).run(inputs), run(p, inputs), **how)


# ── whole networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sparsity", [0.0, 0.8])
def test_float_networks(name: str, sparsity: float, tmp_path: Path) -> None:
    p = ALL[name](sparsity=sparsity)
    check(p, tmp_path, sample(p, 20))


@pytest.mark.parametrize("name", ALL)
def test_int8_networks(name: str, tmp_path: Path) -> None:
    p = ALL[name](integer=True)
    if name == "residual":  # ends in a dequantize; a step of its scale is one code
        p = replace(p, outputs=(Output(name="output", tensor="fc_y"),))
    inputs = sample(p, 200)
    found, expected = load(target.write(p, tmp_path)).run(inputs)[0], run(p, inputs)[0]
    off = np.abs(found.astype(int) - expected.astype(int))
    # end to end a difference of one code travels on, so a few are two apart
    assert off.max() <= 3 and (off > 1).mean() < 0.01 and (off > 0).mean() < 0.15
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.97


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("network", [lenet, residual])
def test_pixels_go_in_as_bytes(network, integer: bool, tmp_path: Path) -> None:
    p = network(integer=integer, pixels=True)
    artifact = target.write(p, tmp_path)
    declared = onnx.load(artifact.main).graph.input[0].type.tensor_type
    assert declared.elem_type == onnx.TensorProto.UINT8
    h, w, c = p.tensor("input").shape
    assert [d.dim_param or d.dim_value for d in declared.shape.dim] == ["N", c, h, w]
    found, expected = load(artifact).run(sample(p, 100))[0], run(p, sample(p, 100))[0]
    step = 0.05 if integer and found.dtype == np.float32 else 1  # of the codes behind residual's floats
    assert np.abs(found.astype(float) - expected).max() <= (3 * step if integer else 1e-4 * np.abs(expected).max())
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.97


def optimised(p: Program, folder: Path) -> Counter[str]:
    """What onnxruntime really runs."""
    load(target.write(p, folder), optimised=folder / "optimised.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_integer_networks_run_in_integers(tmp_path: Path) -> None:
    assert optimised(lenet(integer=True), tmp_path).items() >= Counter({"QLinearConv": 2, "QGemm": 2, "DequantizeLinear": 1}).items()
    ops = optimised(residual(integer=True), tmp_path)
    assert (ops["QLinearConv"], ops["QLinearAdd"], ops["QLinearGlobalAveragePool"], ops["QGemm"]) == (6, 2, 1, 1)
    assert not {"Conv", "FusedConv", "Gemm", "Add"} & set(ops) and ops["DequantizeLinear"] == 1
    assert optimised(ALL["depthwise"](integer=True), tmp_path)["QLinearConv"] == 5


def test_a_flatten_costs_no_transpose(tmp_path: Path) -> None:
    for integer in (False, True):
        kinds = [node.op_type for node in onnx.load(target.write(lenet(integer=integer), tmp_path).main).graph.node]
        assert "Transpose" not in kinds


def test_int8_files_are_a_quarter_of_float(tmp_path: Path) -> None:
    sizes = [target.write(lenet(integer=i, width=(20, 50, 500), size=28), tmp_path).main.stat().st_size for i in (True, False)]
    assert sizes[0] < 0.27 * sizes[1]


# ── op by op ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("group", GROUPS)
def test_every_kind(group: str, tmp_path: Path) -> None:
    check(merged(dict(GROUPS[group]())), tmp_path)


@pytest.mark.parametrize("opset", range(target.OPSET, target.NEWEST + 1))
def test_every_opset(opset: int, tmp_path: Path) -> None:
    """Every kind, and whole networks, say the same in each."""
    everything = merged({f"{group}.{name}": p for group, each in GROUPS.items() for name, p in each()})
    networks = merged({f"{name}.{i}": ALL[name](integer=i) for name in ("lenet", "residual") for i in (True, False)})
    for p in (everything, networks):
        inputs = inputs_of(p)
        artifact = target.write(p, tmp_path, opset=opset)
        assert onnx.load(artifact.main).opset_import[0].version == opset
        agree(p, load(artifact).run(inputs), run(p, inputs), differing=0.2)


def test_an_opset_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected 17 to 23, got 11"):
        target.write(lenet(), tmp_path, opset=11)


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("support", SUPPORTS)
def test_every_pair(support: str, integer: bool, tmp_path: Path) -> None:
    check(all_pairs(support, integer), tmp_path, differing=0.08)  # its scales are large, so the rounding of a bias shows


def test_embeddings_and_recurrences(tmp_path: Path) -> None:
    programs = {}
    for values in ("float", "affine", "sign", "ternary", "codebook"):
        programs[f"embedding {values}"] = embedding(make_weight("element", values, (3, 12), seed=4, name="weight"))
    for kind, gates in (("gru", 3), ("lstm", 4)):
        for reverse in (False, True):
            outs = [tensor("y", (6, 5), None), *(tensor(n, (5,), None) for n in ("h", "c")[: gates - 2])]
            held = {"weight_ih": floats(normal(gates * 5, 7)), "weight_hh": floats(normal(gates * 5, 5))}
            if reverse:
                held |= {"bias_ih": floats(normal(gates * 5)), "bias_hh": floats(normal(gates * 5))}
            programs[f"{kind} {reverse}"] = program(kind, [tensor("x", (6, 7), None)], outs, held, reverse=reverse)
    check(merged(programs), tmp_path)


def test_every_kind_and_function_has_a_rule() -> None:
    assert set(RULES) == set(KINDS) and set(FUNCTIONS) == set(unary.FUNCTIONS)


@pytest.mark.parametrize("integer", [False, True])
def test_axes_are_followed_through_transposes_and_flattens(integer: bool, tmp_path: Path) -> None:
    """An image that is moved, cut, joined and flattened in orders that its channels-first form has to follow."""
    b = Builder("axes", integer=integer, seed=6)
    x = b.conv2d(b.input((6, 5, 3), NHWC), 4, 3, name="conv", pad=1)
    moved = b.op("transpose", "moved", (x,), b.tensor("moved", (4, 6, 5), "plain", like=x), perm=[2, 0, 1])
    cut = b.op("slice", "cut", (moved,), b.tensor("cut", (4, 3, 5), "plain", like=x), axis=1, start=0, stop=6, step=2)
    back = b.op("transpose", "back", (cut,), b.tensor("back", (3, 5, 4), NHWC, like=x), perm=[1, 2, 0])
    zero = b.tensors[x].quant.zero_point if integer else 0.0
    padded = b.op("pad", "pad", (back,), b.tensor("pad", (6, 5, 4), NHWC, like=x), padding=[[1, 2], [0, 0], [0, 0]], value=zero)
    joined = b.op("concat", "join", (padded, x), b.tensor("join", (6, 5, 8), NHWC, like=x), axis=2)
    b.square["join"] = b.square[x]
    y = b.conv2d(joined, 6, 3, name="conv2", stride=2, pad=1)
    flat = b.flatten(y)
    halves = [
        b.op("slice", f"half{i}", (flat,), b.tensor(f"half{i}", (27,), "plain", like=flat), axis=0, start=27 * i, stop=27 * i + 27, step=1)
        for i in range(2)
    ]
    b.square.update(dict.fromkeys(halves, 0.5))
    square = b.op("reshape", "square", (flat,), b.tensor("square", (6, 9), "plain", like=flat))
    b.square["square"] = 0.5
    p = b.finish(b.linear(flat, 5, name="whole"), b.linear(halves[1], 5, name="second"), b.linear(square, 4, name="rows"), moved, joined)
    check(p, tmp_path, sample(p, 30), differing=0.08)


def test_outputs_have_the_networks_axes(tmp_path: Path) -> None:
    b = Builder("image", seed=1)
    p = b.finish(b.conv2d(b.input((6, 5, 3), NHWC), 4, 3, name="conv"))
    shape = onnx.load(target.write(p, tmp_path).main).graph.output[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["N", 4, 4, 3]


def test_a_bias_beyond_32_bits_stays_float(tmp_path: Path) -> None:
    p = ALL["sensor"](integer=True)
    data = p.weights["conv1.bias"].values.data.copy()
    data[0] = 1e9
    p = replace(p, weights={**p.weights, "conv1.bias": replace(p.weights["conv1.bias"], values=floats(data))})
    one = replace(p, ops=p.ops[:2], outputs=(Output(name="output", tensor="conv1_y"),))
    check(one, tmp_path, sample(one, 10))


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_program_gives_the_same_bytes() -> None:
    assert target.encode(residual(integer=True)) == target.encode(residual(integer=True))


def test_it_says_what_it_is(tmp_path: Path) -> None:
    artifact = target.write(lenet(integer=True), tmp_path, name="digits")
    assert artifact.main == tmp_path / "digits.onnx" and artifact.target == "onnx" and artifact.files == (artifact.main,)
    model = onnx.load(artifact.main)
    onnx.checker.check_model(model, full_check=True)
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["karui"])
    assert facts == artifact.facts and facts["labels"]["output"] == list("0123456789")
    assert model.opset_import[0].version == target.OPSET


def test_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOp, match="'layer' .unary.: function 'mystery', which target 'onnx'"):
        target.write(program("unary", [tensor("x", (4,), None)], [tensor("y", (4,), None)], function="mystery", alpha=None), tmp_path)
    with pytest.raises(UnsupportedOp, match="kind 'twirl'"):
        target.write(program("twirl", [tensor("x", (4,), None)], [tensor("y", (4,), None)]), tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ToolError, match="pip install"):
        target.write(lenet(), tmp_path)


def test_pixels_out_of_a_quantized_pair_keep_their_reals(tmp_path: Path) -> None:
    """uint8 in the file and int8 in the Program are the same real numbers."""
    p = program("quantize", [tensor("x", (500,), None)], [tensor("y", (500,), affine(0.1, -37))])
    x = np.linspace(-20, 20, 1000, dtype=np.float32).reshape(2, 500)
    assert np.array_equal(load(target.write(p, tmp_path)).run([x])[0], run(p, [x])[0])
