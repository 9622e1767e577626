from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from karui.errors import UnsupportedOp
from karui.graph.doors.tflite import read
from karui.lower.lower import lower
from tests.graph.doors.tflite_files import Build, agrees

rng = np.random.default_rng(1)
CONV, DEPTHWISE = "Conv2DOptions", "DepthwiseConv2DOptions"


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("padding, stride, dilation, size", list(product((0, 1), (1, 2, 3), (1, 2), ((9, 8), (10, 7)))))
def test_convolutions(tmp_path: Path, padding: int, stride: int, dilation: int, size: tuple[int, int]) -> None:
    if stride > 1 and dilation > 1:
        pytest.skip("the kernels have no dilation with a stride")
    b = Build()
    x = b.input([1, *size, 4])
    weights, bias = b.constant(floats(6, 3, 2, 4)), b.constant(floats(6))
    y = b.op("CONV_2D", [x, weights, bias], CONV, padding=padding, strideH=stride, strideW=stride, dilationHFactor=dilation,
             dilationWFactor=dilation, fusedActivationFunction=1)  # fmt: skip
    network = agrees(b, tmp_path / "a.tflite", y)
    assert dict(network.module.named_parameters()).keys() == {"t.3.weight", "t.3.bias"}


def test_a_convolution_without_bias_and_with_groups(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 5, 5, 4])
    y = b.op(
        "CONV_2D",
        [x, b.constant(floats(6, 1, 1, 2)), b.constant(floats(6))],
        CONV,
        strideH=1,
        strideW=1,
        fusedActivationFunction=3,
        version=6,
    )
    network = agrees(b, tmp_path / "a.tflite", y)
    assert "conv2d.default" in str(network.module.graph) and len(list(network.module.parameters())) == 2


@pytest.mark.parametrize("multiplier, padding, stride", list(product((1, 2), (0, 1), (1, 2))))
def test_depthwise_convolutions(tmp_path: Path, multiplier: int, padding: int, stride: int) -> None:
    b = Build()
    x = b.input([1, 8, 7, 3])
    weights, bias = b.constant(floats(1, 3, 3, 3 * multiplier)), b.constant(floats(3 * multiplier))
    y = b.op("DEPTHWISE_CONV_2D", [x, weights, bias], DEPTHWISE, padding=padding, strideH=stride, strideW=stride,
             depthMultiplier=multiplier, dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=3)  # fmt: skip
    agrees(b, tmp_path / "a.tflite", y)


@pytest.mark.parametrize("depthwise, inner, crops", list(product((False, True), (0, 1), ((0, 0, 0, 0), (0, 1, 1, 0)))))
def test_dilation_as_space_to_batch(tmp_path: Path, depthwise: bool, inner: int, crops: tuple[int, ...]) -> None:
    b = Build()
    x = b.input([1, 9, 10, 3])
    block, pads = b.constant(np.array([2, 2])), b.constant(np.array([[2, 3], [2, 2]]))
    dealt = b.op("SPACE_TO_BATCH_ND", [x, block, pads], rank=4)
    kind, options = ("DEPTHWISE_CONV_2D", DEPTHWISE) if depthwise else ("CONV_2D", CONV)
    shape = (1, 3, 3, 3) if depthwise else (5, 3, 3, 3)
    fields = {"depthMultiplier": 1} if depthwise else {}
    y = b.op(kind, [dealt, b.constant(floats(*shape)), b.constant(floats(shape[3 if depthwise else 0]))], options, padding=inner, strideH=1,
             strideW=1, dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=1, rank=4, **fields)  # fmt: skip
    cut = b.constant(np.array(crops).reshape(2, 2))
    network = agrees(b, tmp_path / "a.tflite", b.op("BATCH_TO_SPACE_ND", [y, block, cut], rank=4))
    assert "[2, 2], 1)" in network.module.code or "[2, 2], 3)" in network.module.code  # one dilated convolution


@pytest.mark.parametrize(
    "padding, stride, kernel, size",
    [(0, 2, 3, 8), (0, 2, 2, 8), (1, 2, 3, 9), (1, 2, 3, 10), (0, 1, 3, 4), (0, 2, 4, 7), (0, 3, 2, 12), (1, 3, 2, 11)],
)
def test_transposed_convolutions(tmp_path: Path, padding: int, stride: int, kernel: int, size: int) -> None:
    b = Build()
    x = b.input([1, 4, 4, 3])
    shape = b.constant(np.array([1, size, size, 5]))
    y = b.op("TRANSPOSE_CONV", [shape, b.constant(floats(5, kernel, kernel, 3)), x, b.constant(floats(5))], "TransposeConvOptions",
             padding=padding, strideH=stride, strideW=stride, version=3)  # fmt: skip
    agrees(b, tmp_path / "a.tflite", y)


@pytest.mark.parametrize(
    "shape, keeps", [((1, 12), False), ((1, 5, 12), False), ((1, 5, 12), True), ((1, 2, 2, 3), False), ((1, 3, 4, 12), True)]
)
def test_fully_connected(tmp_path: Path, shape: tuple[int, ...], keeps: bool) -> None:
    b = Build()
    x = b.input(shape)
    y = b.op("FULLY_CONNECTED", [x, b.constant(floats(7, 12)), b.constant(floats(7))], "FullyConnectedOptions", keepNumDims=keeps,
             fusedActivationFunction=1)  # fmt: skip
    if shape == (1, 5, 12) and not keeps:  # the file forgets whose row is whose; a reshape behind it knows
        y = b.op("RESHAPE", [y, b.constant(np.array([1, 5, 7]))], "ReshapeOptions")
    network = agrees(b, tmp_path / "a.tflite", y)
    layer = "conv2d.default" if keeps and len(shape) == 4 else "linear.default"  # on pixels, a convolution
    assert layer in str(network.module.graph)
    lower(network)


def test_a_flatten_before_a_layer_keeps_the_files_order(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 4, 3, 2])
    c = b.op("CONV_2D", [x, b.constant(floats(5, 1, 1, 2)), b.constant(floats(5))], CONV, strideH=1, strideW=1)
    f = b.op("RESHAPE", [c, b.constant(np.array([-1, 60]))], "ReshapeOptions")
    y = b.op("FULLY_CONNECTED", [f, b.constant(floats(3, 60)), -1], "FullyConnectedOptions")
    network = agrees(b, tmp_path / "a.tflite", y)
    kinds = [op.kind for op in lower(network).ops]
    assert "permute" in str(network.module.graph) and kinds == ["conv2d", "reshape", "linear"]


def test_a_flatten_of_one_pixel_moves_nothing(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 4, 4, 2])
    p = b.op("AVERAGE_POOL_2D", [x], "Pool2DOptions", filterHeight=4, filterWidth=4, strideH=4, strideW=4, padding=1)
    f = b.op("RESHAPE", [p, b.constant(np.array([1, 2]))], "ReshapeOptions")
    network = agrees(b, tmp_path / "a.tflite", b.op("FULLY_CONNECTED", [f, b.constant(floats(3, 2)), -1], "FullyConnectedOptions"))
    assert "permute" not in str(network.module.graph)


@pytest.mark.parametrize("adj_x, adj_y", list(product((False, True), (False, True))))
def test_products_of_two_values(tmp_path: Path, adj_x: bool, adj_y: bool) -> None:
    b = Build()
    x, y = b.input([1, 4, 5] if adj_x else [1, 5, 4]), b.input([1, 6, 4] if adj_y else [1, 4, 6])
    z = b.op("BATCH_MATMUL", [x, y], "BatchMatMulOptions", adjX=adj_x, adjY=adj_y, rank=3)
    agrees(b, tmp_path / "a.tflite", z)


def test_a_product_with_a_constant_matrix_is_a_layer(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 5, 4])
    network = agrees(b, tmp_path / "a.tflite", b.op("BATCH_MATMUL", [x, b.constant(floats(4, 6))], "BatchMatMulOptions", rank=3))
    assert "linear.default" in str(network.module.graph) and [tuple(p.shape) for p in network.module.parameters()] == [(6, 4)]


def test_a_vector_added_to_a_product_is_its_bias(tmp_path: Path) -> None:
    b = Build()
    product = b.op("BATCH_MATMUL", [b.input([1, 5, 4]), b.constant(floats(6, 4))], "BatchMatMulOptions", adjY=True, rank=3)
    y = b.op("ADD", [b.constant(floats(6)), product], "AddOptions", fusedActivationFunction=1, rank=3)
    network = agrees(b, tmp_path / "a.tflite", y)
    assert "add" not in str(network.module.graph) and len(network.parameters()) == 2


@pytest.mark.parametrize("kind", ["GATHER", "EMBEDDING_LOOKUP"])
def test_tables_of_vectors(tmp_path: Path, kind: str) -> None:
    b = Build()
    x, table = b.input([1, 3] if kind == "GATHER" else [1], "INT32"), b.constant(floats(5, 4))
    y = b.op("GATHER", [table, x], "GatherOptions", axis=0) if kind == "GATHER" else b.op(kind, [x, table])
    network = agrees(b, tmp_path / "a.tflite", y)
    assert "embedding" in str(network.module.graph) and len(list(network.module.parameters())) == 1


def test_layers_are_named_by_what_the_file_calls_them(tmp_path: Path) -> None:
    b = Build()
    weights = b.constant(floats(3, 1, 1, 2), name="net/stem/Conv2D_dequantize")
    x = b.op(
        "CONV_2D",
        [b.input([1, 4, 4, 2]), weights, b.constant(floats(3))],
        CONV,
        strideH=1,
        strideW=1,
        rank=4,
        name="net/act/Relu;net/bn/Norm",
    )
    weights = b.constant(floats(1, 3, 3, 3), name="net/bn_1/Norm;net/deep/depthwise;net/head/Conv2D")
    y = b.op("DEPTHWISE_CONV_2D", [x, weights, b.constant(floats(3))], DEPTHWISE, strideH=1, strideW=1, depthMultiplier=1, rank=4)
    network = read(b.save(tmp_path / "a.tflite", y))
    assert network.parameters().keys() == {f"net.{layer}.{each}" for layer in ("stem", "deep") for each in ("weight", "bias")}


def test_layers_are_named_by_the_torch_modules_that_a_file_was_made_of(tmp_path: Path) -> None:
    net, modules = "my.nets.Net", "torch.nn.modules"
    stem = f"{net};;{net}/{modules}.container.Sequential_blocks/my.nets.Block_0/{modules}.conv.Conv2d_stem_conv;1"
    b = Build()
    x = b.op("CONV_2D", [b.input([1, 4, 4, 2]), b.constant(floats(3, 1, 1, 2), name=stem), -1], CONV, strideH=1, strideW=1, rank=4)
    f = b.op("RESHAPE", [x, b.constant(np.array([1, 48]))], "ReshapeOptions", rank=2)
    y = b.op("FULLY_CONNECTED", [f, b.constant(floats(3, 48), name="arith.constant"), -1], "FullyConnectedOptions",
             name=f"{net}/{modules}.linear.Linear_head;")  # fmt: skip
    assert read(b.save(tmp_path / "a.tflite", y)).parameters().keys() == {"blocks.0.stem_conv.weight", "head.weight"}


def test_the_network_trains(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 4, 4, 2])
    y = b.op("CONV_2D", [x, b.constant(floats(5, 3, 3, 2)), b.constant(floats(5))], CONV, strideH=1, strideW=1)
    network = read(b.save(tmp_path / "a.tflite", y)).train()
    network(torch.randn(2, 2, 4, 4))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.module.parameters())


def test_shuffled_weights_are_refused(tmp_path: Path) -> None:
    b = Build()
    y = b.op("FULLY_CONNECTED", [b.input([1, 4]), b.constant(floats(3, 4)), -1], "FullyConnectedOptions", weightsFormat=1)
    with pytest.raises(UnsupportedOp, match="shuffled"):
        read(b.save(tmp_path / "a.tflite", y))
