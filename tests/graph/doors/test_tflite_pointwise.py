from pathlib import Path

import numpy as np
import pytest
import torch

from karui.lower.lower import lower
from tests.graph.doors.tflite_files import Build, agrees

rng = np.random.default_rng(2)
PLAIN = "LOGISTIC TANH RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 ELU FLOOR CEIL ROUND SIN"
UNARY = {
    **dict.fromkeys(PLAIN.split(), ""),
    "HARD_SWISH": "HardSwishOptions",
    "ABS": "AbsOptions",
    "EXP": "ExpOptions",
    "SQUARE": "SquareOptions",
    "NEG": "NegOptions",
    "COS": "CosOptions",
    "SIGN": "SignOptions",
}
POSITIVE = ("LOG", "SQRT", "RSQRT")
BINARY = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions", "MAXIMUM": "MaximumMinimumOptions",
          "MINIMUM": "MaximumMinimumOptions", "SQUARED_DIFFERENCE": "SquaredDifferenceOptions"}  # fmt: skip
COMPARED = ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")


def fields(options: str) -> dict[str, int]:
    return {"fusedActivationFunction": 1} if options in ("AddOptions", "SubOptions", "MulOptions", "DivOptions") else {}


@pytest.mark.parametrize("kind", [*UNARY, *POSITIVE])
def test_functions_of_one_value(tmp_path: Path, kind: str) -> None:
    b = Build()
    y = b.op(kind, [b.input([1, 4, 5, 3])], UNARY.get(kind, ""), rank=4)
    network = agrees(b, tmp_path / "a.tflite", y, low=0.5 if kind in POSITIVE else -4.0, high=8.0)
    assert "permute" not in str(network.module.graph)


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("shape", [(1, 4, 5, 3), (3,), (), (1, 1), (5, 1), (1, 4, 1, 1), (4, 5, 3)])
def test_a_value_and_a_constant(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    other = rng.uniform(0.5, 2, shape).astype(np.float32)
    for swapped in (False, True):
        b = Build()
        operands = [b.input([1, 4, 5, 3]), b.constant(other)]
        y = b.op(kind, operands[::-1] if swapped else operands, BINARY[kind], rank=4, **fields(BINARY[kind]))
        network = agrees(b, tmp_path / "a.tflite", y, low=0.5, high=3)
        assert "permute" not in str(network.module.graph)


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("shape", [(1, 4, 5, 3), (1, 1, 1, 3), (1, 4, 1, 1), (1, 5, 3), (1, 3)])
def test_two_values(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    b = Build()
    y = b.op(kind, [b.input([1, 4, 5, 3]), b.input(shape)], BINARY[kind], rank=4, **fields(BINARY[kind]))
    lower(agrees(b, tmp_path / "a.tflite", y, low=0.5, high=3))


def test_powers(tmp_path: Path) -> None:
    b = Build()
    y = b.op("POW", [b.input([1, 4]), b.constant(1.5)], "PowOptions")
    network = agrees(b, tmp_path / "a.tflite", y, low=0.5)
    assert "pow.Tensor_Scalar" in str(network.module.graph)


@pytest.mark.parametrize("kind", COMPARED)
def test_comparisons_and_choices(tmp_path: Path, kind: str) -> None:
    b = Build()
    x, z = b.input([1, 4, 5, 3]), b.input([1, 4, 5, 3])
    options = {"GREATER": "GreaterOptions", "LESS": "LessOptions"}.get(kind, "")
    where = b.op(kind, [x, z], options, dtype="BOOL", rank=4)
    turned = b.op("LOGICAL_NOT", [where], dtype="BOOL", rank=4)
    both = b.op("LOGICAL_AND", [turned, b.constant(rng.random((4, 5, 3)) > 0.2)], "LogicalAndOptions", dtype="BOOL", rank=4)
    either = b.op("LOGICAL_OR", [both, where], "LogicalOrOptions", dtype="BOOL", rank=4)
    y = b.op("SELECT_V2", [either, x, b.constant(rng.random((5, 1)).astype(np.float32))], "SelectV2Options", rank=4)
    agrees(b, tmp_path / "a.tflite", y, b.op("CAST", [either], "CastOptions", rank=4))


def test_an_older_choice(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 4])
    where = b.op("GREATER", [x, b.constant(0.0)], dtype="BOOL")
    agrees(b, tmp_path / "a.tflite", b.op("SELECT", [where, x, b.op("NEG", [x])], "SelectOptions"))


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 5, 3), (1, 1, 1)])
def test_slopes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    b = Build()
    y = b.op("PRELU", [b.input([1, 4, 5, 3]), b.constant(rng.random(shape).astype(np.float32))], rank=4)
    network = agrees(b, tmp_path / "a.tflite", y)
    assert ("prelu" in str(network.module.graph)) == (shape != (4, 5, 3))


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu(tmp_path: Path, approximate: bool) -> None:
    b = Build()
    agrees(b, tmp_path / "a.tflite", b.op("GELU", [b.input([1, 9])], "GeluOptions", approximate=approximate))


def test_leaky_relu(tmp_path: Path) -> None:
    b = Build()
    agrees(b, tmp_path / "a.tflite", b.op("LEAKY_RELU", [b.input([1, 9])], "LeakyReluOptions", alpha=0.3))


@pytest.mark.parametrize("shape", [(1, 6), (1, 4, 5, 3)])
@pytest.mark.parametrize(
    "kind, options", [("SOFTMAX", "SoftmaxOptions"), ("LOG_SOFTMAX", "LogSoftmaxOptions"), ("L2_NORMALIZATION", "L2NormOptions")]
)
def test_norms_along_the_last_axis(tmp_path: Path, shape: tuple[int, ...], kind: str, options: str) -> None:
    b = Build()
    y = b.op(kind, [b.input(shape)], options, rank=len(shape), **({"beta": 0.5} if kind == "SOFTMAX" else {}))
    network = agrees(b, tmp_path / "a.tflite", y)
    assert "permute" not in str(network.module.graph)
    lower(network)


def test_a_layer_norm_written_out(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 5, 8])
    axis = b.constant(np.array([2]))
    mean = b.op("MEAN", [x, axis], "ReducerOptions", keepDims=True, rank=3)
    power = b.op("MEAN", [b.op("SQUARED_DIFFERENCE", [x, mean], rank=3), axis], "ReducerOptions", keepDims=True, rank=3)
    root = b.op("RSQRT", [b.op("ADD", [power, b.constant(1e-5)], "AddOptions", rank=3)], rank=3)
    y = b.op("MUL", [b.op("SUB", [x, mean], "SubOptions", rank=3), root], "MulOptions", rank=3)
    network = agrees(b, tmp_path / "a.tflite", y)
    x_in = torch.randn(2, 5, 8)
    torch.testing.assert_close(network(x_in)[0], torch.nn.functional.layer_norm(x_in, [8]), rtol=1e-4, atol=1e-5)


def test_integer_division_of_shapes_is_known(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 6, 4])
    two = b.op("DIV", [b.constant(np.array([1, 7, 9])), b.constant(np.array([1, 2, 2]))], "DivOptions", dtype="INT32")
    y = b.op("RESHAPE", [x, b.op("ADD", [two, b.constant(np.array([0, 0, 4]))], "AddOptions", dtype="INT32")], "ReshapeOptions")
    network = agrees(b, tmp_path / "a.tflite", y)
    assert tuple(network(torch.zeros(5, 6, 4))[0].shape) == (5, 3, 8)
