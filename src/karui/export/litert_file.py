"""A ``Graph`` as the bytes of a ``.tflite`` file. What no output needs is left out, and equal data is stored once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from karui.errors import ToolError
from karui.export.litert_graph import Graph, Held, Node
from karui.program.program import Array

SCHEMA = 3  # the version of the file format
SIGNATURE = "serving_default"

_OPTIONS: Mapping[str, str] = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SOFTMAX": "SoftmaxOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "TOPK_V2": "TopKV2Options",
    "SELECT_V2": "SelectV2Options",
    "PADV2": "PadV2Options",
    **{kind: "ReducerOptions" for kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")},
}
_PLAIN = ("ADD SUB MUL DIV PAD RESHAPE TRANSPOSE GATHER CAST GELU SPLIT PACK UNPACK POW EXP COS ABS NEG SQUARE".split()) + [
    "SQUARED_DIFFERENCE",
    "GREATER_EQUAL",
    "HARD_SWISH",
    "QUANTIZE",
    "DEQUANTIZE",
    "SIGN",
]  # whose options are called after them

_INT8_IS_2 = (
    "ADD MUL PAD PADV2 MEAN CONCATENATION STRIDED_SLICE TRANSPOSE MAX_POOL_2D AVERAGE_POOL_2D MAXIMUM MINIMUM GATHER DEQUANTIZE".split()
)

_ENUMS = {
    "padding": "Padding",
    "fusedActivationFunction": "ActivationFunctionType",
    "inDataType": "TensorType",
    "outDataType": "TensorType",
}
_ALIGNED = 16  # bytes: what the file format asks of its data


def encode(graph: Graph, inputs: Mapping[str, int], outputs: Mapping[str, int], facts: bytes, name: str) -> bytes:
    """The file.

    Args:
        inputs, outputs: names of the signature → values.
        facts: what the file says about itself, under the key ``name``.

    Raises:
        ToolError: the package 'ai-edge-litert' is missing.
    """
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        raise ToolError("target 'litert' needs the package ai-edge-litert; install it with: pip install \"karui[litert]\"") from None
    nodes = _live(graph.nodes, outputs.values())
    used = sorted({i for node in nodes for i in (*node.inputs, *node.outputs) if i >= 0} | {*inputs.values(), *outputs.values()})
    place = {value: i for i, value in enumerate(used)} | {-1: -1}
    buffers: dict[bytes, int] = {b"": 0}
    written: dict[tuple[Any, ...], Any] = {}
    model, subgraph, signature = schema.ModelT(), schema.SubGraphT(), schema.SignatureDefT()
    subgraph.name = graph.program.name
    subgraph.tensors = [_tensor(schema, graph.held[value], buffers, written) for value in used]
    subgraph.inputs, subgraph.outputs = ([place[v] for v in ends.values()] for ends in (inputs, outputs))
    codes: dict[tuple[str, int], int] = {}
    subgraph.operators = [_operator(schema, graph, node, place, codes) for node in nodes]
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs, signature.outputs = ([_named(schema, n, place[v]) for n, v in ends.items()] for ends in (inputs, outputs))
    metadata = schema.MetadataT()
    metadata.name, metadata.buffer = name, buffers.setdefault(facts, len(buffers))
    model.version, model.description, model.subgraphs = SCHEMA, "karui", [subgraph]
    model.signatureDefs, model.metadata = [signature], [metadata]
    model.operatorCodes = [_code(schema, kind, version) for kind, version in codes]
    model.buffers = [_Buffer(schema=schema, data=data) for data in buffers]
    builder = flatbuffers.Builder(sum(map(len, buffers)) + (1 << 16))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _live(nodes: Sequence[Node], outputs: Any) -> list[Node]:
    """The nodes that an output needs."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted |= set(node.inputs)
    return kept[::-1]


# ── parts of the file ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class _Buffer:
    """Stands in for the schema's own, which doesn't align what it packs."""

    schema: Any
    data: bytes

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        vector = None
        if self.data:
            builder.StartVector(1, len(self.data), _ALIGNED)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            vector = builder.EndVector()
        self.schema.BufferStart(builder)
        if vector is not None:
            self.schema.BufferAddData(builder, vector)
        return self.schema.BufferEnd(builder)


@dataclass(frozen=True, kw_only=True)
class _Quantization:
    """Stands in for the schema's own, which writes the zero points of every tensor anew: 8 bytes per channel, all the same."""

    schema: Any
    held: Held
    written: dict[tuple[Any, ...], Any]

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        scale = self._vector(builder, np.asarray(self.held.scale, np.float32))
        zero_point = self._vector(builder, np.full(len(self.held.scale), self.held.zero_point, np.int64))
        self.schema.QuantizationParametersStart(builder)
        self.schema.QuantizationParametersAddScale(builder, scale)
        self.schema.QuantizationParametersAddZeroPoint(builder, zero_point)
        self.schema.QuantizationParametersAddQuantizedDimension(builder, self.held.axis)
        return self.schema.QuantizationParametersEnd(builder)

    def _vector(self, builder: Any, array: Array) -> Any:
        key = (array.dtype.str, array.tobytes())
        if key not in self.written:
            self.written[key] = builder.CreateNumpyVector(array)
        return self.written[key]


def _tensor(schema: Any, held: Held, buffers: dict[bytes, int], written: dict[tuple[Any, ...], Any]) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.hasRank = held.name, list(held.shape), _type(schema, held.dtype), True
    tensor.buffer = buffers.setdefault(held.data or b"", len(buffers))
    if held.scale:
        tensor.quantization = _Quantization(schema=schema, held=held, written=written)
    return tensor


def _type(schema: Any, dtype: str) -> int:
    return int(getattr(schema.TensorType, dtype.upper()))


def _named(schema: Any, name: str, place: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, place
    return entry


def _code(schema: Any, kind: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    return code


def _operator(schema: Any, graph: Graph, node: Node, place: Mapping[int, int], codes: dict[tuple[str, int], int]) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = codes.setdefault((node.kind, _version(graph, node)), len(codes))
    operator.inputs, operator.outputs = [place[i] for i in node.inputs], [place[i] for i in node.outputs]
    title = _OPTIONS.get(node.kind)
    if title is None and node.kind in _PLAIN:
        title = "".join(map(str.capitalize, node.kind.split("_"))) + "Options"
    if title is None:
        return operator
    options = getattr(schema, f"{title}T")()
    for key, value in node.options.items():
        if key in _ENUMS:
            value = getattr(getattr(schema, _ENUMS[key]), value.upper())
        if not hasattr(options, key):
            raise AttributeError(f"{title} has no field '{key}'")
        setattr(options, key, value)
    second = hasattr(schema.BuiltinOptions2, title)
    setattr(operator, "builtinOptions2" if second else "builtinOptions", options)
    kinds = schema.BuiltinOptions2 if second else schema.BuiltinOptions
    setattr(operator, "builtinOptions2Type" if second else "builtinOptionsType", getattr(kinds, title))
    return operator


def _version(graph: Graph, node: Node) -> int:
    """The version of the operator that first could do this: older runtimes refuse the file instead of misreading it."""
    held = [graph.held[i] for i in node.inputs if i >= 0]
    integer = any(h.dtype == "int8" for h in held)
    spread = any(len(h.scale) > 1 for h in held)
    narrow = next((h.dtype for h in held if h.dtype in ("int4", "int2")), "")
    if node.kind == "CONV_2D":
        return 6 if held[1].shape[-1] != held[0].shape[-1] else 3 if integer else 1
    if node.kind == "DEPTHWISE_CONV_2D":
        return 3 if integer else 2
    if node.kind == "FULLY_CONNECTED":
        return 14 if narrow == "int2" else 12 if integer and spread else 5 if node.options.get("keepNumDims") else 4 if integer else 1
    if node.kind == "TRANSPOSE_CONV":
        return 4 if node.options.get("fusedActivationFunction", "NONE") != "NONE" else 3 if len(held) > 3 else 1
    if node.kind.startswith("RESIZE"):
        return 3
    if node.kind == "DEQUANTIZE" and spread:
        return 9 if narrow == "int2" else 6 if narrow == "int4" else 5
    return 2 if integer and node.kind in _INT8_IS_2 else 1
