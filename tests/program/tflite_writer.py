"""Just enough of a ``.tflite`` writer to run int8 Programs in the real LiteRT interpreter: the other half of the arithmetic tests."""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from karui.program.arithmetic import quantization
from karui.program.litert import bias_int32
from karui.program.program import Affine, Array, Op, Program

CODES, OPTIONS, TYPES = schema.BuiltinOperator, schema.BuiltinOptions, schema.TensorType
NONE, RELU, RELU6 = 0, 1, 3
SAME, VALID = 0, 1


class Writer:
    """Collects tensors, buffers and operators of one subgraph."""

    def __init__(self, program: Program, batch: int) -> None:
        self.program, self.batch = program, batch
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.model.subgraphs = [self.graph]
        self.graph.tensors, self.graph.operators = [], []
        self.places: dict[str, int] = {}

    def tensor(self, name: str, shape: Sequence[int], *, kind: int = TYPES.INT8, data: Array | None = None) -> int:
        """A tensor without quantization; ``data`` makes it a constant."""
        t = schema.TensorT()
        t.name, t.shape, t.type, t.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            t.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def quantized(self, place: int, scale: Any, zero_point: int, axis: int = 0) -> int:
        """Give a tensor its scale(s)."""
        q = schema.QuantizationParametersT()
        q.scale = np.atleast_1d(np.asarray(scale, np.float32))
        q.zeroPoint = np.full(q.scale.shape, zero_point, np.int64)
        q.quantizedDimension = axis
        self.graph.tensors[place].quantization = q
        return place

    def activation(self, name: str) -> int:
        """The tensor of the program with this name."""
        if name not in self.places:
            t = self.program.tensor(name)
            self.places[name] = self.quantized(self.tensor(name, (self.batch, *t.shape)), *quantization(t))
        return self.places[name]

    def operator(self, code: int, version: int, inputs: list[int], output: int, option_kind: int = 0, options: Any = None) -> None:
        """Append an operator."""
        c, o = schema.OperatorCodeT(), schema.OperatorT()
        c.builtinCode, c.deprecatedBuiltinCode, c.version = code, min(code, 127), version
        self.model.operatorCodes.append(c)
        o.opcodeIndex, o.inputs, o.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        o.builtinOptionsType, o.builtinOptions = option_kind, options
        self.graph.operators.append(o)

    def padded(self, op: Op, height: int, width: int) -> int:
        """The op's input with its padding made explicit (a stride of 2 with padding 1 is not SAME)."""
        source, (top, left, bottom, right) = op.inputs[0], op.attributes["padding"]
        if not any((top, left, bottom, right)):
            return self.activation(source)
        t = self.program.tensor(source)
        pairs = self.tensor(
            op.name + ".pads", (4, 2), kind=TYPES.INT32, data=np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        )
        shape = (self.batch, height + top + bottom, width + left + right, t.shape[2])
        place = self.quantized(self.tensor(op.name + ".padded", shape), *quantization(t))
        self.operator(CODES.PAD, 2, [self.activation(source), pairs], place, OPTIONS.PadOptions, schema.PadOptionsT())
        return place

    def weights(self, op: Op, *, axis: int = 0) -> list[int]:
        """Weight and 32-bit bias of a layer."""
        weight = self.program.weights[op.weights["weight"]]
        codes, scale = weight.codes().astype(np.int8), weight.multiplier()
        codes = np.moveaxis(codes, 0, -1).reshape(1, *codes.shape[1:3], -1) if axis == 3 else codes
        w = self.quantized(self.tensor(op.name + ".weight", codes.shape, data=codes), scale, 0, axis)
        bias = bias_int32(self.program, op)
        b = self.tensor(op.name + ".bias", bias.shape, kind=TYPES.INT32, data=bias)
        return [w, self.quantized(b, quantization(self.program.tensor(op.inputs[0]))[0] * scale, 0)]

    def fused(self, op: Op) -> int:
        """The clamp as one of LiteRT's fused activations."""
        clamp, quant = op.attributes.get("clamp"), self.program.tensor(op.outputs[0]).quant
        assert isinstance(quant, Affine)
        if clamp is None:
            return NONE
        top = quant.zero_point + round(6 / quant.scale)
        assert clamp[0] == max(-128, quant.zero_point) and clamp[1] in (127, top), f"{op.name}: no fused activation is {clamp}"
        return RELU6 if clamp[1] == top else RELU

    def finished(self) -> bytes:
        """The file."""
        self.graph.inputs = [self.activation(i.tensor) for i in self.program.inputs]
        self.graph.outputs = [self.activation(o.tensor) for o in self.program.outputs]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _conv2d(w: Writer, op: Op) -> None:
    a, (h, width, _) = op.attributes, w.program.tensor(op.inputs[0]).shape
    depthwise = a["groups"] > 1
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = VALID, *a["stride"]
    options.dilationHFactor, options.dilationWFactor = a["dilation"]
    options.fusedActivationFunction = w.fused(op)
    if depthwise:
        options.depthMultiplier = w.program.tensor(op.outputs[0]).shape[2] // a["groups"]
    code = CODES.DEPTHWISE_CONV_2D if depthwise else CODES.CONV_2D
    kind = OPTIONS.DepthwiseConv2DOptions if depthwise else OPTIONS.Conv2DOptions
    inputs = [w.padded(op, h, width), *w.weights(op, axis=3 if depthwise else 0)]
    w.operator(code, 3, inputs, w.activation(op.outputs[0]), kind, options)


def _linear(w: Writer, op: Op) -> None:
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = w.fused(op)
    options.keepNumDims = len(w.program.tensor(op.inputs[0]).shape) > 1
    inputs = [w.activation(op.inputs[0]), *w.weights(op)]
    w.operator(CODES.FULLY_CONNECTED, 5, inputs, w.activation(op.outputs[0]), OPTIONS.FullyConnectedOptions, options)


def _binary(w: Writer, op: Op) -> None:
    options = schema.AddOptionsT() if op.kind == "add" else schema.MulOptionsT()
    options.fusedActivationFunction = w.fused(op)
    code, kind = (CODES.ADD, OPTIONS.AddOptions) if op.kind == "add" else (CODES.MUL, OPTIONS.MulOptions)
    w.operator(code, 2, [w.activation(name) for name in op.inputs], w.activation(op.outputs[0]), kind, options)


def _mean(w: Writer, op: Op) -> None:
    options = schema.ReducerOptionsT()
    options.keepDims = op.attributes["keepdims"]
    axes = np.array([axis + 1 for axis in op.attributes["axes"]], np.int32)
    inputs = [w.activation(op.inputs[0]), w.tensor(op.name + ".axes", axes.shape, kind=TYPES.INT32, data=axes)]
    w.operator(CODES.MEAN, 2, inputs, w.activation(op.outputs[0]), OPTIONS.ReducerOptions, options)


def _pool(w: Writer, op: Op) -> None:
    options, a = schema.Pool2DOptionsT(), op.attributes
    options.filterHeight, options.filterWidth = a["kernel"]
    options.strideH, options.strideW = a["stride"]
    options.padding = SAME if any(a["padding"]) else VALID  # the runtime refuses the file if SAME gives another shape
    options.fusedActivationFunction = w.fused(op)
    code = CODES.MAX_POOL_2D if op.kind == "max_pool2d" else CODES.AVERAGE_POOL_2D
    w.operator(code, 2, [w.activation(op.inputs[0])], w.activation(op.outputs[0]), OPTIONS.Pool2DOptions, options)


def _reshape(w: Writer, op: Op) -> None:
    options, shape = schema.ReshapeOptionsT(), np.array([w.batch, *w.program.tensor(op.outputs[0]).shape], np.int32)
    options.newShape = shape
    inputs = [w.activation(op.inputs[0]), w.tensor(op.name + ".shape", shape.shape, kind=TYPES.INT32, data=shape)]
    w.operator(CODES.RESHAPE, 1, inputs, w.activation(op.outputs[0]), OPTIONS.ReshapeOptions, options)


RULES = {
    "conv2d": _conv2d,
    "linear": _linear,
    "add": _binary,
    "mul": _binary,
    "mean": _mean,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "reshape": _reshape,
}


def write(program: Program, batch: int) -> bytes:
    """An int8 Program of the kinds in ``RULES`` as a ``.tflite`` for a fixed batch."""
    writer = Writer(program, batch)
    for op in program.ops:
        RULES[op.kind](writer, op)
    return writer.finished()
