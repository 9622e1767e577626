"""``.tflite`` files in LiteRT: floats within 1e-4 of the greatest, integers bit for bit, with its reference kernels and with XNNPACK's."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.errors import ToolError, UnsupportedOp
from karui.export import litert as target
from karui.export.litert_ops import RULES
from karui.export.litert_recurrent import STEPS
from karui.export.litert_unary import FUNCTIONS
from karui.program import unary
from karui.program.interpreter import Arithmetic, run
from karui.program.kinds import KINDS
from karui.program.program import Array, Output, Program
from karui.run.litert import load
from tests.export.many import inputs_of, merged
from tests.export.test_c_layers import LAYERS, integral, one_layer
from tests.export.test_c_ops import GROUPS, one
from tests.program.builders import ALL, NHWC, PLAIN, Builder, lenet, residual, sample
from tests.program.single_op import affine, floats, int8, normal, program, tensor
from tests.program.weights import SUPPORTS, VALUES, make_weight

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT is not installed (karui[litert])")

KERNELS: list[Arithmetic] = ["litert_ref", "xnnpack"]
both = pytest.mark.parametrize("arithmetic", KERNELS)
ONLY_OPTIMIZED = ("elu", "celu", "selu", "ceil", "round")  # of ELU, CEIL and ROUND the runtime has no reference kernel


def agree(p: Program, found: list[Array], expected: list[Array], *, off: int = 0) -> None:
    """Floats within 1e-4 of the greatest; codes equal, or at most ``off`` apart on a tenth of the values."""
    for out, a, b in zip(p.outputs, found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, out.name
        if a.dtype != np.float32:
            apart = np.abs(a.astype(int) - b.astype(int))
            assert apart.max(initial=0) <= off and (apart > 0).mean() <= 0.1, f"{out.name}: {apart.max()}, {(apart > 0).mean():.3f}"
            continue
        assert np.array_equal(np.isfinite(a), np.isfinite(b)), out.name
        finite = np.isfinite(b)
        worst = np.abs(a[finite] - b[finite]).max(initial=0) / max(np.abs(b[finite]).max(initial=0), 1e-30)
        assert worst <= 1e-4, f"{out.name}: {worst:.2e}"


def check(p: Program, folder: Path, arithmetic: Arithmetic, inputs: list[Array] | None = None, *, off: int = 0) -> None:
    """Against the arithmetic of the kernels that run; against ``karui`` where ``off`` says that it is none of LiteRT's."""
    inputs = inputs_of(p) if inputs is None else inputs
    found = load(target.write(p, folder), reference=arithmetic == "litert_ref").run(inputs)
    agree(p, found, run(p, inputs, arithmetic="karui" if off else arithmetic), off=off)


def split(programs: Mapping[str, Program]) -> tuple[dict[str, Program], dict[str, Program]]:
    """Those that LiteRT's arithmetics have a meaning for, and those that it computes in floats between int8 tensors."""
    exact, other = {}, {}
    for name, p in programs.items():
        try:
            run(p, inputs_of(p, 1), arithmetic="litert_ref")
        except UnsupportedOp:
            other[name] = p
        else:
            exact[name] = p
    return exact, other


def check_all(programs: Mapping[str, Program], folder: Path, arithmetic: Arithmetic) -> None:
    exact, other = split(programs)
    check(merged(exact), folder, arithmetic)
    if other:
        check(merged(other), folder, arithmetic, off=1)


# ── whole networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ALL)
@both
def test_float_networks(name: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    p = ALL[name](sparsity=0.5)
    check(p, tmp_path, arithmetic, sample(p, 20))


@pytest.mark.parametrize("name", ALL)
@both
def test_int8_networks(name: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    p = ALL[name](integer=True)
    if name == "residual":  # ends in a dequantize: the codes before it
        p = replace(p, outputs=(Output(name="output", tensor="fc_y"),))
    check(p, tmp_path, arithmetic, sample(p, 100))


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("network", [lenet, residual])
@both
def test_pixels_go_in_as_bytes(network: Any, integer: bool, arithmetic: Arithmetic, tmp_path: Path) -> None:
    p = network(integer=integer, pixels=True)
    check(p, tmp_path, arithmetic, sample(p, 50))


def operators(p: Program) -> Counter[str]:
    """What the file has in it, by name."""
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
    model = opened(target.encode(p))
    return Counter(names[model.operatorCodes[o.opcodeIndex].builtinCode] for o in model.subgraphs[0].operators)


def test_layers_of_int8_are_integer_operators_and_nothing_else() -> None:
    assert operators(lenet(integer=True)) == {"CONV_2D": 2, "MAX_POOL_2D": 1, "RESHAPE": 1, "FULLY_CONNECTED": 2}
    p = residual(integer=True)
    assert operators(p) == {"CONV_2D": 6, "PAD": 1, "ADD": 2, "MEAN": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}


def test_convolutions_of_sequences_are_reshaped_once() -> None:
    assert operators(ALL["sensor"]())["RESHAPE"] == 2  # into an image of one row, and flat


def test_int8_files_are_a_quarter_of_float() -> None:
    sizes = [len(target.encode(lenet(integer=i, width=(20, 50, 500), size=28))) for i in (True, False)]
    assert sizes[0] < 0.26 * sizes[1]


# ── op by op ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("group", GROUPS)
@both
def test_every_kind(group: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    left_out = ONLY_OPTIMIZED if arithmetic == "litert_ref" else ()
    check_all({name: p for name, p in GROUPS[group]() if name not in left_out}, tmp_path, arithmetic)


def pairs(support: str, integer: bool) -> dict[str, Program]:
    """As ``all_pairs``, each for itself."""
    found = {}
    for values in VALUES:
        for i, (name, (kind, _, shape, _)) in enumerate(LAYERS.items()):
            if integer and (values == "float" or kind == "conv_transpose2d"):
                continue
            for bits, density in ((8, 0.3), (4, 0.7), (2, 0.05)):
                w = make_weight(support, values, shape, seed=100 * i + bits, density=density, bits=bits, name="weight")
                found[f"{values}{bits} {name}"] = one_layer(name, integral(w) if integer else w, integer=integer, seed=i)
    return found


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("support", SUPPORTS)
@both
def test_every_pair(support: str, integer: bool, arithmetic: Arithmetic, tmp_path: Path) -> None:
    check_all(pairs(support, integer), tmp_path, arithmetic)


def test_every_kind_and_function_has_a_rule() -> None:
    assert set(RULES) == set(KINDS) and set(FUNCTIONS) == set(unary.FUNCTIONS)


@both
def test_layers_of_one_channel(arithmetic: Arithmetic, tmp_path: Path) -> None:
    """With one scale a runtime may take another path than with several."""
    b = Builder("one", integer=True, seed=3)
    x = b.conv2d(b.input((9, 9, 4), NHWC), 1, 3, name="conv")
    check(b.finish(b.linear(b.flatten(x), 1, name="fc"), x), tmp_path, arithmetic, sample(b.finish(x), 200))


@both
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_convolutions_without_a_bias(arithmetic: Arithmetic, groups: int, tmp_path: Path) -> None:
    """In floats the runtime refuses some of them, and crashes on the depthwise ones."""
    ends = [tensor("x", (9, 16), None)], [tensor("y", (9, 16), None)]
    weight = floats(np.random.default_rng(0).standard_normal((16, 3, 16 // groups)).astype(np.float32))
    p = program("conv1d", *ends, {"weight": weight}, stride=1, padding=[1, 1], dilation=1, groups=groups, clamp=None)
    check(p, tmp_path, arithmetic)


@both
@pytest.mark.parametrize(
    ("size", "stride", "padding", "extra"),
    [((4, 4), [2, 2], [1, 1, 1, 1], [0, 0]), ((3, 3), [2, 2], [1, 1, 1, 1], [1, 1]), ((3, 2), [1, 2], [0, 0, 0, 0], [0, 1])],
)
def test_transposed_convolutions(arithmetic: Arithmetic, tmp_path: Path, size: Any, stride: Any, padding: Any, extra: Any) -> None:
    w = normal(3, *size, 5)
    rows, columns = ((n - 1) * s - 2 * p + k + e for n, s, p, k, e in zip((4, 5), stride, padding, size, extra))
    a = {"stride": stride, "padding": padding, "dilation": [1, 1], "groups": 1, "output_padding": extra, "clamp": None}
    p = program("conv_transpose2d", [tensor("x", (4, 5, 5), None)], [tensor("y", (rows, columns, 3), None)], {"weight": floats(w)}, **a)
    check(p, tmp_path, arithmetic)
    if padding[0] == 1 and not extra[0]:  # SAME cuts the same away: nothing is left to do
        assert operators(p) == {"TRANSPOSE_CONV": 1}


CLAMPS: list[tuple[list[Any], str]] = [
    ([3, None], "RELU"),
    ([3, 123], "RELU6"),  # 6 / 0.05 = 120 codes above zero
    ([-17, 23], "RELU_N1_TO_1"),
    ([3, 100], "NONE"),
    ([-20, 127], "NONE"),
]


@both
@pytest.mark.parametrize(("clamp", "fused"), CLAMPS)
def test_clamps_are_fused_only_where_they_are_the_same(arithmetic: Arithmetic, clamp: list[Any], fused: str, tmp_path: Path) -> None:
    w = int8(np.random.default_rng(0).integers(-127, 128, (6, 9)), 0.02)
    x, y = tensor("x", (9,), affine(0.05, 7)), tensor("y", (6,), affine(0.05, 3))
    p = program("linear", [x], [y], {"weight": w}, clamp=clamp)
    check(p, tmp_path, arithmetic, inputs_of(p, 300))
    options = opened(target.encode(p)).subgraphs[0].operators[0].builtinOptions
    assert options.fusedActivationFunction == getattr(schema.ActivationFunctionType, fused)


@both
@pytest.mark.parametrize(("bits", "kind"), [(4, "INT4"), (2, "INT2")])
def test_matrices_of_few_bits_are_written_in_few_bits(arithmetic: Arithmetic, bits: int, kind: str, tmp_path: Path) -> None:
    b = Builder("few", integer=True, bits=bits, seed=bits)
    p = b.finish(b.linear(b.input((200,), PLAIN), 65, name="fc"))
    check(p, tmp_path, arithmetic, sample(p, 100))
    held = {t.name.decode(): t for t in opened(target.encode(p)).subgraphs[0].tensors}
    assert held["fc.weight"].type == getattr(schema.TensorType, kind)
    assert len(target.encode(p)) < 200 * 65 * bits // 8 + 3000
    b = Builder("conv", integer=True, bits=bits, seed=bits)  # whose kernels for few bits round in another way
    q = b.finish(b.conv2d(b.input((8, 8, 4), NHWC), 8, 3, name="conv"))
    assert {t.name.decode(): t.type for t in opened(target.encode(q)).subgraphs[0].tensors}["conv.weight"] == schema.TensorType.INT8


@both
def test_codes_under_floats_stay_codes(arithmetic: Arithmetic, tmp_path: Path) -> None:
    wide, p = lenet(), lenet(integer=True)
    weights = {name: p.weights[name] if name.endswith("weight") else w for name, w in wide.weights.items()}
    q = replace(wide, weights=weights)
    check(q, tmp_path, arithmetic, sample(q, 20))
    assert len(target.encode(q)) < 0.45 * len(target.encode(wide))


def test_a_bias_beyond_32_bits_makes_its_layer_float(tmp_path: Path) -> None:
    p = ALL["sensor"](integer=True)
    data = p.weights["conv1.bias"].values.data.copy()
    data[0] = 1e9
    p = replace(p, weights={**p.weights, "conv1.bias": replace(p.weights["conv1.bias"], values=floats(data))})
    cut = replace(p, ops=p.ops[:2], outputs=(Output(name="output", tensor="conv1_y"),))
    check(cut, tmp_path, "xnnpack", sample(cut, 10), off=1)


def test_an_output_twice_and_an_input_as_output(tmp_path: Path) -> None:
    p = one("clamp", [(3,)], (3,), clamp=[0.0, None])
    outputs = (*p.outputs, Output(name="same", tensor="x0"), Output(name="twice", tensor="y"))
    check(replace(p, outputs=outputs), tmp_path, "xnnpack")


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def opened(data: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def test_the_same_program_gives_the_same_bytes() -> None:
    assert target.encode(residual(integer=True)) == target.encode(residual(integer=True))


def test_it_says_what_it_is(tmp_path: Path) -> None:
    p = lenet(integer=True, pixels=True)
    artifact = target.write(p, tmp_path, name="digits")
    assert artifact.main == tmp_path / "digits.tflite" and artifact.target == "litert" and artifact.files == (artifact.main,)
    model = opened(artifact.main.read_bytes())
    assert model.description == b"karui" and artifact.main.read_bytes()[4:8] == b"TFL3"
    (entry,) = model.metadata
    facts = json.loads(bytes(model.buffers[entry.buffer].data))
    assert entry.name == b"karui" and facts == artifact.facts
    assert facts["labels"]["output"] == list("0123456789") and facts["pixels"]["input"]["mean"] == [0.286]
    (signature,) = model.signatureDefs
    assert signature.signatureKey == b"serving_default"
    tensors = model.subgraphs[0].tensors
    ends = {m.name.decode(): tensors[m.tensorIndex] for m in (*signature.inputs, *signature.outputs)}
    assert {name: (list(t.shape), t.type) for name, t in ends.items()} == {
        "input": ([1, 16, 16, 1], schema.TensorType.UINT8),
        "output": ([1, 10], schema.TensorType.INT8),
    }
    quant = p.tensor(p.outputs[0].tensor).quant
    assert ends["output"].quantization.scale[0] == np.float32(quant.scale)
    assert ends["output"].quantization.zeroPoint[0] == quant.zero_point


def test_data_lies_where_processors_can_read_it() -> None:
    """LiteRT reads constants in place, in 16 bytes at a time."""
    data = target.encode(residual())
    model = schema.Model.GetRootAs(data, 0)
    held = [model.Buffers(i) for i in range(model.BuffersLength())]
    places = [b._tab.Vector(b._tab.Offset(4)) for b in held if b.DataLength()]
    assert len(places) > 5 and all(place % 16 == 0 for place in places)


def test_nothing_is_stored_twice_and_nothing_that_nobody_reads() -> None:
    b = Builder("twins", seed=1)
    x = b.linear(b.input((64,), PLAIN), 64, name="fc")
    weights = {"weight": "fc.weight", "bias": "fc.bias"}
    y = b.op("linear", "again", (x,), b.tensor("y", (64,), PLAIN), weights, clamp=None)
    alone = len(target.encode(b.finish(x)))
    assert len(target.encode(b.finish(y))) < alone + 800
    assert len(target.encode(replace(b.finish(y), outputs=b.finish(x).outputs))) == alone


def test_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOp, match="'layer' .unary.: function 'mystery', which target 'litert'"):
        target.write(program("unary", [tensor("x", (4,), None)], [tensor("y", (4,), None)], function="mystery", alpha=None), tmp_path)
    with pytest.raises(UnsupportedOp, match="kind 'twirl'"):
        target.write(program("twirl", [tensor("x", (4,), None)], [tensor("y", (4,), None)]), tmp_path)
    held = {"weight_ih": floats(normal(6, 2)), "weight_hh": floats(normal(6, 2))}
    long = program(
        "gru", [tensor("x", (STEPS + 1, 2), None)], [tensor("y", (STEPS + 1, 2), None), tensor("h", (2,), None)], held, reverse=False
    )
    with pytest.raises(UnsupportedOp, match=rf"'layer' .gru.: {STEPS + 1} steps"):
        target.write(long, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ToolError, match=r'pip install "karui\[litert\]"'):
        target.write(lenet(), tmp_path)
