"""Files that compute in integers: weights train, activations are rounded to the file's grids, and lowering gives the same integers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from karui.errors import UnsupportedOp
from karui.graph.doors.onnx import read
from karui.lower.lower import lower
from karui.program.interpreter import run
from karui.program.program import AffineValues
from tests.graph.doors.onnx_models import check, expected, model, ops_of, saved

N, F = helper.make_node, np.float32
RNG = np.random.default_rng(7)


def scalar(value: float, dtype: Any = F) -> np.ndarray:
    return np.array(value, dtype)


def codes(*shape: int, dtype: Any = np.int8) -> np.ndarray:
    """Numbers so small that pairs of products fit into the 16 bits in which onnxruntime adds them on some machines."""
    return RNG.integers(max(np.iinfo(dtype).min, -60), 60, shape).astype(dtype)


GRID = {"s": scalar(0.05), "z": scalar(120, np.uint8), "t": scalar(0.1), "u": scalar(130, np.uint8)}


def images(*shape: int) -> np.ndarray:
    return RNG.uniform(-3, 3, shape).astype(F)


def coded_layer(kind: str, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, moves: tuple[Any, ...] = (), **attributes: Any) -> Any:
    """x → Q → (moves) → DQ → layer with a DQ'd weight and bias → Q → DQ."""
    axis = {"axis": 0} if scale.ndim else {}
    last = moves[-1].output[0] if moves else "q"
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["q"]),
        *moves,
        N("DequantizeLinear", [last, "s", "z"], ["r"]),
        N("DequantizeLinear", ["w_quantized", "ws"], ["w"], **axis),
        N("DequantizeLinear", ["b_quantized", "bs"], ["b"], **axis),
        N(kind, ["r", "w", "b"], ["c"], **attributes),
        N("QuantizeLinear", ["c", "t", "u"], ["d"]),
        N("DequantizeLinear", ["d", "t", "u"], ["y"]),
    ]
    return nodes, {"w_quantized": weight, "ws": scale, "b_quantized": bias, "bs": scale * GRID["s"], **GRID}


@pytest.mark.parametrize("channels", [False, True])
def test_a_convolution_in_qdq_form(channels: bool, tmp_path: Path) -> None:
    scale = RNG.uniform(0.01, 0.05, 5).astype(F) if channels else scalar(0.02)
    moves = (N("MaxPool", ["q"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),)
    nodes, constants = coded_layer("Conv", codes(5, 4, 3, 3), scale, codes(5, dtype=np.int32), moves)
    network = check(model(nodes, {"x": ["N", 4, 10, 10]}, constants), tmp_path, [images(3, 4, 10, 10)], 2e-2)
    assert ops_of(network).count("karui.fake_quantize") == 3
    weights = [name for name, p in network.module.named_parameters() if p.dim() == 4]
    assert weights == ["w"]
    network.train()(torch.randn(2, 4, 10, 10))[0].square().sum().backward()
    assert bool(network.get("w").grad.abs().sum() > 0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_lowered_file_multiplies_the_files_integers(dtype: Any, tmp_path: Path) -> None:
    weight = codes(5, 12, dtype=dtype)
    nodes, constants = coded_layer("Gemm", weight, scalar(0.02), codes(5, dtype=np.int32), transB=1)
    if dtype is np.uint8:
        nodes[2] = N("DequantizeLinear", ["w_quantized", "ws", "wz"], ["w"])
        constants["wz"] = scalar(90, np.uint8)
    path = saved(model(nodes, {"x": ["N", 12]}, constants), tmp_path)
    x = images(8, 12)
    program = lower(read(path))
    (held,) = (w for w in program.weights.values() if isinstance(w.values, AffineValues) and w.shape == (5, 12))
    shift = 128 if dtype is np.uint8 else 0
    np.testing.assert_array_equal(held.values.codes.astype(int) + shift, weight.astype(int))
    (found,) = run(program, [x])
    wanted = np.round(expected(path, [x])[0] / constants["t"]) + int(constants["u"]) - 128  # signed, as the program has them
    gap = np.abs(found - wanted)
    assert gap.max() <= 1 and (gap > 0).mean() < 0.05  # a tie may be rounded either way


def test_a_matrix_that_is_quantized_and_transposed(tmp_path: Path) -> None:
    nodes = [
        N("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0),
        N("Transpose", ["d"], ["t"], perm=[1, 0]),
        N("MatMul", ["x", "t"], ["m"]),
        N("Add", ["m", "b"], ["y"]),
    ]
    constants = {"w": codes(5, 6), "s": RNG.uniform(0.01, 0.1, 5).astype(F), "z": np.zeros(5, np.int8), "b": images(5)}
    network = check(model(nodes, {"x": ["N", 6]}, constants), tmp_path, [images(3, 6)])
    assert ops_of(network) == ["karui.fake_quantize", "linear"]
    (program_weight,) = (w for w in lower(network).weights.values() if isinstance(w.values, AffineValues))
    np.testing.assert_array_equal(program_weight.values.codes, constants["w"])


def test_a_float_weight_between_q_and_dq_gets_its_grid(tmp_path: Path) -> None:
    nodes = [
        N("QuantizeLinear", ["w", "s", "z"], ["q"], axis=1),
        N("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
        N("MatMul", ["x", "d"], ["y"]),
    ]
    constants = {"w": images(6, 5), "s": RNG.uniform(0.02, 0.1, 5).astype(F), "z": np.zeros(5, np.int8)}
    network = check(model(nodes, {"x": ["N", 6]}, constants), tmp_path, [images(3, 6)])
    assert ops_of(network) == ["karui.fake_quantize", "linear"]


@pytest.mark.parametrize(("kind", "low", "high"), [(TensorProto.INT4, -8, 8), (TensorProto.UINT4, 0, 16)])
def test_four_bits(kind: int, low: int, high: int, tmp_path: Path) -> None:
    numbers = RNG.integers(low, high, (6, 5))
    zero = 0 if low else 7
    constants: Any = {
        "w": helper.make_tensor("w", kind, [6, 5], numbers.ravel().tolist()),
        "z": helper.make_tensor("z", kind, [], [zero]),
        "s": scalar(0.1),
    }
    nodes = [N("DequantizeLinear", ["w", "s", "z"], ["d"]), N("MatMul", ["x", "d"], ["y"])]
    network = check(model(nodes, {"x": ["N", 6]}, constants, opset=21), tmp_path, [images(3, 6)])
    form = next(n for n in network.module.graph.nodes if "fake_quantize" in str(n.target))
    assert form.args[3:5] == (-8, 7)


def test_blocks_of_scales(tmp_path: Path) -> None:
    constants = {"w": codes(6, 4), "s": RNG.uniform(0.02, 0.1, (3, 4)).astype(F), "z": np.zeros((3, 4), np.int8)}
    nodes = [N("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0, block_size=2), N("MatMul", ["x", "d"], ["y"])]
    check(model(nodes, {"x": ["N", 6]}, constants, opset=21), tmp_path, [images(3, 6)])


def test_moves_of_codes_move_the_reals(tmp_path: Path) -> None:
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["q"]),
        N("Transpose", ["q"], ["a"], perm=[0, 2, 3, 1]),
        N("Reshape", ["a", "shape"], ["b"]),
        N("Clip", ["b", "low", "high"], ["c"]),
        N("Concat", ["c", "c"], ["d"], axis=1),
        N("Pad", ["d", "pads", "low"], ["e"]),
        N("DequantizeLinear", ["e", "s", "z"], ["y"]),
    ]
    constants = {
        **GRID,
        "shape": np.array([0, 4, 6], np.int64),
        "low": scalar(110, np.uint8),
        "high": scalar(150, np.uint8),
        "pads": np.array([0, 1, 0, 0, 0, 2], np.int64),
    }
    check(model(nodes, {"x": ["N", 2, 3, 4]}, constants), tmp_path, [images(3, 2, 3, 4)])


def test_inputs_and_outputs_of_codes_become_reals(tmp_path: Path) -> None:
    nodes = [
        N("DequantizeLinear", ["x", "s", "z"], ["r"]),
        N("Relu", ["r"], ["a"]),
        N("QuantizeLinear", ["a", "t", "u"], ["y"]),
    ]
    path = saved(model(nodes, {"x": ["N", 6]}, GRID, kinds={"x": TensorProto.UINT8}), tmp_path)
    network = read(path)
    assert network.inputs[0].dtype == "float32"
    x = RNG.integers(0, 256, (3, 6)).astype(np.uint8)
    reals = (x.astype(F) - 120) * GRID["s"]
    (found,) = network(torch.from_numpy(reals))
    np.testing.assert_allclose(found.detach().numpy(), (expected(path, [x])[0].astype(F) - 130) * GRID["t"], atol=1e-5)


def test_operators_in_integers(tmp_path: Path) -> None:
    microsoft = {"domain": "com.microsoft"}
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["q"]),
        N("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "t", "u", "b"], ["c"], pads=[1, 1, 1, 1]),
        N("QLinearAdd", ["c", "t", "u", "c", "t", "u", "t2", "u"], ["a"], **microsoft),
        N("QLinearMul", ["a", "t2", "u", "c", "t", "u", "t2", "u"], ["m"], **microsoft),
        N("QLinearConcat", ["t2", "u", "m", "t2", "u", "c", "t", "u"], ["k"], axis=1, **microsoft),
        N("QLinearLeakyRelu", ["k", "t2", "u", "t2", "u"], ["l"], alpha=0.2, **microsoft),
        N("QLinearSigmoid", ["l", "t2", "u", "t3", "u3"], ["g"], **microsoft),
        N("QLinearGlobalAveragePool", ["g", "t3", "u3", "t3", "u3"], ["p"], **microsoft),
        N("Flatten", ["p"], ["f"]),
        N("QLinearMatMul", ["f", "t3", "u3", "v", "vs", "vz", "t", "u"], ["n"]),
        N("DequantizeLinear", ["n", "t", "u"], ["y"]),
    ]
    constants = {
        **GRID,
        "w": codes(4, 3, 3, 3), "ws": RNG.uniform(0.01, 0.03, 4).astype(F), "wz": np.zeros(4, np.int8), "b": codes(4, dtype=np.int32),
        "t2": scalar(0.2), "t3": scalar(1 / 256), "u3": scalar(0, np.uint8),
        "v": codes(8, 5), "vs": scalar(0.02), "vz": scalar(3, np.int8),
    }  # fmt: skip
    check(model(nodes, {"x": ["N", 3, 6, 6]}, constants), tmp_path, [images(3, 3, 6, 6)], 5e-2)


def test_dynamic_quantization_keeps_activations_real(tmp_path: Path) -> None:
    nodes = [
        N("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        N("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        N("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        N("Mul", ["s", "ws"], ["t"]),
        N("Mul", ["f", "t"], ["m"]),
        N("Add", ["m", "b"], ["y"]),
    ]
    constants = {"w": codes(6, 5), "wz": scalar(2, np.int8), "ws": scalar(0.02), "b": images(5)}
    network = check(model(nodes, {"x": ["N", 6]}, constants), tmp_path, [images(3, 6)], 2e-2)
    assert ops_of(network)[0] == "karui.fake_quantize"


def test_an_integer_convolution(tmp_path: Path) -> None:
    nodes = [
        N("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        N("ConvInteger", ["q", "w", "z"], ["i"]),
        N("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        N("Mul", ["f", "s"], ["y"]),
    ]
    check(model(nodes, {"x": ["N", 2, 5, 5]}, {"w": codes(3, 2, 3, 3, dtype=np.uint8)}), tmp_path, [images(3, 2, 5, 5)], 2e-2)


@pytest.mark.parametrize("kind", ["Relu", "Add"])
def test_arithmetic_on_codes_is_refused(kind: str, tmp_path: Path) -> None:
    nodes = [N("QuantizeLinear", ["x", "s", "z"], ["q"]), N(kind, ["q"] if kind == "Relu" else ["q", "q"], ["y"], name="here")]
    with pytest.raises(UnsupportedOp, match="'here' has .*integer codes.*DequantizeLinear"):
        read(saved(model(nodes, {"x": ["N", 6]}, GRID), tmp_path))


def test_a_scale_that_is_zero_is_refused(tmp_path: Path) -> None:
    nodes = [N("QuantizeLinear", ["x", "s", "z"], ["q"]), N("DequantizeLinear", ["q", "s", "z"], ["y"])]
    with pytest.raises(UnsupportedOp, match="scale"):
        read(saved(model(nodes, {"x": ["N", 6]}, {**GRID, "s": scalar(0.0)}), tmp_path))
