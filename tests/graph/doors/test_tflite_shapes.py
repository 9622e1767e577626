from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from karui.errors import UnsupportedOp
from karui.graph.doors.tflite import read
from karui.lower.lower import lower
from tests.graph.doors.tflite_files import Build, agrees

rng = np.random.default_rng(3)


def ints(*values: Any) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.int32)


def image(b: Build, shape: tuple[int, ...] = (1, 4, 6, 8)) -> int:
    """An input that a convolution might have made: its node lies channels first."""
    return b.op("RELU", [b.input(shape)], rank=4)


RESHAPES = [(1, 24, 8), (-1, 192), (1, 4, 48), (1, 4, 6, 8), (1, 2, 2, 6, 8), (1, 4, 6, 2, 4), (1, 1, 192), (24, 8), (1, 8, 4, 6)]


@pytest.mark.parametrize("shape", RESHAPES)
def test_reshapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    b = Build()
    y = b.op("RESHAPE", [image(b), b.constant(ints(shape))], "ReshapeOptions", rank=len(shape))
    if shape == (24, 8):  # the batch is lost only for a while
        y = b.op("RESHAPE", [b.op("NEG", [y]), b.constant(ints(1, 192))], "ReshapeOptions")
    agrees(b, tmp_path / "a.tflite", y, images=shape == (1, 4, 6, 8))


def test_a_shape_in_the_options(tmp_path: Path) -> None:
    b = Build()
    agrees(b, tmp_path / "a.tflite", b.op("RESHAPE", [image(b)], "ReshapeOptions", newShape=[1, 24, 8]))


def test_a_shape_that_is_worked_out(tmp_path: Path) -> None:
    b = Build()
    x = image(b)
    shape = b.op("SHAPE", [x], "ShapeOptions", outType=2, dtype="INT32")
    cut = [b.constant(ints([0])), b.constant(ints([1])), b.constant(ints([1]))]
    batch = b.op("STRIDED_SLICE", [shape, *cut], "StridedSliceOptions", dtype="INT32", shrinkAxisMask=1)
    target = b.op("PACK", [batch, b.constant(np.int32(24)), b.constant(np.int32(8))], "PackOptions", dtype="INT32", valuesCount=3)
    y = b.op("MUL", [b.op("RESHAPE", [x, target], "ReshapeOptions", rank=3), b.constant(2.0)], "MulOptions", rank=3)
    network = agrees(b, tmp_path / "a.tflite", y)
    assert "sym_size" not in str(network.module.graph)
    lower(network)


def test_reshapes_that_cancel_vanish(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 5, 12])
    rows = b.op("RESHAPE", [x, b.constant(ints(5, 12))], "ReshapeOptions", rank=2)
    network = agrees(b, tmp_path / "a.tflite", b.op("NEG", [b.op("RESHAPE", [rows, b.constant(ints(1, 5, 12))], "ReshapeOptions")]))
    assert [n.name for n in network.module.graph.nodes if n.op == "call_function"] == ["neg_default"]


def test_a_transpose_between_reshapes_counts(tmp_path: Path) -> None:
    b = Build()
    rows = b.op("RESHAPE", [b.input([1, 60]), b.constant(ints(1, 5, 12))], "ReshapeOptions", rank=3)
    turned = b.op("TRANSPOSE", [rows, b.constant(ints(0, 2, 1))], "TransposeOptions", rank=3)
    agrees(b, tmp_path / "a.tflite", b.op("RESHAPE", [turned, b.constant(ints(1, 60))], "ReshapeOptions"))


@pytest.mark.parametrize("perm", [(0, 3, 1, 2), (0, 2, 1, 3), (0, 1, 3, 2), (0, 1, 2, 3)])
def test_transposes_move_nothing_until_someone_looks(tmp_path: Path, perm: tuple[int, ...]) -> None:
    b = Build()
    x = b.op("TRANSPOSE", [image(b), b.constant(ints(perm))], "TransposeOptions", rank=4)
    y = b.op(
        "EXP", [b.op("MUL", [x, b.constant(rng.random((1, 1, 1, [4, 6, 8, 0][perm[3] - 1])).astype(np.float32))], "MulOptions", rank=4)]
    )
    z = b.op("RESHAPE", [y, b.constant(ints(1, 192))], "ReshapeOptions")
    network = agrees(b, tmp_path / "a.tflite", z)
    permutes = [n for n in network.module.graph.nodes if "permute" in n.name]
    assert len(permutes) == (perm != (0, 3, 1, 2))


def test_a_file_that_takes_images_channels_first(tmp_path: Path) -> None:
    b = Build()
    x = b.op("TRANSPOSE", [b.input([1, 3, 4, 6]), b.constant(ints(0, 2, 3, 1))], "TransposeOptions", rank=4)
    weights, bias = rng.normal(size=(5, 1, 1, 3)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    c = b.op("CONV_2D", [x, b.constant(weights), b.constant(bias)], "Conv2DOptions", strideH=1, strideW=1, rank=4)
    y = b.op("TRANSPOSE", [c, b.constant(ints(0, 3, 1, 2))], "TransposeOptions", rank=4)
    network = read(b.save(tmp_path / "a.tflite", y))
    assert network.inputs[0].shape == (3, 4, 6) and "permute" not in str(network.module.graph)
    image = torch.rand(2, 3, 4, 6)
    expected = torch.nn.functional.conv2d(image, torch.from_numpy(weights).permute(0, 3, 1, 2), torch.from_numpy(bias))
    torch.testing.assert_close(network(image)[0], expected)


SHAPED: dict[str, Callable[[Build], int]] = {
    "squeeze": lambda b: b.op("SQUEEZE", [image(b, (1, 1, 6, 8))], "SqueezeOptions", squeezeDims=[1]),
    "squeeze_all": lambda b: b.op("RESHAPE", [b.op("SQUEEZE", [image(b, (1, 1, 1, 8))], "SqueezeOptions"), b.constant(ints(1, 8))]),
    "squeeze_minus": lambda b: b.op("SQUEEZE", [image(b, (1, 1, 6, 8))], "SqueezeOptions", squeezeDims=[-3]),
    "expand_dims": lambda b: b.op("EXPAND_DIMS", [b.op("NEG", [b.input([1, 6, 8])], rank=3), b.constant(np.int32(-1))], rank=4),
    "expand_first": lambda b: b.op(
        "RESHAPE", [b.op("EXPAND_DIMS", [b.input([1, 6, 8]), b.constant(np.int32(0))], rank=4), b.constant(ints(1, 48))]
    ),
    "pack": lambda b: b.op("PACK", [(x := b.input([1, 6])), b.op("NEG", [x])], "PackOptions", valuesCount=2, axis=1, rank=3),
    "pack_last": lambda b: b.op("PACK", [b.input([1, 6]), b.constant(np.ones((1, 6)))], "PackOptions", valuesCount=2, axis=-1, rank=3),
    "concat_channels": lambda b: b.op("CONCATENATION", [image(b), image(b)], "ConcatenationOptions", axis=3, rank=4),
    "concat_rows": lambda b: b.op("CONCATENATION", [image(b), image(b)], "ConcatenationOptions", axis=-3, rank=4),
    "concat_constant": lambda b: b.op(
        "CONCATENATION", [b.constant(rng.random((1, 2, 8)).astype(np.float32)), b.input([1, 6, 8])], "ConcatenationOptions", axis=1, rank=3
    ),
    "concat_constant_image": lambda b: b.op(
        "CONCATENATION", [image(b), b.constant(rng.random((1, 4, 6, 2)).astype(np.float32))], "ConcatenationOptions", axis=3, rank=4
    ),
    "tile": lambda b: b.op("TILE", [image(b), b.constant(ints(1, 2, 1, 3))], rank=4),
    "broadcast": lambda b: b.op(
        "BROADCAST_TO", [image(b, (1, 4, 1, 8)), b.constant(ints(1, 4, 5, 8))], "BroadcastToOptions", rank=4, version=2
    ),
    "depth_to_space": lambda b: b.op("DEPTH_TO_SPACE", [image(b)], "DepthToSpaceOptions", blockSize=2, rank=4),
    "depth_to_space_one": lambda b: b.op("DEPTH_TO_SPACE", [image(b, (1, 4, 6, 4))], "DepthToSpaceOptions", blockSize=2, rank=4),
    "space_to_depth": lambda b: b.op("SPACE_TO_DEPTH", [image(b)], "SpaceToDepthOptions", blockSize=2, rank=4),
    "mean": lambda b: b.op("MEAN", [image(b), b.constant(ints(1, 2))], "ReducerOptions"),
    "mean_keeps": lambda b: b.op("MEAN", [image(b), b.constant(ints(-2, -3))], "ReducerOptions", keepDims=True, rank=4),
    "sum_channels": lambda b: b.op("SUM", [image(b), b.constant(ints([3]))], "ReducerOptions", rank=3),
    "max": lambda b: b.op("REDUCE_MAX", [image(b), b.constant(np.int32(1))], "ReducerOptions", rank=3),
    "min": lambda b: b.op("REDUCE_MIN", [image(b), b.constant(ints(1, 3))], "ReducerOptions", rank=2),
    "prod": lambda b: b.op("REDUCE_PROD", [image(b), b.constant(ints(1, 2))], "ReducerOptions", rank=2),
    "argmax": lambda b: b.op("ARG_MAX", [image(b), b.constant(np.int32(-1))], "ArgMaxOptions", outputType=2, dtype="INT32", rank=3),
    "argmin": lambda b: b.op("ARG_MIN", [b.input([1, 9]), b.constant(np.int32(1))], "ArgMinOptions", outputType=4, dtype="INT64"),
    "cumsum": lambda b: b.op("CUMSUM", [image(b), b.constant(np.int32(1))], "CumsumOptions", rank=4),
    "cumsum_back": lambda b: b.op("CUMSUM", [b.input([1, 9]), b.constant(np.int32(1))], "CumsumOptions", exclusive=True, reverse=True),
    "one_hot": lambda b: b.op(
        "ONE_HOT",
        [b.input([1, 3], "INT32"), *(b.constant(v) for v in (np.int32(6), np.float32(1), np.float32(0)))],
        "OneHotOptions",
        axis=-1,
        rank=3,
    ),
    "add_n": lambda b: b.op("ADD_N", [(x := b.input([1, 9])), x, b.input([1, 9])], "AddNOptions"),
    "zeros": lambda b: b.op("ADD", [(x := b.input([1, 9])), b.op("ZEROS_LIKE", [x], "ZerosLikeOptions")], "AddOptions"),
    "fill": lambda b: b.op("MUL", [b.input([1, 9]), b.op("FILL", [b.constant(ints([9])), b.constant(3.0)], "FillOptions")], "MulOptions"),
    "range": lambda b: b.op(
        "MUL", [b.input([1, 4]), b.op("RANGE", [b.constant(v) for v in (1.0, 9.0, 2.0)], "RangeOptions")], "MulOptions"
    ),
}  # fmt: skip
PERMUTED = ("sum_channels", "max", "argmax")  # outputs of three axes that were images: as the file has them


@pytest.mark.parametrize("name", SHAPED)
def test_shapes(tmp_path: Path, name: str) -> None:
    b = Build()
    network = agrees(b, tmp_path / "a.tflite", SHAPED[name](b), images=name != "expand_dims")
    graph = str(network.module.graph)
    assert "permute" not in graph or name in PERMUTED or "squeeze" in name or "expand" in name


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
@pytest.mark.parametrize("axis", [1, -1])
def test_parts(tmp_path: Path, kind: str, axis: int) -> None:
    b = Build()
    x = image(b)
    if kind == "UNPACK":
        parts = b.op(kind, [x], "UnpackOptions", num=4 if axis == 1 else 8, axis=axis, count=4 if axis == 1 else 8, rank=3)
    elif kind == "SPLIT":
        parts = b.op(kind, [b.constant(np.int32(axis)), x], "SplitOptions", numSplits=2, count=2, rank=4)
    else:
        parts = b.op(kind, [x, b.constant(ints(1, -1, 2)), b.constant(np.int32(axis))], "SplitVOptions", numSplits=3, count=3, rank=4)
    agrees(b, tmp_path / "a.tflite", *parts)


SAMPLED = (
    ("CONCATENATION", [], {"axis": 0}),
    ("TILE", [ints(2, 1, 1)], {}),
    ("REVERSE_V2", [ints([0])], {}),
    ("UNPACK", [], {"axis": 0, "num": 1}),
    ("PAD", [ints([[1, 0], [0, 0], [0, 0]])], {}),
)
OPTIONS = {"MEAN": "ReducerOptions", "CONCATENATION": "ConcatenationOptions", "UNPACK": "UnpackOptions", "SQUEEZE": "SqueezeOptions"}


@pytest.mark.parametrize("kind, operands, fields", SAMPLED)
def test_samples_stay_apart(tmp_path: Path, kind: str, operands: list[np.ndarray], fields: dict[str, int]) -> None:
    b = Build()
    y = b.op(kind, [b.input([1, 4, 5]), *(b.constant(o) for o in operands)], OPTIONS.get(kind, ""), **fields)
    with pytest.raises(UnsupportedOp, match="batch axis"):
        read(b.save(tmp_path / "a.tflite", y))


@pytest.mark.parametrize("kind, operands, fields", [("MEAN", [ints(0, 1)], {}), ("SQUEEZE", [], {"squeezeDims": [0]})])
def test_an_open_batch_is_no_axis_of_one_sample(tmp_path: Path, kind: str, operands: list[np.ndarray], fields: dict[str, Any]) -> None:
    b = Build()
    x = b.input([1, 4, 5])
    b.graph.tensors[x].shapeSignature = np.array([-1, 4, 5], np.int32)
    y = b.op(kind, [x, *(b.constant(o) for o in operands)], OPTIONS[kind], **fields)
    with pytest.raises(UnsupportedOp, match="batch axis"):
        read(b.save(tmp_path / "a.tflite", y))


# a file of one sample may leave the batch out: x[1, 4, 6] → y without it, or → y with it again
def rows(b: Build) -> int:
    return b.op("RESHAPE", [b.input([1, 4, 6]), b.constant(ints(4, 6))], "ReshapeOptions", rank=2)


def constant(b: Build, *shape: int) -> int:
    return b.constant(rng.normal(size=shape).astype(np.float32))


def turned(b: Build) -> int:
    return b.op("TRANSPOSE", [rows(b), b.constant(ints(1, 0))], "TransposeOptions", rank=2)


HIDDEN: dict[str, Callable[[Build], int]] = {
    "function": lambda b: b.op("EXP", [rows(b)], rank=2),
    "mean": lambda b: b.op("MEAN", [b.input([1, 4, 6]), b.constant(ints(0, 2))], "ReducerOptions"),
    "mean_keeps": lambda b: b.op("MEAN", [b.input([1, 4, 6]), b.constant(ints(0, 2))], "ReducerOptions", keepDims=True, rank=3),
    "sum": lambda b: b.op("SUM", [rows(b), b.constant(ints([0]))], "ReducerOptions"),
    "constant": lambda b: b.op("ADD", [rows(b), constant(b, 6)], "AddOptions", rank=2),
    "constant_left": lambda b: b.op("SUB", [constant(b, 4, 1), rows(b)], "SubOptions", rank=2),
    "two": lambda b: b.op("MUL", [rows(b), rows(b)], "MulOptions", rank=2),
    "narrow": lambda b: b.op("MUL", [rows(b), b.op("MEAN", [rows(b), b.constant(ints([0]))], "ReducerOptions")], "MulOptions", rank=2),
    "wide": lambda b: b.op("MUL", [rows(b), b.input([1, 5, 4, 6])], "MulOptions", rank=4),
    "with_batch": lambda b: b.op("ADD", [rows(b), b.input([1, 4, 6])], "AddOptions", rank=3),
    "with_row": lambda b: b.op("ADD", [rows(b), b.input([1, 6])], "AddOptions", rank=2),
    "transpose": lambda b: b.op("TRANSPOSE", [rows(b), b.constant(ints(1, 0))], "TransposeOptions", rank=2),
    "transposed_sum": lambda b: b.op("ADD", [turned(b), constant(b, 6, 4)], "AddOptions", rank=2),
    "product": lambda b: b.op("BATCH_MATMUL", [rows(b), turned(b)], "BatchMatMulOptions", rank=2),
    "connected": lambda b: b.op("FULLY_CONNECTED", [rows(b), constant(b, 3, 6), constant(b, 3)], "FullyConnectedOptions", rank=2),
    "flattened": lambda b: b.op("FULLY_CONNECTED", [rows(b), constant(b, 3, 24), -1], "FullyConnectedOptions", rank=2),
    "softmax": lambda b: b.op("SOFTMAX", [rows(b)], "SoftmaxOptions", beta=1.0, rank=2),
    "concat": lambda b: b.op("CONCATENATION", [rows(b), constant(b, 2, 6)], "ConcatenationOptions", axis=0, rank=2),
    "pack": lambda b: b.op("PACK", [rows(b), constant(b, 4, 6)], "PackOptions", valuesCount=2, axis=1, rank=3),
    "pad": lambda b: b.op("PAD", [rows(b), b.constant(ints([[1, 2], [0, 3]]))], rank=2),
    "mirror": lambda b: b.op("MIRROR_PAD", [rows(b), b.constant(ints([[1, 2], [0, 3]]))], "MirrorPadOptions", rank=2),
    "slice": lambda b: b.op("SLICE", [rows(b), b.constant(ints(1, 2)), b.constant(ints(2, 3))], "SliceOptions", shape=[2, 3]),
    "first": lambda b: b.op(
        "STRIDED_SLICE", [b.input([1, 4, 6]), *(b.constant(ints([v])) for v in (0, 1, 1))], "StridedSliceOptions", shrinkAxisMask=1, rank=2
    ),
    "new": lambda b: b.op(
        "STRIDED_SLICE", [rows(b), *(b.constant(ints(v)) for v in ((0, 0), (0, 3), (1, 1)))], "StridedSliceOptions", newAxisMask=1, rank=3
    ),
    "gather": lambda b: b.op("GATHER", [rows(b), b.constant(ints([[0, 3], [1, 1]]))], "GatherOptions", axis=0, rank=3),
    "squeeze": lambda b: b.op("EXP", [b.op("SQUEEZE", [b.input([1, 4, 1, 6])], "SqueezeOptions", squeezeDims=[0, 2], rank=2)], rank=2),
    "expand": lambda b: b.op("EXPAND_DIMS", [rows(b), b.constant(np.int32(0))], "ExpandDimsOptions", rank=3),
    "expand_last": lambda b: b.op("EXPAND_DIMS", [rows(b), b.constant(np.int32(2))], "ExpandDimsOptions", rank=3),
    "tile": lambda b: b.op("TILE", [rows(b), b.constant(ints(2, 1))], rank=2),
    "unpack": lambda b: b.op("UNPACK", [rows(b)], "UnpackOptions", num=4, axis=0, count=4)[2],
    "select": lambda b: b.op("SELECT_V2", [b.constant(rng.random((4, 1)) > 0.5), rows(b), b.constant(0.5)], "SelectV2Options", rank=2),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_batch_that_the_file_leaves_out(tmp_path: Path, name: str) -> None:
    b = Build()
    lower(agrees(b, tmp_path / "a.tflite", HIDDEN[name](b), images=name == "wide"))


def test_sequences_that_a_file_makes_images_of_stay_channels_first(tmp_path: Path) -> None:
    b = Build()
    x = b.op("RESHAPE", [b.input([1, 3, 8]), b.constant(ints(1, 3, 1, 8))], "ReshapeOptions", rank=4)
    x = b.op("TRANSPOSE", [x, b.constant(ints(0, 2, 3, 1))], "TransposeOptions", rank=4)
    x = b.op("CONV_2D", [x, constant(b, 5, 1, 3, 3), constant(b, 5)], "Conv2DOptions", strideH=1, strideW=1, rank=4)
    x = b.op("TRANSPOSE", [x, b.constant(ints(0, 3, 1, 2))], "TransposeOptions", rank=4)
    x = b.op("RESHAPE", [x, b.constant(ints(1, 5, 8))], "ReshapeOptions", rank=3)
    network = agrees(b, tmp_path / "a.tflite", b.op("MUL", [x, constant(b, 1, 5, 1)], "MulOptions", rank=3))
    called = [n.name for n in network.module.graph.nodes if n.op == "call_function"]
    assert called == ["unsqueeze_default", "conv2d_default", "squeeze_dims", "mul_tensor"]
    assert "affine" in [op.kind for op in lower(network).ops]
