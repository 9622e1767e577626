"""Small ``.tflite`` files made by the tests, and what LiteRT's own reference kernels compute with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from karui.graph.doors.tflite import read
from karui.graph.network import Network

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")

Scale = tuple[Any, Any] | tuple[Any, Any, int]  # scale, zero point, axis
NUMPY = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(v).name: k for k, v in NUMPY.items()}


class Build:
    """A file that grows op by op; tensors are numbers. The shapes of results are left to the interpreter."""

    def __init__(self) -> None:
        self.model = schema.ModelT(version=3, description=b"test", buffers=[schema.BufferT()], operatorCodes=[], signatureDefs=[])
        self.graph = schema.SubGraphT(tensors=[], operators=[], inputs=[], outputs=[], name=b"main")
        self.model.subgraphs = [self.graph]

    def tensor(self, shape: Sequence[int], dtype: str, scale: Scale | None = None, data: bytes | None = None, name: str = "") -> int:
        buffer = 0
        if data is not None:
            self.model.buffers.append(schema.BufferT(data=np.frombuffer(data, np.uint8)))
            buffer = len(self.model.buffers) - 1
        index = len(self.graph.tensors)
        tensor = schema.TensorT(
            shape=np.array(shape, np.int32),
            type=getattr(schema.TensorType, dtype),
            buffer=buffer,
            name=(name or f"t/{index}").encode(),
            hasRank=True,
        )
        if scale is not None:
            s, z = np.atleast_1d(np.asarray(scale[0], np.float32)), np.atleast_1d(np.asarray(scale[1], np.int64))
            axis = scale[2] if len(scale) > 2 else 0
            tensor.quantization = schema.QuantizationParametersT(
                scale=s, zeroPoint=np.broadcast_to(z, s.shape).copy(), quantizedDimension=axis, detailsType=0
            )
        self.graph.tensors.append(tensor)
        return index

    def input(self, shape: Sequence[int], dtype: str = "FLOAT32", scale: Scale | None = None, name: str = "") -> int:
        index = self.tensor(shape, dtype, scale, name=name)
        self.graph.inputs.append(index)
        return index

    def constant(self, data: Any, scale: Scale | None = None, dtype: str = "", name: str = "") -> int:
        array = np.asarray(data)
        array = (
            array.astype(np.float32)
            if array.dtype == np.float64
            else array.astype(np.int32)
            if array.dtype == np.int64 and not dtype
            else array
        )
        array = array.astype(NUMPY[dtype]) if dtype in NUMPY else array
        return self.tensor(array.shape, dtype or NAMES[array.dtype.name], scale, array.tobytes(), name)

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        options: str = "",
        *,
        count: int = 1,
        dtype: str = "FLOAT32",
        scale: Scale | None = None,
        rank: int = 1,
        shape: Sequence[int] | None = None,
        name: str = "",
        version: int = 1,
        **fields: Any,
    ) -> Any:
        number = getattr(schema.BuiltinOperator, kind)
        self.model.operatorCodes.append(schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=version))
        outputs = [self.tensor([1] * rank if shape is None else shape, dtype, scale, name=name) for _ in range(count)]
        operator = schema.OperatorT(opcodeIndex=len(self.model.operatorCodes) - 1, inputs=list(inputs), outputs=outputs)
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")(**fields)
        self.graph.operators.append(operator)
        return outputs[0] if count == 1 else outputs

    def save(self, path: Path, *outputs: int) -> Path:
        self.graph.outputs = list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def reference(path: Path, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the reference kernels give for one sample after the other, as they write it."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    kinds = litert.OpResolverType
    try:
        interpreter = litert.Interpreter(str(path), experimental_op_resolver_type=kinds.BUILTIN_REF)
    except ValueError:  # a few ops have no reference kernel
        interpreter = litert.Interpreter(str(path), experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter.allocate_tensors()
    rows: list[list[np.ndarray]] = []
    for n in range(len(inputs[0])):
        for detail, value in zip(interpreter.get_input_details(), inputs):
            interpreter.set_tensor(detail["index"], value[n : n + 1].reshape(detail["shape"]))
        interpreter.invoke()
        rows.append([interpreter.get_tensor(detail["index"]).copy() for detail in interpreter.get_output_details()])
    return [
        np.stack([row[i].reshape(row[i].shape[1:] if row[i].ndim and row[i].shape[0] == 1 else row[i].shape) for row in rows])
        for i in range(len(rows[0]))
    ]


def given(build: Build, batch: int, low: float = -2.0, high: float = 2.0) -> list[np.ndarray]:
    """Random inputs as the file takes them, but for more samples."""
    rng = np.random.default_rng(7)
    found = []
    for index in build.graph.inputs:
        tensor = build.graph.tensors[index]
        shape = (batch, *[int(n) for n in tensor.shape][1:])
        dtype = next(k for k in NUMPY if getattr(schema.TensorType, k) == tensor.type)
        if dtype == "FLOAT32":
            found.append(rng.uniform(low, high, shape).astype(np.float32))
        elif dtype in ("INT8", "UINT8", "INT16"):
            info = np.iinfo(NUMPY[dtype])
            found.append(rng.integers(info.min, info.max + 1, shape).astype(NUMPY[dtype]))
        else:
            found.append(rng.integers(0, 5, shape).astype(NUMPY[dtype]))
    return found


def real(array: np.ndarray, tensor: Any) -> np.ndarray:
    """What codes stand for."""
    q = tensor.quantization
    if array.dtype not in (np.int8, np.uint8, np.int16) or q is None or q.scale is None:
        return array
    return ((array.astype(np.float64) - int(q.zeroPoint[0])) * float(q.scale[0])).astype(np.float32)


def into(build: Build, inputs: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """The same inputs as a network takes them."""
    tensors = [torch.from_numpy(np.ascontiguousarray(real(x, build.graph.tensors[i]))) for i, x in zip(build.graph.inputs, inputs)]
    return [x.permute(0, 3, 1, 2).contiguous() if x.dim() == 4 else x for x in tensors]


def agrees(
    build: Build,
    path: Path,
    *outputs: int,
    low: float = -2.0,
    high: float = 2.0,
    images: bool = True,
    tolerance: float = 1e-4,
    steps: float = 0,
) -> Network:
    """The file's network gives what the file gives, at batches of 1 and 3; floats to 1e-4, codes to so many ``steps``."""
    network = read(build.save(path, *outputs))
    for batch in (1, 3):
        inputs = given(build, batch, low, high)
        expected = reference(path, inputs)
        with torch.no_grad():
            found = network(*into(build, inputs))
        assert len(found) == len(expected)
        for index, a, b in zip(outputs, found, expected):
            b = real(b, build.graph.tensors[index])
            b = b.transpose(0, 3, 1, 2) if b.ndim == 4 and images else b
            assert tuple(a.shape) == b.shape
            q = build.graph.tensors[index].quantization
            limit = tolerance * max(float(np.abs(b.astype(np.float64)).max()), 1e-6)
            limit = float(q.scale[0]) * (steps + 0.001) if q is not None and q.scale is not None else limit
            assert float(np.abs(a.numpy().astype(np.float64) - b).max()) <= limit
    return network
