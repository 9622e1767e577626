import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from karui.errors import UnsupportedOp
from karui.graph.doors.tflite import read
from karui.lower.lower import lower
from karui.program.interpreter import run
from tests.graph.doors.tflite_files import Build, agrees, given, into, real, reference

rng = np.random.default_rng(5)
IN, OUT, CONV, POOL = (0.03, 5), (0.05, -8), "Conv2DOptions", "Pool2DOptions"
PROBABILITY = (1 / 256, -128)
INT8: dict[str, Any] = {"dtype": "INT8"}
WINDOW = {"filterHeight": 3, "filterWidth": 3, "strideH": 2, "strideW": 2}


def codes(*shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def weight(b: Build, *shape: int, axis: int = 0) -> tuple[int, np.ndarray]:
    """Codes with a scale per channel; the scales."""
    scales = rng.uniform(0.002, 0.01, shape[axis]).astype(np.float32)
    return b.constant(codes(*shape), (scales, 0, axis)), scales


def bias(b: Build, scales: np.ndarray, source: float = IN[0]) -> int:
    return b.constant(rng.integers(-3000, 3000, len(scales)).astype(np.int32), (scales * np.float32(source), 0))


def image(b: Build, *shape: int) -> int:
    return b.input([1, *(shape or (6, 6, 4))], "INT8", IN)


def convolution(
    b: Build, x: int, outputs: int, channels: int, source: tuple[float, int], scale: tuple[float, int], size: int = 3, **fields: Any
) -> int:
    w, scales = weight(b, outputs, size, size, channels)
    return b.op("CONV_2D", [x, w, bias(b, scales, source[0])], CONV, **INT8, scale=scale, rank=4, version=3, strideH=1, strideW=1, **fields)


def depthwise(b: Build) -> int:
    w, scales = weight(b, 1, 3, 3, 4, axis=3)
    return b.op("DEPTHWISE_CONV_2D", [image(b), w, bias(b, scales)], "DepthwiseConv2DOptions", **INT8, scale=(0.01, 3), rank=4, version=3,
                strideH=2, strideW=2, depthMultiplier=1, fusedActivationFunction=3)  # fmt: skip


def connected(b: Build) -> int:
    x, w, offset = b.input([1, 7], "INT8", IN), b.constant(codes(5, 7), (0.004, 0)), bias(b, np.full(5, 0.004, np.float32))
    return b.op("FULLY_CONNECTED", [x, w, offset], "FullyConnectedOptions", **INT8, scale=OUT, version=4)


def transposed(b: Build) -> int:
    w, scales = weight(b, 3, 3, 3, 4)
    size = b.constant(np.array([1, 12, 12, 3]))
    operands = [size, w, image(b), bias(b, scales)]
    return b.op("TRANSPOSE_CONV", operands, "TransposeConvOptions", **INT8, scale=OUT, rank=4, version=3, strideH=2, strideW=2)


COMPUTED: dict[str, Callable[[Build], int]] = {
    "conv": lambda b: convolution(b, image(b), 5, 4, IN, (0.06, -128), fusedActivationFunction=1),
    "depthwise": depthwise,
    "connected": connected,
    "transposed": transposed,
    "add": lambda b: b.op("ADD", [image(b), b.input([1, 6, 6, 4], "INT8", (0.02, -3))], "AddOptions", **INT8, scale=OUT, rank=4, version=2),
    "sub": lambda b: b.op("SUB", [image(b), b.input([1, 6, 6, 4], "INT8", (0.02, -3))], "SubOptions", **INT8, scale=OUT, rank=4, version=2),
    "mul": lambda b: b.op("MUL", [image(b), b.input([1, 1, 1, 4], "INT8", (0.02, -3))], "MulOptions", **INT8, scale=OUT, rank=4, version=2),
    "add_constant": lambda b: b.op("ADD", [image(b), b.constant(codes(4), (0.02, -3))], "AddOptions", **INT8, scale=OUT, rank=4, version=2),
    "average": lambda b: b.op("AVERAGE_POOL_2D", [image(b)], POOL, **INT8, scale=IN, rank=4, version=2, **WINDOW),
    "mean": lambda b: b.op("MEAN", [image(b), b.constant(np.array([1, 2]))], "ReducerOptions", **INT8, scale=OUT, rank=2, version=2),
    "softmax": lambda b: b.op("SOFTMAX", [b.input([1, 9], "INT8", IN)], "SoftmaxOptions", **INT8, scale=PROBABILITY, version=2, beta=1.0),
    "logistic": lambda b: b.op("LOGISTIC", [image(b)], **INT8, scale=(1 / 256, -128), rank=4, version=2),
    "tanh": lambda b: b.op("TANH", [image(b)], **INT8, scale=(1 / 128, 0), rank=4, version=2),
    "leaky": lambda b: b.op("LEAKY_RELU", [image(b)], "LeakyReluOptions", **INT8, scale=OUT, rank=4, version=2, alpha=0.2),
    "hardswish": lambda b: b.op("HARD_SWISH", [image(b)], "HardSwishOptions", **INT8, scale=(0.03, -115), rank=4),
    "relu": lambda b: b.op("RELU", [image(b)], **INT8, scale=(0.03, 5), rank=4, version=2),
    "requantize": lambda b: b.op("QUANTIZE", [image(b)], "QuantizeOptions", **INT8, scale=OUT, rank=4, version=2),
}  # fmt: skip
MOVED: dict[str, Callable[[Build], int]] = {
    "max": lambda b: b.op(
        "MAX_POOL_2D", [image(b)], POOL, **INT8, scale=IN, rank=4, version=2, filterHeight=3, filterWidth=3, strideH=2, strideW=2
    ),
    "pad": lambda b: b.op("PAD", [image(b), b.constant(np.array([[0, 0], [1, 2], [0, 1], [0, 0]]))], **INT8, scale=IN, rank=4, version=2),
    "concat": lambda b: b.op("CONCATENATION", [image(b), image(b)], "ConcatenationOptions", **INT8, scale=IN, rank=4, version=2, axis=3),
    "transpose": lambda b: b.op("TRANSPOSE", [image(b), b.constant(np.array([0, 2, 1, 3]))], **INT8, scale=IN, rank=4, version=2),
    "nearest": lambda b: b.op("RESIZE_NEAREST_NEIGHBOR", [image(b), b.constant(np.array([12, 12]))], **INT8, scale=IN, rank=4, version=2),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_computes_on_codes_rounds_as_the_file_does(tmp_path: Path, name: str) -> None:
    b = Build()
    network = agrees(b, tmp_path / "a.tflite", COMPUTED[name](b), steps=1)
    nodes = [n for n in network.module.graph.nodes if "fake_quantize" in str(n.target)]
    assert nodes and "fake_quantize" in str(list(network.module.graph.nodes)[-1].args[0][0])
    lower(network)


@pytest.mark.parametrize("name", MOVED)
def test_what_moves_codes_rounds_nothing(tmp_path: Path, name: str) -> None:
    b = Build()
    network = agrees(b, tmp_path / "a.tflite", MOVED[name](b), steps=0, images=True) if name != "transpose" else None
    if network is None:
        network = read(b.save(tmp_path / "a.tflite", MOVED[name](b)))
    assert sum("fake_quantize" in str(n.target) for n in network.module.graph.nodes) == len(network.inputs)


def net(b: Build) -> list[int]:
    """Every kind of layer that MLPerf Tiny's files have, and their neighbours; the tensors that an integer op makes, in order."""
    x = image(b, 9, 9, 3)
    stem = convolution(b, x, 8, 3, IN, (0.05, -128), fusedActivationFunction=1)
    w, scales = weight(b, 1, 3, 3, 8, axis=3)
    deep = b.op("DEPTHWISE_CONV_2D", [stem, w, bias(b, scales, 0.05)], "DepthwiseConv2DOptions", **INT8, scale=(0.04, -20), rank=4,
                version=3, strideH=2, strideW=2, depthMultiplier=1)  # fmt: skip
    side = convolution(b, stem, 8, 8, (0.05, -128), (0.06, 4), size=1)
    pooled = b.op(
        "MAX_POOL_2D", [side], POOL, **INT8, scale=(0.06, 4), rank=4, version=2, filterHeight=2, filterWidth=2, strideH=2, strideW=2
    )
    both = b.op("ADD", [deep, pooled], "AddOptions", **INT8, scale=(0.07, -128), rank=4, version=2, fusedActivationFunction=1)
    whole = {"filterHeight": 5, "filterWidth": 5, "strideH": 5, "strideW": 5}
    mean = b.op("AVERAGE_POOL_2D", [both], POOL, **INT8, scale=(0.07, -128), rank=4, version=2, padding=1, **whole)
    flat = b.op("RESHAPE", [mean, b.constant(np.array([-1, 8]))], "ReshapeOptions", **INT8, scale=(0.07, -128), rank=2)
    head = b.op("FULLY_CONNECTED", [flat, b.constant(codes(4, 8), (0.004, 0)), bias(b, np.full(4, 0.004, np.float32), 0.07)],
                "FullyConnectedOptions", **INT8, scale=(0.02, 7), version=4)  # fmt: skip
    return [head]


def equal_codes(path: Path, inputs: np.ndarray, network_inputs: torch.Tensor) -> None:
    """Lowered, the network computes the file's own codes with the reference kernels' arithmetic."""
    program = lower(read(path))
    assert [op.kind for op in program.ops if program.tensor(op.outputs[0]).dtype == "float32"] in ([], ["dequantize", "softmax"])
    layout = network_inputs.permute(0, 2, 3, 1) if network_inputs.dim() == 4 else network_inputs
    (found,) = run(program, [np.ascontiguousarray(layout.numpy())], arithmetic="litert_ref")
    (expected,) = reference(path, [inputs])
    np.testing.assert_array_equal(found, expected)


def test_lowered_a_file_gives_its_own_codes(tmp_path: Path) -> None:
    b = Build()
    outputs = net(b)
    path = b.save(tmp_path / "a.tflite", *outputs)
    inputs = given(b, 8)
    equal_codes(path, inputs[0], into(b, inputs)[0])


@pytest.mark.skipif("KARUI_DATA" not in os.environ, reason="KARUI_DATA isn't set")
@pytest.mark.parametrize("name", ["kws_ref_model.tflite", "pretrainedResnet_quant.tflite"])
def test_mlperf_tiny_gives_its_own_codes(name: str) -> None:
    path = Path(os.environ["KARUI_DATA"]) / "mlperf_tiny" / name
    if not path.exists():
        pytest.skip(f"{name} isn't there")
    network = read(path)
    inputs = rng.integers(-128, 128, (4, *network.inputs[0].shape)).astype(np.int8).transpose(0, 2, 3, 1)
    scale, zero_point = (network.buffers()[f"{network.inputs[0].name}_{each}"] for each in ("scale", "zero_point"))
    equal_codes(path, inputs, ((torch.from_numpy(inputs.copy()).float() - zero_point) * scale).permute(0, 3, 1, 2))


# ── how numbers may be written ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_biases_give_their_codes_back(tmp_path: Path) -> None:
    b = Build()
    scales = rng.uniform(0.0002, 0.01, 64).astype(np.float32)
    wanted = rng.integers(-(2**22), 2**22, 64).astype(np.int32)
    x = b.input([1, 4, 4, 2], "INT8", IN)
    y = b.op(
        "CONV_2D",
        [x, b.constant(codes(64, 1, 1, 2), (scales, 0)), b.constant(wanted, (scales, 0))],
        CONV,
        **INT8,
        scale=OUT,
        strideH=1,
        strideW=1,
    )
    found = next(p for name, p in read(b.save(tmp_path / "a.tflite", y)).parameters().items() if name.endswith("bias"))
    step = float(np.float32(IN[0])) * scales.astype(np.float64)
    np.testing.assert_array_equal(np.rint(found.detach().numpy().astype(np.float64) / step).astype(np.int32), wanted)


def test_weights_are_trained_through_their_form(tmp_path: Path) -> None:
    b = Build()
    y = convolution(b, image(b), 5, 4, IN, OUT)
    network = read(b.save(tmp_path / "a.tflite", y))
    name, latent = next((n, p) for n, p in network.parameters().items() if n.endswith("weight"))
    buffers = network.buffers()
    scale = buffers[f"{name}_scale"].reshape(-1, 1, 1, 1)
    back = torch.round(latent / scale).permute(0, 2, 3, 1)
    stored = next(t for t in b.graph.tensors if [int(n) for n in t.shape] == [5, 3, 3, 4])
    raw = np.frombuffer(bytes(b.model.buffers[stored.buffer].data), np.int8).reshape(5, 3, 3, 4)
    np.testing.assert_array_equal(back.detach().numpy(), raw)
    network.train()(torch.rand(2, 4, 6, 6))[0].sum().backward()
    assert latent.grad is not None and latent.grad.abs().sum() > 0


def test_codes_without_sign(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 6, 6, 4], "UINT8", (0.03, 133))
    w = b.constant(rng.integers(0, 256, (5, 3, 3, 4)).astype(np.uint8), (0.004, 120))
    bias_codes = b.constant(rng.integers(-900, 900, 5).astype(np.int32), (0.03 * 0.004, 0))
    y = b.op("CONV_2D", [x, w, bias_codes], CONV, dtype="UINT8", scale=(0.06, 100), rank=4, strideH=1, strideW=1)
    agrees(b, tmp_path / "a.tflite", y, steps=1)


def test_activations_of_16_bits_are_a_form_that_no_program_has(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 9], "INT16", (0.001, 0))
    y = b.op("LOGISTIC", [x], dtype="INT16", scale=(1 / 32768, 0), version=2)
    network = read(b.save(tmp_path / "a.tflite", y))
    inputs = given(b, 2)
    with torch.no_grad():
        found = network(*into(b, inputs))[0].numpy()
    assert np.abs(found - 1 / (1 + np.exp(-real(inputs[0], b.graph.tensors[x])))).max() < 1 / 30000
    with pytest.raises(UnsupportedOp, match="codes -32768"):
        lower(network)


def test_codes_that_become_floats_and_back(tmp_path: Path) -> None:
    b = Build()
    floats = b.op("DEQUANTIZE", [image(b)], "DequantizeOptions", rank=4, version=2)
    y = b.op("QUANTIZE", [b.op("EXP", [floats], rank=4)], "QuantizeOptions", **INT8, scale=(0.3, -128), rank=4)
    lower(agrees(b, tmp_path / "a.tflite", y, steps=0))


@pytest.mark.parametrize("kind", ["FLOAT16", "INT8"])
def test_weights_that_are_dequantized_first(tmp_path: Path, kind: str) -> None:
    b = Build()
    if kind == "FLOAT16":
        stored = b.constant(rng.normal(size=(5, 7)).astype(np.float16))
    else:
        stored = b.constant(codes(5, 7), (0.004, 0))
    w = b.op("DEQUANTIZE", [stored], "DequantizeOptions", rank=2, version=2 if kind == "INT8" else 3)
    y = b.op("FULLY_CONNECTED", [b.input([1, 7]), w, -1], "FullyConnectedOptions")
    network = agrees(b, tmp_path / "a.tflite", y)
    assert len(network.parameters()) == 1 and ("fake_quantize" in str(network.module.graph)) == (kind == "INT8")


def test_a_layer_of_codes_on_floats(tmp_path: Path) -> None:
    """Where only weights are codes, the kernels round the input too, to 8 bits of its own range; karui doesn't."""
    b = Build()
    w = codes(5, 7)
    y = b.op("FULLY_CONNECTED", [b.input([1, 7]), b.constant(w, (0.004, 0)), b.constant(np.ones(5))], "FullyConnectedOptions", version=3)
    network = read(b.save(tmp_path / "a.tflite", y))
    x = torch.rand(3, 7)
    torch.testing.assert_close(network(x)[0], x @ (torch.from_numpy(w).float() * 0.004).T + 1)
    assert "fake_quantize" in str(network.module.graph)


def test_codes_of_four_bits(tmp_path: Path) -> None:
    b = Build()
    nibbles = rng.integers(-7, 8, (5, 8)).astype(np.int8)
    packed = (nibbles.reshape(-1, 2)[:, 0] & 15) | ((nibbles.reshape(-1, 2)[:, 1] & 15) << 4)
    w = b.tensor([5, 8], "INT4", (np.full(5, 0.1, np.float32), 0, 0), packed.astype(np.uint8).tobytes())
    y = b.op("FULLY_CONNECTED", [b.input([1, 8]), w, -1], "FullyConnectedOptions")
    network = read(b.save(tmp_path / "a.tflite", y))
    x = torch.rand(2, 8)
    torch.testing.assert_close(network(x)[0], x @ (torch.from_numpy(nibbles).float() * 0.1).T)
    assert "-8, 7" in network.module.code


def test_a_channel_of_scale_zero_is_zero(tmp_path: Path) -> None:
    b = Build()
    w = codes(2, 7)
    y = b.op("FULLY_CONNECTED", [b.input([1, 7]), b.constant(w, (np.array([0.004, 0.0]), 0, 0)), -1], "FullyConnectedOptions", version=3)
    x = torch.rand(3, 7)
    found = read(b.save(tmp_path / "a.tflite", y))(x)[0]
    torch.testing.assert_close(found, x @ (torch.from_numpy(w).float() * torch.tensor([[0.004], [0.0]])).T)


def test_codes_without_a_scale_are_refused(tmp_path: Path) -> None:
    b = Build()
    y = b.op("QUANTIZE", [b.input([1, 8])], "QuantizeOptions", **INT8)
    with pytest.raises(UnsupportedOp, match="without a scale"):
        read(b.save(tmp_path / "a.tflite", y))
