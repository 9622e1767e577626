import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from karui.errors import CaptureError, FileError, ToolError, UnsupportedOp
from karui.graph.doors import tflite_file
from karui.graph.doors.tflite import read
from tests.graph.doors.test_tflite_int8 import INT8, net
from tests.graph.doors.test_tflite_shapes import image, ints
from tests.graph.doors.tflite_files import Build, agrees, schema

rng = np.random.default_rng(6)
ALLOWED = (CaptureError, FileError, UnsupportedOp)
SECONDS = 10.0  # of the processor


def various(b: Build) -> list[int]:
    """A file with every kind of part: codes, shapes that are worked out, lists in options, sparse weights."""
    outputs = net(b)
    x = image(b)
    shape = b.op("SHAPE", [x], "ShapeOptions", outType=2, dtype="INT32")
    cut = [b.constant(ints([0])), b.constant(ints([1])), b.constant(ints([1]))]
    batch = b.op("STRIDED_SLICE", [shape, *cut], "StridedSliceOptions", dtype="INT32", shrinkAxisMask=1)
    target = b.op("PACK", [batch, b.constant(np.int32(24)), b.constant(np.int32(8))], "PackOptions", dtype="INT32", valuesCount=3)
    rows = b.op("RESHAPE", [x, target], "ReshapeOptions", rank=3)
    tiled = b.op("TILE", [rows, b.constant(ints(1, 2, 1))], rank=3)
    filled = b.op("FILL", [b.constant(ints([8])), b.constant(3.0)], "FillOptions")
    y = b.op("MUL", [tiled, filled], "MulOptions", rank=3)
    z = b.op("CONCATENATION", [y, rows], "ConcatenationOptions", axis=1, rank=3)
    wide = b.op("RESIZE_BILINEAR", [x, b.constant(ints(8, 12))], "ResizeBilinearOptions", rank=4)
    return [*outputs, b.op("SQUEEZE", [b.op("MEAN", [wide, b.constant(ints(1, 2))], "ReducerOptions", keepDims=True)], squeezeDims=[1, 2],
                           options="SqueezeOptions"), z, sparse(b, x)]  # fmt: skip


def sparse(b: Build, x: int) -> int:
    """A layer of sparse weights: 4 × 8, by rows, each with its columns."""
    dense = np.where(rng.random((4, 8)) < 0.4, rng.normal(size=(4, 8)), 0).astype(np.float32)
    index = b.tensor([4, 8], "FLOAT32", data=dense[dense != 0].tobytes())
    segments = np.concatenate([[0], np.cumsum((dense != 0).sum(1))])
    vectors = [schema.Int32VectorT(values=list(map(int, v))) for v in (segments, np.nonzero(dense)[1])]
    kinds = {"arraySegmentsType": schema.SparseIndexVector.Int32Vector, "arrayIndicesType": schema.SparseIndexVector.Int32Vector}
    levels = [
        schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=4),
        schema.DimensionMetadataT(format=schema.DimensionType.SPARSE_CSR, arraySegments=vectors[0], arrayIndices=vectors[1], **kinds),
    ]
    b.graph.tensors[index].sparsity = schema.SparsityParametersT(traversalOrder=[0, 1], dimMetadata=levels, blockMap=[])
    rows = b.op("RESHAPE", [x, b.constant(ints(-1, 24, 8))], "ReshapeOptions", rank=3)
    weights = b.op("DENSIFY", [index], "DensifyOptions", shape=[4, 8])
    return b.op("FULLY_CONNECTED", [rows, weights, -1], "FullyConnectedOptions", keepNumDims=True, rank=3)


def test_sparse_weights_are_read_dense(tmp_path: Path) -> None:
    b = Build()
    network = agrees(b, tmp_path / "a.tflite", sparse(b, image(b)))
    (weight,) = network.parameters().values()
    assert tuple(weight.shape) == (4, 8) and 0 < int((weight == 0).sum()) < 32


def test_sparse_weights_in_blocks(tmp_path: Path) -> None:
    """4 × 8 in blocks of 2 × 4: rows of blocks, the blocks of each, then what is in them."""
    dense = np.zeros((4, 8), np.float32)
    dense[0:2, 4:8], dense[2:4, 0:4] = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    b = Build()
    index = b.tensor([4, 8], "FLOAT32", data=np.stack([dense[0:2, 4:8], dense[2:4, 0:4]]).tobytes())
    kinds = {"arraySegmentsType": schema.SparseIndexVector.Uint8Vector, "arrayIndicesType": schema.SparseIndexVector.Uint8Vector}
    levels = [
        schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=2),
        schema.DimensionMetadataT(
            format=schema.DimensionType.SPARSE_CSR,
            arraySegments=schema.Uint8VectorT(values=[0, 1, 2]),
            arrayIndices=schema.Uint8VectorT(values=[1, 0]),
            **kinds,
        ),
        schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=2),
        schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=4),
    ]
    b.graph.tensors[index].sparsity = schema.SparsityParametersT(traversalOrder=[0, 1, 2, 3], dimMetadata=levels, blockMap=[0, 1])
    y = b.op("FULLY_CONNECTED", [b.input([1, 8]), b.op("DENSIFY", [index], "DensifyOptions", shape=[4, 8]), -1], "FullyConnectedOptions")
    (weight,) = read(b.save(tmp_path / "a.tflite", y)).parameters().values()
    np.testing.assert_array_equal(weight.detach().numpy(), dense)


# ── files that are wrong ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="can't be read"):
        read(tmp_path / "nowhere.tflite")
    for content in (b"", b"TFL3", bytes(64), b"\x10\0\0\0TFL3", b"\x10\0\0\0TFL3" + b"\xff" * 64):
        (tmp_path / "a.tflite").write_bytes(content)
        with pytest.raises(FileError):
            read(tmp_path / "a.tflite")


def test_without_the_package_its_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(tflite_file.importlib, "import_module", lacking)
    with pytest.raises(ToolError, match=r'pip install "karui\[litert\]"'):
        read(tmp_path / "a.tflite")


def wrong(b: Build, path: Path, *outputs: int) -> str:
    with pytest.raises(ALLOWED) as caught:
        read(b.save(path, *outputs))
    message = str(caught.value)
    assert "\n" not in message and "a.tflite" in message
    return message


def test_references_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    b = Build()
    x = b.input([1, 4])
    y = b.op("NEG", [x])
    assert "an index of 99" in wrong(b, path, 99)
    b.graph.operators[0].inputs = [77]
    assert "an index of 77" in wrong(b, path, y)
    b.graph.operators[0].inputs = [y]  # reads what it makes itself
    assert "before anything makes it" in wrong(b, path, y)
    b.graph.operators[0].inputs = [x]
    b.graph.operators[0].opcodeIndex = 5
    assert "code 5 of 1" in wrong(b, path, y)
    b.graph.operators[0].opcodeIndex = 0
    b.graph.tensors[x].buffer = 12
    assert "buffer 12" in wrong(b, path, y)
    b.graph.tensors[x].buffer = 0
    b.graph.tensors[y].shape = np.array([1 << 30, 1 << 30], np.int32)
    assert "has the shape" in wrong(b, path, y)


def test_constants_are_checked(tmp_path: Path) -> None:
    b = Build()
    c = b.constant(np.ones(4, np.float32))
    y = b.op("ADD", [b.input([1, 4]), c], "AddOptions")
    b.graph.tensors[c].shape = np.array([5], np.int32)
    assert "16 bytes, 20 expected" in wrong(b, tmp_path / "a.tflite", y)
    b.graph.tensors[c].shape = np.array([4], np.int32)
    b.graph.tensors[c].type = schema.TensorType.STRING
    assert "STRING" in wrong(b, tmp_path / "a.tflite", y)


@pytest.mark.parametrize("kind", ["VAR_HANDLE", "READ_VARIABLE", "CALL_ONCE", "WHILE", "IF", "CUSTOM", "SVDF"])
def test_operators_without_a_rule_are_named(tmp_path: Path, kind: str) -> None:
    b = Build()
    y = b.op(kind, [b.input([1, 4])], name="net/odd")
    if kind == "CUSTOM":
        b.model.operatorCodes[0].customCode = b"TFLite_Detection_PostProcess"
    message = wrong(b, tmp_path / "a.tflite", y)
    assert "net.odd" in message and ("TFLite_Detection_PostProcess" if kind == "CUSTOM" else kind) in message
    assert ("state" in message) == (kind in ("VAR_HANDLE", "READ_VARIABLE", "CALL_ONCE"))


def test_a_few_bytes_that_ask_for_much_memory_are_refused(tmp_path: Path) -> None:
    for kind, operands, options in (
        ("FILL", [ints(1 << 15, 1 << 15), np.float32(1)], "FillOptions"),
        ("TILE", [np.ones((1, 8), np.float32), ints(1 << 14, 1 << 14)], ""),
        ("BROADCAST_TO", [np.ones((1, 1), np.float32), ints(1 << 16, 1 << 16)], "BroadcastToOptions"),
        ("PAD", [np.ones((1, 1), np.float32), ints([[0, 1 << 30], [0, 1 << 30]])], ""),
        ("ADD", [np.ones((1 << 14, 1), np.float32), np.ones((1, 1 << 14), np.float32)], "AddOptions"),
        ("RANGE", [np.float32(0), np.float32(1e9), np.float32(1)], "RangeOptions"),
    ):
        b = Build()
        large = b.op(kind, [b.constant(o) for o in operands], options)
        y = b.op("ADD", [b.input([1, 1]), b.op("SUM", [large, b.constant(ints(0, 1))], "ReducerOptions")], "AddOptions")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wrong(b, tmp_path / "a.tflite", y)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


@pytest.mark.parametrize(
    "kind, operands, options, fields",
    [
        ("MIRROR_PAD", [ints([[0, 0], [1, 1], [0, 0], [0, 0]])], "MirrorPadOptions", {"mode": 1}),
        ("RESIZE_BILINEAR", [ints(30000, 1)], "ResizeBilinearOptions", {}),
        ("AVERAGE_POOL_2D", [], "Pool2DOptions", {"filterHeight": 2, "filterWidth": 1, "strideH": 1, "strideW": 1}),
    ],
)
def test_an_absurd_input_takes_no_memory(
    tmp_path: Path, kind: str, operands: list[np.ndarray], options: str, fields: dict[str, int]
) -> None:
    b = Build()
    y = b.op(kind, [b.input([1, 1 << 29, 1, 1]), *(b.constant(o) for o in operands)], options, rank=4, **fields)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong(b, tmp_path / "a.tflite", y)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


# ── damaged files ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def damaged(data: bytes, seed: int) -> bytes:
    """One of the ways in which a file breaks."""
    chance = random.Random(seed)
    changed = bytearray(data)
    way = seed % 5
    if way == 0:
        return bytes(changed[: chance.randrange(len(data))])
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(8, len(data) - 8)
        if way == 1:
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 2:
            changed[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\1\0"))
        elif way == 3:
            changed[at - at % 4 : at - at % 4 + 4] = chance.randrange(len(data)).to_bytes(4, "little")
        else:
            del changed[at : at + chance.randrange(1, 9)]
    return bytes(changed)


def survives(path: Path, data: bytes, seeds: range) -> int:
    """Reads damaged files: a network, or an error of one line in a few seconds. How many were refused."""
    refused = 0
    for seed in seeds:
        path.write_bytes(damaged(data, seed))
        start = time.process_time()
        try:
            read(path)
        except ALLOWED as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000, seed
        assert time.process_time() - start < SECONDS, seed
    return refused


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    b = Build()
    data = b.save(tmp_path / "a.tflite", *various(b)).read_bytes()
    read(tmp_path / "a.tflite")
    assert survives(tmp_path / "b.tflite", data, range(300)) > 150


@pytest.mark.slow
def test_many_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    b = Build()
    data = b.save(tmp_path / "a.tflite", *various(b)).read_bytes()
    assert survives(tmp_path / "b.tflite", data, range(300, 3000)) > 1000


# ── inputs and outputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_go_in_and_come_out_channels_first(tmp_path: Path) -> None:
    b = Build()
    y = b.op("RELU", [b.input([1, 4, 6, 3], name="serving_default_picture:0")], rank=4, name="StatefulPartitionedCall:0")
    network = read(b.save(tmp_path / "net.tflite", y))
    assert network.inputs[0].shape == (3, 4, 6) and network.inputs[0].name == "picture"
    assert network.name == "net" and read(tmp_path / "net.tflite", name="other").name == "other"
    assert network.outputs == ("StatefulPartitionedCall",) and not network.training
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(network(x)[0], x.relu())


def test_a_signature_names_inputs_and_outputs(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 4])
    y = b.op("NEG", [x])
    maps = [schema.TensorMapT(name=name, tensorIndex=i) for name, i in ((b"sound", x), (b"word", y))]
    b.model.signatureDefs = [schema.SignatureDefT(inputs=maps[:1], outputs=maps[1:], signatureKey=b"serving_default", subgraphIndex=0)]
    network = read(b.save(tmp_path / "a.tflite", y))
    assert network.inputs[0].name == "sound" and network.outputs == ("word",)


def test_open_sizes_are_those_of_an_example(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 1, 1, 3])
    b.graph.tensors[x].shapeSignature = np.array([-1, -1, -1, 3], np.int32)
    y = b.op("RELU", [x], rank=4)
    path = b.save(tmp_path / "a.tflite", y)
    with pytest.raises(CaptureError, match="'t/0' leaves axis 2 open; pass an example"):
        read(path)
    assert read(path, torch.zeros(1, 3, 8, 9)).inputs[0].shape == (3, 8, 9)
    with pytest.raises(CaptureError, match="images are channels first"):
        read(path, torch.zeros(1, 8, 9, 3))
    with pytest.raises(CaptureError, match="1 inputs, the example 2"):
        read(path, [torch.zeros(1, 3, 8, 9)] * 2)


def test_a_file_without_a_batch_is_refused(tmp_path: Path) -> None:
    b = Build()
    y = b.op("NEG", [b.input([16000])])
    with pytest.raises(CaptureError, match="the batch as first axis"):
        read(b.save(tmp_path / "a.tflite", y))


def test_outputs_without_an_input_are_refused(tmp_path: Path) -> None:
    b = Build()
    x = b.input([1, 4])
    with pytest.raises(CaptureError, match="doesn't depend on any input"):
        read(b.save(tmp_path / "a.tflite", b.op("NEG", [x]), b.op("NEG", [b.constant(np.ones((1, 4)))])))


def test_a_network_of_codes_takes_and_gives_real_numbers(tmp_path: Path) -> None:
    b = Build()
    y = b.op("RELU", [b.input([1, 4], "INT8", (0.5, 3))], **INT8, scale=(0.5, 3))
    network = read(b.save(tmp_path / "a.tflite", y))
    assert network.inputs[0].dtype == "float32"
    torch.testing.assert_close(network(torch.tensor([[0.6, -3.0, 0.26, 90.0]]))[0], torch.tensor([[0.5, 0.0, 0.5, 62.0]]))


def test_a_saved_network_loads(tmp_path: Path) -> None:
    b = Build()
    network = read(b.save(tmp_path / "a.tflite", *various(b)))
    network.save(tmp_path / "a.pt2")
    inputs = network.example(2)
    for a, c in zip(network(*inputs), type(network).load(tmp_path / "a.pt2")(*inputs)):
        torch.testing.assert_close(a, c, rtol=0, atol=0)
