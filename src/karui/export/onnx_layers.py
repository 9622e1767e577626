"""The kinds that multiply and accumulate, in ONNX: what their weights and biases become."""

from collections.abc import Callable

import numpy as np

from karui.export.codes import int8_term
from karui.export.onnx_graph import Form, Graph, first, last
from karui.program.arithmetic import quantization
from karui.program.program import AffineValues, Array, Op

Arrange = Callable[[Array], Array]


def operand(graph: Graph, op: Op, role: str, arrange: Arrange, *, axis: int | None = 0) -> tuple[str, Array | None]:
    """The weight as floats in ONNX, and the scale of each output channel if it is stored as int8 codes.

    ``arrange`` puts its axes in ONNX's order; ``axis`` is then that of the output channels (None: there is none such).
    """
    weight = graph.program.weights[op.weights[role]]
    term = int8_term(weight)
    if term is None or axis is None:
        return graph.constant(arrange(weight.real()), "float32", weight.name), None
    codes, scale = _spread(term.codes, term.scale)
    # onnxruntime rewrites codes and zero points in place where its processor can't add s8 products exactly: no two ops may share them
    stored = graph.constant(arrange(codes), "int8", f"{weight.name}.codes", owner=op.outputs[0])
    zero_points = graph.constant(np.zeros(len(scale)), "int8", f"{weight.name}.zero_point", owner=op.outputs[0])
    facts = graph.constant(scale, "float32", f"{weight.name}.scale"), zero_points
    return graph.node("DequantizeLinear", stored, *facts, axis=axis, hint=weight.name), scale


def _spread(codes: Array, scale: Array) -> tuple[Array, Array]:
    """The same weight in larger codes, where they are small: a bias is written in the unit of a code, and theirs would be coarse.

    Up to 64, two products with uint8 still fit into the 16 bits in which x86 without VNNI adds them.
    """
    largest = np.abs(codes.astype(np.int64)).reshape(len(codes), -1).max(1, initial=1)
    factor = 2.0 ** np.maximum(0, np.floor(np.log2(64 / largest)))
    spread = codes * factor.reshape((-1,) + (1,) * (codes.ndim - 1))
    return spread.astype(np.int8), (scale / factor).astype(np.float32)


COARSE = 0.1  # of a step of the output: what a bias may be off by


def bias(graph: Graph, op: Op, scale: Array | None) -> list[str]:
    """The bias as a list of no or one value.

    In an integer op it is int32 in the scale of the accumulator, as onnxruntime's integer kernels want it; its rounding is half a unit of
    the accumulator. Where it doesn't fit into 32 bits, or the output would show that rounding, it stays float, and so does the op.
    """
    if "bias" not in op.weights:
        return []
    weight = graph.program.weights[op.weights["bias"]]
    real = weight.real()
    source = graph.tensor(op.inputs[0])
    if scale is None or source.dtype != "int8" or graph.tensor(op.outputs[0]).dtype != "int8":
        return [graph.constant(real, "float32", weight.name)]
    unit = (quantization(source)[0] * scale).astype(np.float32)
    codes = np.rint(real.astype(np.float64) / unit)
    coarse = np.abs(codes * unit.astype(np.float64) - real) > COARSE * quantization(graph.tensor(op.outputs[0]))[0]
    if coarse.any() or not (np.abs(codes) < 2**31).all():
        return [graph.constant(real, "float32", weight.name)]
    stored = graph.constant(codes, "int32", f"{weight.name}.codes")
    facts = graph.constant(unit, "float32", f"{weight.name}.scale"), graph.constant(np.zeros(len(unit)), "int32", "zero_points")
    return [graph.node("DequantizeLinear", stored, *facts, axis=0, hint=weight.name)]


def convolution(graph: Graph, op: Op) -> None:
    """conv2d, conv1d."""
    a, rank = op.attributes, len(graph.tensor(op.inputs[0]).shape)
    weight, scale = operand(graph, op, "weight", lambda w: np.moveaxis(w, -1, 1))
    attributes = {
        "strides": _listed(a["stride"]),
        "pads": list(a["padding"]),
        "dilations": _listed(a["dilation"]),
        "group": a["groups"],
        "kernel_shape": list(graph.program.weights[op.weights["weight"]].shape[1:-1]),
    }
    x = graph.real(op.inputs[0], first(rank))
    graph.finish(op, graph.node("Conv", x, weight, *bias(graph, op, scale), hint=op.outputs[0], **attributes), first(rank))


def _listed(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def conv_transpose2d(graph: Graph, op: Op) -> None:
    """ONNX puts the weight's input channels first, all groups in one row."""
    a = op.attributes
    if any(extra >= stride for extra, stride in zip(a["output_padding"], a["stride"], strict=True)):
        what = f"output_padding {list(a['output_padding'])} with stride {list(a['stride'])}"
        raise graph.refuse(op, what, "take a smaller output_padding and pad afterwards, or choose another target")

    def arrange(w: Array) -> Array:
        groups = w.reshape(a["groups"], -1, *w.shape[1:])  # [G, O/G, kh, kw, C/G]
        return groups.transpose(0, 4, 1, 2, 3).reshape(-1, groups.shape[1], *w.shape[1:3])

    weight, scale = operand(graph, op, "weight", arrange, axis=1 if a["groups"] == 1 else None)
    attributes = {
        "strides": list(a["stride"]),
        "pads": list(a["padding"]),
        "dilations": list(a["dilation"]),
        "group": a["groups"],
        "output_padding": list(a["output_padding"]),
    }
    x = graph.real(op.inputs[0], first(3))
    graph.finish(op, graph.node("ConvTranspose", x, weight, *bias(graph, op, scale), hint=op.outputs[0], **attributes), first(3))


def linear(graph: Graph, op: Op) -> None:
    """Gemm; further axes join the batch. Its columns take the order in which a flattened input lies."""
    shape, form = graph.tensor(op.inputs[0]).shape, graph.form(op.inputs[0])
    columns = np.arange(shape[-1])
    if len(shape) == 1 and form.flat:
        columns = columns.reshape(form.flat).transpose(form.order).ravel()
    else:
        form = last(len(shape))
    weight, scale = operand(graph, op, "weight", lambda w: w[:, columns])
    out = graph.tensor(op.outputs[0])
    x = graph.real(op.inputs[0], form) if len(shape) == 1 else _rows(graph, op, shape[-1])
    y = graph.node("Gemm", x, weight, *bias(graph, op, scale), transB=1, hint=out.name)
    graph.finish(op, y, last(len(shape)), shape=[-1, *out.shape] if len(shape) > 1 else ())


def _rows(graph: Graph, op: Op, width: int) -> str:
    """The input as rows [N · …, K] of floats."""
    source = graph.tensor(op.inputs[0])
    rows = graph.reshape(graph.value(source.name, last(len(source.shape))), [-1, width])
    if source.dtype == "int8":
        return graph.node("DequantizeLinear", rows, *graph.scale(source))
    return rows


def matmul(graph: Graph, op: Op) -> None:
    """scale · a @ b."""
    a, b = (graph.tensor(name) for name in op.inputs)
    x, y = graph.real(a.name, last(len(a.shape))), graph.real(b.name, last(len(b.shape)))
    rank = max(len(a.shape), len(b.shape))
    x, y = (graph.reshape(v, [-1, *(1,) * (rank - len(t.shape)), *t.shape]) if len(t.shape) < rank else v for v, t in ((x, a), (y, b)))
    if op.attributes["transpose_b"]:
        y = graph.transpose(y, [*range(rank - 1), rank, rank - 1])
    z = graph.node("MatMul", x, y, hint=op.outputs[0])
    if op.attributes["scale"] != 1:
        z = graph.node("Mul", z, graph.constant(op.attributes["scale"], "float32", "factor"))
    graph.finish(op, z, last(rank))


def embedding(graph: Graph, op: Op) -> None:
    """Rows of a table; int8 rows get their scale after they were chosen."""
    weight = graph.program.weights[op.weights["weight"]]
    rank = len(graph.tensor(op.inputs[0]).shape)
    index = graph.value(op.inputs[0], last(rank))
    term = int8_term(weight)
    if term is None or not isinstance(weight.values, AffineValues):
        rows = graph.node("Gather", graph.constant(weight.real(), "float32", weight.name), index, axis=0)
    else:
        chosen = graph.node("Gather", graph.constant(term.codes, "int8", f"{weight.name}.codes"), index, axis=0)
        scale = graph.constant(term.scale[:, None], "float32", f"{weight.name}.scale")
        rows = graph.node("Mul", graph.node("Cast", chosen, to="float32"), graph.node("Gather", scale, index, axis=0))
    graph.finish(op, rows, last(rank + 1))


# ── recurrence ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_GATES = {"gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}  # ONNX's order in terms of torch's: z r h, and i o f c


def recurrent(graph: Graph, op: Op) -> None:
    """gru, lstm: the sequence goes first in ONNX."""
    order = _GATES[op.kind]

    def gates(role: str) -> Array:
        held = graph.program.operand(op, role)
        rows = graph.program.weights[op.weights["weight_hh"]].shape[0]
        real = np.zeros(rows, np.float32) if held is None else held.real()
        return np.concatenate([np.split(real, len(order))[i] for i in order])

    hidden = graph.program.weights[op.weights["weight_hh"]].shape[1]
    x = graph.transpose(graph.real(op.inputs[0], last(2)), [1, 0, 2])
    held = [graph.constant(gates(role)[None], "float32", f"{op.name}.{role}") for role in ("weight_ih", "weight_hh")]
    offset = graph.constant(np.concatenate([gates("bias_ih"), gates("bias_hh")])[None], "float32", f"{op.name}.bias")
    extra = {"linear_before_reset": 1} if op.kind == "gru" else {}
    direction = "reverse" if op.attributes["reverse"] else "forward"
    made = graph.nodes_outputs(
        op.kind.upper(), [x, *held, offset], len(op.outputs), hint=op.outputs[0], hidden_size=hidden, direction=direction, **extra
    )
    sequence = graph.node("Squeeze", made[0], graph.constant([1], "int64", "axes"))  # [L, 1, N, H] → [L, N, H]
    graph.set(op.outputs[0], graph.transpose(sequence, [1, 0, 2]), last(2))
    for name, state in zip(op.outputs[1:], made[1:], strict=True):
        graph.set(name, graph.node("Squeeze", state, graph.constant([0], "int64", "axes")), Form(order=(0,)))
