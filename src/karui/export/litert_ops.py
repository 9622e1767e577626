"""Everything but layers, in LiteRT: element by element, pools and reductions, moves. Moves of int8 work on the codes."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from karui.export.litert_graph import Graph, Held, cut, padded
from karui.export.litert_layers import conv_transpose2d, convolution, embedding, linear, matmul
from karui.export.litert_recurrent import recurrent
from karui.export.litert_unary import unary
from karui.export.litert_windows import image, image_shape, steps, windows
from karui.program.arithmetic import code_range
from karui.program.program import AffineValues, Array, FloatValues, Op
from karui.program.windows import edges, square, taps
from karui.program.windows import padded as surrounded

Rule = Callable[[Graph, Op], None]


def _rank(graph: Graph, op: Op) -> int:
    return len(graph.tensor(op.inputs[0]).shape)


# ── element by element ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def elementwise(graph: Graph, op: Op) -> None:
    """add, sub, mul, div; the batch's axis is 1, so axes that a tensor lacks are broadcast as any."""
    integer = graph.tensor(op.outputs[0]).dtype == "int8"
    graph.end(op, op.kind.upper(), *(graph.value(name) if integer else graph.real(name) for name in op.inputs))


def affine(graph: Graph, op: Op) -> None:
    """x · scale + bias per channel."""
    scale, bias = (graph.constant(graph.program.weights[op.weights[r]].real(), "float32", op.weights[r]) for r in ("scale", "bias"))
    graph.end(op, "ADD", graph.node("MUL", graph.real(op.inputs[0]), scale), bias)


def clamp(graph: Graph, op: Op) -> None:
    """Between two reals, or two codes."""
    graph.set(op.outputs[0], graph.clamped(op, graph.value(op.inputs[0])))


def lookup(graph: Graph, op: Op) -> None:
    """A gather from the table; with one row per channel, from all rows in one."""
    source, out, table = graph.tensor(op.inputs[0]), graph.tensor(op.outputs[0]), raw(graph, op, "table")
    index = graph.cast(graph.value(source.name), "int32")
    first = 0 if source.dtype == "uint8" else 128
    rows = [first] if table.ndim == 1 else np.arange(len(table)) * 256 + first
    if np.any(rows):
        index = graph.node("ADD", index, graph.constant(rows, "int32", "rows"))
    held = graph.constant(table.ravel(), "int8", op.weights["table"], like=graph.like(out))
    graph.set(out.name, graph.node("GATHER", held, index, shape=(1, *out.shape), tensor=out, hint=out.name))


def quantize(graph: Graph, op: Op) -> None:
    """Floats to codes."""
    graph.finish(op, graph.real(op.inputs[0]))


def dequantize(graph: Graph, op: Op) -> None:
    """Codes to floats."""
    graph.set(op.outputs[0], graph.real(op.inputs[0]))


def softmax(graph: Graph, op: Op) -> None:
    """Along one axis: LiteRT takes the last."""
    x, rank, axis = graph.real(op.inputs[0]), _rank(graph, op) + 1, op.attributes["axis"] + 1
    perm = [i for i in range(rank) if i != axis] + [axis]
    y = graph.node("SOFTMAX", graph.transpose(x, perm), beta=1.0)
    graph.finish(op, graph.transpose(y, [perm.index(i) for i in range(rank)]))


def exit_if(graph: Graph, op: Op) -> None:
    """Both values are computed and one is chosen: right, but no faster than without the exit."""
    early, late = (graph.real(name) for name in op.inputs)
    best = Held(name=f"{op.name}.best", shape=(1, 2), dtype="float32")
    top, _ = graph.nodes_outputs("TOPK_V2", [early, graph.constant(2, "int32", "two")], [best, Held(name="i", shape=(1, 2), dtype="int32")])
    first, second = (cut(graph, top, (0, i), (1, 1)) for i in range(2))
    ahead = graph.node("SUB", first, second)
    sure = graph.node("GREATER_EQUAL", ahead, graph.number(op.attributes["threshold"]), dtype="bool")
    graph.set(op.outputs[0], graph.node("SELECT_V2", sure, early, late, tensor=graph.tensor(op.outputs[0]), hint=op.outputs[0]))


# ── reductions, pools, normalisations ───────────────────────────────────────────────────────────────────────────────────────────────


def mean(graph: Graph, op: Op) -> None:
    """Over some axes; int8 is averaged in integers."""
    out = graph.tensor(op.outputs[0])
    x = graph.value(op.inputs[0]) if out.dtype == "int8" else graph.real(op.inputs[0])
    axes = graph.constant([axis + 1 for axis in op.attributes["axes"]], "int32", "axes")
    y = graph.node("MEAN", x, axes, shape=(1, *out.shape), tensor=out, hint=out.name, keepDims=bool(op.attributes["keepdims"]))
    graph.set(out.name, graph.clamped(op, y))


def reduce(graph: Graph, op: Op) -> None:
    """sum, max or min over some axes."""
    kind = {"sum": "SUM", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}[op.attributes["function"]]
    axes = graph.constant([axis + 1 for axis in op.attributes["axes"]], "int32", "axes")
    shape = (1, *graph.tensor(op.outputs[0]).shape)
    graph.finish(op, graph.node(kind, graph.real(op.inputs[0]), axes, shape=shape, keepDims=bool(op.attributes["keepdims"])))


def max_pool(graph: Graph, op: Op) -> None:
    """max_pool2d, max_pool1d; padding never wins."""
    source = graph.tensor(op.inputs[0])
    lowest = float(code_range(source)[0]) if source.dtype == "int8" else -np.inf
    kernel = square(op.attributes["kernel"])
    x, padding = windows(graph, op, image(graph, graph.value(source.name)), kernel, fill=lowest)
    graph.end(op, "MAX_POOL_2D", x, shape=image_shape(graph, op), padding=padding, **_window(op))


def average_pool(graph: Graph, op: Op) -> None:
    """avg_pool2d, avg_pool1d.

    LiteRT's pool ignores scales and never counts padding. A pool of int8 that changes the scale or counts its padding is a depthwise layer
    of ones; where padding isn't counted and isn't SAME either, the sums are divided in floats.
    """
    source, out, counted = graph.tensor(op.inputs[0]), graph.tensor(op.outputs[0]), op.attributes["count_include_pad"]
    kernel, integer = square(op.attributes["kernel"]), graph.tensor(op.outputs[0]).dtype == "int8"
    pads = any(op.attributes["padding"])
    if integer and (source.quant != out.quant or (pads and counted)) and (counted or not pads):
        _averaging_layer(graph, op, kernel)
        return
    if not integer or source.quant == out.quant:
        x = image(graph, graph.value(source.name) if integer else graph.real(source.name))
        x, padding = windows(graph, op, x, kernel, only_same=not counted) if not (pads and counted) else (_around(graph, op, x), "VALID")
        if padding:
            graph.end(op, "AVERAGE_POOL_2D", x, shape=image_shape(graph, op), padding=padding, **_window(op))
            return
    x = _around(graph, op, image(graph, graph.real(source.name)))
    y = graph.node("AVERAGE_POOL_2D", x, shape=image_shape(graph, op), dtype="float32", padding="VALID", **_window(op))
    graph.finish(op, graph.node("MUL", y, graph.constant(_shares(graph, op), "float32", "shares")))


def _window(op: Op) -> dict[str, Any]:
    height, width = square(op.attributes["kernel"])
    return {**steps(op), "filterHeight": height, "filterWidth": width}


def _around(graph: Graph, op: Op, x: int) -> int:
    """The image with its padding of zeros."""
    top, left, bottom, right = edges(op.attributes["padding"])
    return padded(graph, x, [(0, 0), (top, bottom), (left, right), (0, 0)])


def _shares(graph: Graph, op: Op) -> Array:
    """By how much a window's average over the whole kernel is too small, [1, H, W, 1]."""
    shape, kernel = graph.tensor(op.inputs[0]).shape, square(op.attributes["kernel"])
    ones = np.ones((1, *((1, shape[0]) if len(shape) == 2 else shape[:2]), 1), np.float32)
    counts = sum(taps(surrounded(ones, edges(op.attributes["padding"]), 0.0), kernel, square(op.attributes["stride"])))
    return np.asarray(prod(kernel) / counts, np.float32)


def _averaging_layer(graph: Graph, op: Op, kernel: tuple[int, int]) -> None:
    """A depthwise convolution whose codes are 1 and whose scale is 1 by the window's size."""
    channels = graph.tensor(op.inputs[0]).shape[-1]
    share = float(np.float32(1 / prod(kernel)))
    scales = Held(name="", shape=(), dtype="int8", scale=(share,) * channels, axis=3)
    weight = graph.constant(np.ones((1, *kernel, channels)), "int8", f"{op.name}.ones", like=scales)
    unit = np.float32(graph.held[graph.value(op.inputs[0])].scale[0]) * np.float32(share)
    units = Held(name="", shape=(), dtype="int32", scale=(float(unit),) * channels)
    bias = graph.constant(np.zeros(channels), "int32", f"{op.name}.bias", like=units)
    x, padding = windows(graph, op, image(graph, graph.value(op.inputs[0])), kernel)
    options = {**steps(op), "padding": padding, "depthMultiplier": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    graph.end(op, "DEPTHWISE_CONV_2D", x, weight, bias, shape=image_shape(graph, op), **options)


def layer_norm(graph: Graph, op: Op) -> None:
    """Over the last axes."""
    rank, dims = _rank(graph, op) + 1, op.attributes["dims"]
    graph.finish(op, _scaled(graph, op, _normalised(graph, op, graph.real(op.inputs[0]), range(rank - dims, rank))))


def group_norm(graph: Graph, op: Op) -> None:
    """Over each group of channels and all positions, then scale and bias per channel."""
    shape, groups = graph.tensor(op.inputs[0]).shape, op.attributes["groups"]
    grouped = graph.reshape(graph.real(op.inputs[0]), (1, prod(shape[:-1]), groups, shape[-1] // groups))
    graph.finish(op, _scaled(graph, op, graph.reshape(_normalised(graph, op, grouped, (1, 3)), (1, *shape))))


def _normalised(graph: Graph, op: Op, x: int, axes: range | tuple[int, ...]) -> int:
    """Mean 0 and variance 1 over these axes."""
    over = graph.constant(list(axes), "int32", "axes")
    shape = tuple(1 if i in axes else n for i, n in enumerate(graph.shape(x)))
    centre = graph.node("MEAN", x, over, shape=shape, keepDims=True)
    variance = graph.node("MEAN", graph.node("SQUARED_DIFFERENCE", x, centre), over, shape=shape, keepDims=True)
    by = graph.node("RSQRT", graph.node("ADD", variance, graph.number(op.attributes["eps"])))
    return graph.node("MUL", graph.node("SUB", x, centre), by)


def _scaled(graph: Graph, op: Op, y: int) -> int:
    for role, kind in (("scale", "MUL"), ("bias", "ADD")):
        if role in op.weights:
            y = graph.node(kind, y, graph.constant(graph.program.weights[op.weights[role]].real(), "float32", op.weights[role]))
    return y


# ── moves ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def reshape(graph: Graph, op: Op) -> None:
    """In the same order."""
    graph.set(op.outputs[0], graph.reshape(graph.value(op.inputs[0]), (1, *graph.tensor(op.outputs[0]).shape), hint=op.outputs[0]))


def transpose(graph: Graph, op: Op) -> None:
    """Axes in another order."""
    perm = [0, *(axis + 1 for axis in op.attributes["perm"])]
    graph.set(op.outputs[0], graph.transpose(graph.value(op.inputs[0]), perm, hint=op.outputs[0]))


def slice_(graph: Graph, op: Op) -> None:
    """From start to stop in steps."""
    a, shape = op.attributes, graph.tensor(op.outputs[0]).shape
    begin, step = [0] * (len(shape) + 1), [1] * (len(shape) + 1)
    begin[a["axis"] + 1], step[a["axis"] + 1] = a["start"], a["step"]
    graph.set(op.outputs[0], cut(graph, graph.value(op.inputs[0]), begin, (1, *shape), step, hint=op.outputs[0]))


def concat(graph: Graph, op: Op) -> None:
    """Side by side."""
    shape = (1, *graph.tensor(op.outputs[0]).shape)
    values = [graph.value(name) for name in op.inputs]
    graph.set(op.outputs[0], graph.node("CONCATENATION", *values, shape=shape, hint=op.outputs[0], axis=op.attributes["axis"] + 1))


def pad(graph: Graph, op: Op) -> None:
    """With a real, or a code."""
    graph.set(op.outputs[0], padded(graph, graph.value(op.inputs[0]), [(0, 0), *op.attributes["padding"]], op.attributes.get("value")))


def upsample_nearest(graph: Graph, op: Op) -> None:
    """Every pixel again and again; half-pixel centres keep its places clear of rounding."""
    shape = (1, *graph.tensor(op.outputs[0]).shape)
    size = graph.constant(shape[1:3], "int32", "size")
    x = graph.value(op.inputs[0])
    made = graph.node("RESIZE_NEAREST_NEIGHBOR", x, size, shape=shape, hint=op.outputs[0], alignCorners=False, halfPixelCenters=True)
    graph.set(op.outputs[0], made)


def upsample_bilinear(graph: Graph, op: Op) -> None:
    """To a size."""
    shape, align = (1, *graph.tensor(op.outputs[0]).shape), bool(op.attributes["align_corners"])
    size = graph.constant(shape[1:3], "int32", "size")
    x = graph.real(op.inputs[0])
    graph.finish(op, graph.node("RESIZE_BILINEAR", x, size, shape=shape, alignCorners=align, halfPixelCenters=not align))


def constant(graph: Graph, op: Op) -> None:
    """The weight as it is."""
    out = graph.tensor(op.outputs[0])
    like = graph.like(out) if out.dtype == "int8" else None
    graph.set(out.name, graph.constant(raw(graph, op, "value")[None], out.dtype, op.weights["value"], like=like))


def raw(graph: Graph, op: Op, role: str) -> Array:
    """A weight as it goes into a tensor: codes for integers, numbers for floats."""
    weight = graph.program.weights[op.weights[role]]
    if isinstance(weight.values, FloatValues):
        return weight.values.data
    integer = graph.tensor(op.outputs[0]).dtype != "float32"
    return weight.values.codes if integer and isinstance(weight.values, AffineValues) else weight.real()


RULES: Mapping[str, Rule] = {
    "conv2d": convolution,
    "conv1d": convolution,
    "conv_transpose2d": conv_transpose2d,
    "linear": linear,
    "matmul": matmul,
    **dict.fromkeys(("add", "sub", "mul", "div"), elementwise),
    "affine": affine,
    "clamp": clamp,
    "unary": unary,
    "lookup": lookup,
    "mean": mean,
    "reduce": reduce,
    **dict.fromkeys(("avg_pool2d", "avg_pool1d"), average_pool),
    **dict.fromkeys(("max_pool2d", "max_pool1d"), max_pool),
    "softmax": softmax,
    "exit_if": exit_if,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "concat": concat,
    "reshape": reshape,
    "transpose": transpose,
    "slice": slice_,
    "pad": pad,
    "upsample_nearest2d": upsample_nearest,
    "upsample_bilinear2d": upsample_bilinear,
    "constant": constant,
    "embedding": embedding,
    **dict.fromkeys(("gru", "lstm"), recurrent),
    "quantize": quantize,
    "dequantize": dequantize,
}
