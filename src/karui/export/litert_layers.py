"""The kinds that multiply and accumulate, in LiteRT: what their weights and biases become.

A layer runs in integers where its output is int8 and its weight is int8 codes with one scale per output channel; then it is computed as
``program/litert.py`` says. Other layers between int8 tensors are computed in floats, and their result is quantized.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from karui.export.codes import int8_term
from karui.export.litert_graph import Graph, Held, cut, padded
from karui.export.litert_windows import image, image_shape, is_same, steps, windows
from karui.program.arithmetic import Term, quantization
from karui.program.litert import layer_numbers
from karui.program.program import Array, Op, Weight
from karui.program.windows import square

Arrange = Callable[[Array], Array]


def stored(graph: Graph, weight: Weight, term: Term, axis: int, arrange: Arrange) -> int:
    """Codes with the scale of each output channel as a constant; ``axis`` is theirs after ``arrange``.

    A matrix [O, K] is written in 4 or 2 bits where its codes fit: of FULLY_CONNECTED alone LiteRT has kernels for them that give the same
    integers, and for whole bytes in a row.
    """
    scales = Held(name="", shape=(), dtype="int8", scale=tuple(float(s) for s in term.scale), axis=axis)
    codes = arrange(term.codes)
    bits = 2 if codes.min(initial=0) >= -2 and codes.max(initial=0) <= 1 else 4 if np.abs(2 * codes + 1).max(initial=0) <= 15 else 8
    if codes.ndim != 2 or codes.shape[1] % (8 // bits) or bits == 8:
        return graph.constant(codes, "int8", weight.name, like=scales)
    fields = (codes.reshape(-1, 8 // bits) & ((1 << bits) - 1)) << (bits * np.arange(8 // bits))
    return graph.stored(fields.sum(1).astype(np.uint8).tobytes(), codes.shape, f"int{bits}", weight.name, like=scales)


def codes_of(weight: Weight) -> Term | None:
    """The weight's int8 codes, unless a scale is none that LiteRT takes."""
    term = int8_term(weight)
    return term if term is not None and bool(np.isfinite(term.scale).all() and (term.scale > 0).all()) else None


def real_weight(graph: Graph, op: Op, role: str, arrange: Arrange = lambda w: w, axis: int | None = 0) -> int:
    """A weight as floats; its file holds int8 codes where they are the same numbers (``axis``: of their scales, after ``arrange``)."""
    weight = graph.program.weights[op.weights[role]]
    term = codes_of(weight)
    if term is None or axis is None:
        return graph.constant(arrange(weight.real()), "float32", weight.name)
    return graph.node("DEQUANTIZE", stored(graph, weight, term, axis, arrange), dtype="float32", hint=f"{weight.name}.real")


def operands(graph: Graph, op: Op, arrange: Arrange = lambda w: w, axis: int = 0) -> tuple[int, list[int], bool]:
    """The op's input, its weight and bias (if it has one), and whether the op runs in integers."""
    weight = graph.program.weights[op.weights["weight"]]
    source, term = graph.tensor(op.inputs[0]), codes_of(weight)
    if term is not None and graph.tensor(op.outputs[0]).dtype == "int8":
        term, bias = layer_numbers(graph.program, op)
        unit = quantization(source)[0] * term.scale
        like = Held(name="", shape=(), dtype="int32", scale=tuple(float(s) for s in unit))
        held = [stored(graph, weight, term, axis, arrange), graph.constant(bias, "int32", f"{op.name}.bias", like=like)]
        return graph.value(source.name), held, True
    real = weight.real() if graph.tensor(op.outputs[0]).dtype == "int8" else None
    held = [real_weight(graph, op, "weight", arrange, axis) if real is None else graph.constant(arrange(real), "float32", weight.name)]
    if "bias" in op.weights:
        offset = graph.program.weights[op.weights["bias"]].real().reshape(-1)
        held.append(graph.constant(offset, "float32", op.weights["bias"]))
    return graph.real(source.name), held, False


def convolution(graph: Graph, op: Op) -> None:
    """conv2d, conv1d: depthwise where each output channel sees one input channel."""
    a = op.attributes
    shape = graph.program.weights[op.weights["weight"]].shape
    kernel = (1, shape[1]) if len(shape) == 3 else (shape[1], shape[2])
    depthwise = a["groups"] > 1 and shape[-1] == 1

    def arrange(w: Array) -> Array:
        w = w.reshape(shape[0], *kernel, shape[-1])
        return np.moveaxis(w, 0, -1).reshape(1, *kernel, shape[0]) if depthwise else w

    x, held, integer = operands(graph, op, arrange, 3 if depthwise else 0)
    if len(held) == 1:  # LiteRT refuses some layers without a bias, and XNNPACK crashes on the depthwise ones
        held.append(graph.constant(np.zeros(shape[0]), "float32", f"{op.name}.bias"))
    x, padding = windows(graph, op, image(graph, x), kernel)
    down, along = square(a["dilation"])
    options = {**steps(op), "padding": padding, "dilationHFactor": down, "dilationWFactor": along}
    if depthwise:
        options["depthMultiplier"] = shape[0] // a["groups"]
    made = image_shape(graph, op)
    _layer(graph, op, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [x, *held], made, integer, **options)


def _layer(graph: Graph, op: Op, kind: str, inputs: list[int], shape: tuple[int, ...], integer: bool, **options: Any) -> None:
    """A layer that clamps by itself, or that is computed in floats for an int8 output."""
    if integer or graph.tensor(op.outputs[0]).dtype != "int8":
        graph.end(op, kind, *inputs, shape=shape, **options)
    else:
        graph.finish(op, graph.node(kind, *inputs, shape=shape, dtype="float32", **options))


def linear(graph: Graph, op: Op) -> None:
    """Over the last axis."""
    x, held, integer = operands(graph, op)
    shape = (1, *graph.tensor(op.outputs[0]).shape)
    _layer(graph, op, "FULLY_CONNECTED", [x, *held], shape, integer, **({"keepNumDims": True} if len(shape) > 2 else {}))


def matmul(graph: Graph, op: Op) -> None:
    """scale · a @ b; both with as many axes."""
    values = [graph.real(name) for name in op.inputs]
    rank = max(len(graph.shape(v)) for v in values)
    values = [graph.reshape(v, (1, *(1,) * (rank - len(graph.shape(v))), *graph.shape(v)[1:])) for v in values]
    shape = (1, *graph.tensor(op.outputs[0]).shape)
    y = graph.node("BATCH_MATMUL", *values, shape=shape, adjY=bool(op.attributes["transpose_b"]))
    if op.attributes["scale"] != 1:
        y = graph.node("MUL", y, graph.number(op.attributes["scale"]))
    graph.finish(op, y)


def embedding(graph: Graph, op: Op) -> None:
    """Rows of a table; int8 rows get their scale after they were chosen."""
    weight = graph.program.weights[op.weights["weight"]]
    index, shape = graph.value(op.inputs[0]), (1, *graph.tensor(op.outputs[0]).shape)
    term = codes_of(weight)
    if term is None:
        table = graph.constant(weight.real(), "float32", weight.name)
        graph.finish(op, graph.node("GATHER", table, index, shape=shape))
        return
    chosen = graph.node("GATHER", graph.constant(term.codes, "int8", weight.name), index, shape=shape)
    real = graph.cast(chosen, "float32")
    scale = graph.constant(term.scale[:, None], "float32", f"{weight.name}.scale")
    graph.finish(op, graph.node("MUL", real, graph.node("GATHER", scale, index, shape=(*shape[:-1], 1))))


# ── transposed convolutions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def conv_transpose2d(graph: Graph, op: Op) -> None:
    """Group by group, because LiteRT has no groups here; zeros in the kernel are its dilation."""
    groups, weight = op.attributes["groups"], graph.program.weights[op.weights["weight"]]
    x = graph.real(op.inputs[0])
    n, height, width, channels = graph.shape(x)
    each, parts = channels // groups, []
    for g in range(groups):
        part = cut(graph, x, (0, 0, 0, g * each), (n, height, width, each))
        rows = slice(g * weight.shape[0] // groups, (g + 1) * weight.shape[0] // groups)
        parts.append(_transposed(graph, op, part, _dilated(weight.real()[rows], op.attributes["dilation"])))
    shape = (1, *graph.tensor(op.outputs[0]).shape)
    y = parts[0] if groups == 1 else graph.node("CONCATENATION", *parts, shape=shape, axis=3)
    if "bias" in op.weights:
        y = graph.node("ADD", y, graph.constant(graph.program.weights[op.weights["bias"]].real().reshape(-1), "float32", f"{op.name}.bias"))
    graph.finish(op, y)


def _dilated(w: Array, dilation: list[int]) -> Array:
    """[O, kh, kw, I] with zeros between its places."""
    (dy, dx), (o, kh, kw, i) = dilation, w.shape
    wide = np.zeros((o, (kh - 1) * dy + 1, (kw - 1) * dx + 1, i), np.float32)
    wide[:, ::dy, ::dx] = w
    return wide


def _transposed(graph: Graph, op: Op, x: int, w: Array) -> int:
    """Every pixel painted into the output, the padding cut off: by SAME where that cuts the same, else afterwards."""
    (sy, sx), (top, left, _, _) = op.attributes["stride"], op.attributes["padding"]
    n, height, width, _ = graph.shape(x)
    rows, columns, _ = graph.tensor(op.outputs[0]).shape
    weight = graph.constant(w, "float32", op.weights["weight"])
    whole = ((height - 1) * sy + w.shape[1], (width - 1) * sx + w.shape[2])
    same = is_same((rows, columns), (height, width), (w.shape[1], w.shape[2]), (sy, sx), (top, left))
    size = (rows, columns) if same else whole
    out = (n, *size, len(w))
    options = {"padding": "SAME" if same else "VALID", "strideH": sy, "strideW": sx}
    y = graph.node("TRANSPOSE_CONV", graph.constant(out, "int32", "size"), weight, x, shape=out, dtype="float32", **options)
    if same:
        return y
    more = [(0, 0), (0, max(0, top + rows - whole[0])), (0, max(0, left + columns - whole[1])), (0, 0)]
    return cut(graph, padded(graph, y, more), (0, top, left, 0), (n, rows, columns, len(w)))
