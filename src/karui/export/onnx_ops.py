"""Everything but layers, in ONNX: element by element, pools and reductions, moves. Moves of int8 work on the codes."""

from collections.abc import Callable, Mapping
from math import pi, prod, sqrt
from typing import Any

import numpy as np

from karui.export.onnx_graph import SHIFT, Form, Graph, first, last
from karui.export.onnx_layers import conv_transpose2d, convolution, embedding, linear, matmul, recurrent
from karui.program.arithmetic import bounds
from karui.program.program import AffineValues, Array, FloatValues, Op

Rule = Callable[[Graph, Op], None]


def _rank(graph: Graph, op: Op) -> int:
    return len(graph.tensor(op.inputs[0]).shape)


def _whole(graph: Graph, name: str) -> Form:
    """The form in which a tensor is there, or its own order where it is flattened in another one."""
    form = graph.form(name)
    return last(1) if form.flat else form


def _axis(form: Form, axis: int) -> int:
    """Where the Program's axis lies in a value of this form, behind the batch."""
    return form.order.index(axis) + 1


# ── element by element ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def elementwise(graph: Graph, op: Op) -> None:
    """add, sub, mul, div: in the first one's order where both have as many axes; else new axes go after the batch's."""
    shapes = [graph.tensor(name).shape for name in op.inputs]
    rank = max(map(len, shapes))
    form = _whole(graph, op.inputs[0]) if len(shapes[0]) == len(shapes[1]) else last(rank)
    values = []
    for name, shape in zip(op.inputs, shapes, strict=True):
        value = graph.real(name, form if len(shape) == rank else last(len(shape)))
        values.append(value if len(shape) == rank else graph.reshape(value, [-1, *(1,) * (rank - len(shape)), *shape]))
    graph.finish(op, graph.node(op.kind.capitalize(), *values, hint=op.outputs[0]), form)


def affine(graph: Graph, op: Op) -> None:
    """x · scale + bias per channel."""
    form = _whole(graph, op.inputs[0])
    scaled = graph.node("Mul", graph.real(op.inputs[0], form), _per_channel(graph, op, "scale", form))
    graph.finish(op, graph.node("Add", scaled, _per_channel(graph, op, "bias", form), hint=op.outputs[0]), form)


def _per_channel(graph: Graph, op: Op, role: str, form: Form) -> str:
    """A weight of the last axis, shaped so that it broadcasts against a value of this form."""
    weight = graph.program.weights[op.weights[role]]
    real = weight.real()
    behind = len(form.order) - _axis(form, len(form.order) - 1)
    return graph.constant(real.reshape(real.shape + (1,) * behind) if real.ndim else real, "float32", weight.name)


def clamp(graph: Graph, op: Op) -> None:
    """Between two reals, or two codes."""
    form, out = graph.form(op.inputs[0]), graph.tensor(op.outputs[0])
    value = graph.value(op.inputs[0], form)
    if out.dtype == "int8":
        graph.set(out.name, graph.clip_codes(value, *bounds(op, out)), form)
    else:
        graph.set(out.name, graph.clip(value, *(op.attributes.get("clamp") or (None, None))), form)


def unary(graph: Graph, op: Op) -> None:
    """A function of ``unary.py``."""
    form, function = graph.form(op.inputs[0]), op.attributes["function"]
    if function not in FUNCTIONS:
        raise graph.refuse(op, f"function '{function}'", "choose another activation")
    alpha = op.attributes.get("alpha")
    graph.finish(op, FUNCTIONS[function](graph, graph.real(op.inputs[0], form), 0.0 if alpha is None else float(alpha)), form)


def _number(graph: Graph, value: float) -> str:
    return graph.constant(value, "float32", "number")


def _gelu(graph: Graph, x: str, alpha: float) -> str:
    erf = graph.node("Erf", graph.node("Div", x, _number(graph, sqrt(2))))
    return graph.node("Mul", graph.node("Mul", x, graph.node("Add", erf, _number(graph, 1))), _number(graph, 0.5))


def _gelu_tanh(graph: Graph, x: str, alpha: float) -> str:
    cube = graph.node("Mul", graph.node("Mul", x, graph.node("Mul", x, x)), _number(graph, 0.044715))
    tanh = graph.node("Tanh", graph.node("Mul", graph.node("Add", x, cube), _number(graph, sqrt(2 / pi))))
    return graph.node("Mul", graph.node("Mul", x, graph.node("Add", tanh, _number(graph, 1))), _number(graph, 0.5))


def _log_sigmoid(graph: Graph, x: str, alpha: float) -> str:
    return graph.node("Neg", graph.node("Softplus", graph.node("Neg", x)))


def _plain(kind: str, **attributes: Any) -> Callable[[Graph, str, float], str]:
    return lambda graph, x, alpha: graph.node(kind, x, **attributes)


def _with_alpha(kind: str) -> Callable[[Graph, str, float], str]:
    return lambda graph, x, alpha: graph.node(kind, x, alpha=alpha)


FUNCTIONS: Mapping[str, Callable[[Graph, str, float], str]] = {
    "relu": _plain("Relu"),
    "relu6": lambda g, x, a: g.clip(x, 0.0, 6.0),
    "leaky_relu": _with_alpha("LeakyRelu"),
    "elu": _with_alpha("Elu"),
    "celu": _with_alpha("Celu"),
    "selu": _plain("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda g, x, a: g.node("Mul", x, g.node("Sigmoid", x)),
    "mish": lambda g, x, a: g.node("Mul", x, g.node("Tanh", g.node("Softplus", x))),
    "sigmoid": _plain("Sigmoid"),
    "log_sigmoid": _log_sigmoid,
    "hardsigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": lambda g, x, a: g.node("Mul", x, g.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
    "softplus": _plain("Softplus"),
    "softsign": _plain("Softsign"),
    "tanh": _plain("Tanh"),
    "exp": _plain("Exp"),
    "expm1": lambda g, x, a: g.node("Sub", g.node("Exp", x), _number(g, 1)),
    "log": _plain("Log"),
    "log1p": lambda g, x, a: g.node("Log", g.node("Add", x, _number(g, 1))),
    "sqrt": _plain("Sqrt"),
    "rsqrt": lambda g, x, a: g.node("Reciprocal", g.node("Sqrt", x)),
    "reciprocal": _plain("Reciprocal"),
    "square": lambda g, x, a: g.node("Mul", x, x),
    "pow": lambda g, x, a: g.node("Pow", x, _number(g, a)),
    "abs": _plain("Abs"),
    "neg": _plain("Neg"),
    "sign": _plain("Sign"),
    "floor": _plain("Floor"),
    "ceil": _plain("Ceil"),
    "round": _plain("Round"),
    "erf": _plain("Erf"),
    "sin": _plain("Sin"),
    "cos": _plain("Cos"),
}


def lookup(graph: Graph, op: Op) -> None:
    """A gather from the table; with one row per channel, from all rows in one."""
    table = raw(graph, op, "table").astype(np.int16) + SHIFT
    form = graph.form(op.inputs[0]) if table.ndim == 1 else _whole(graph, op.inputs[0])
    index = graph.node("Cast", graph.value(op.inputs[0], form), to="int32")
    if table.ndim == 2:
        behind = len(form.order) - _axis(form, len(form.order) - 1)
        rows = (np.arange(len(table)) * 256).reshape((-1,) + (1,) * behind)
        index = graph.node("Add", index, graph.constant(rows, "int32", "rows"))
    held = graph.constant(table.ravel(), "uint8", op.weights["table"])
    graph.set(op.outputs[0], graph.node("Gather", held, index, axis=0, hint=f"{op.outputs[0]}.codes"), form)


def quantize(graph: Graph, op: Op) -> None:
    """Floats to codes."""
    form = graph.form(op.inputs[0])
    graph.finish(op, graph.real(op.inputs[0], form), form)


def dequantize(graph: Graph, op: Op) -> None:
    """Codes to floats."""
    form = graph.form(op.inputs[0])
    graph.set(op.outputs[0], graph.real(op.inputs[0], form), form)


def softmax(graph: Graph, op: Op) -> None:
    """Along one axis."""
    form = _whole(graph, op.inputs[0])
    graph.finish(op, graph.node("Softmax", graph.real(op.inputs[0], form), axis=_axis(form, op.attributes["axis"])), form)


def exit_if(graph: Graph, op: Op) -> None:
    """Both values are computed and one is chosen, sample by sample: right for any batch, but no faster than without the exit."""
    early, late = (graph.real(name, last(1)) for name in op.inputs)
    best, _ = graph.nodes_outputs("TopK", (early, graph.constant([2], "int64", "two")), 2, axis=-1)
    parts: dict[str, Any] = {"num_outputs": 2} if graph.opset >= 18 else {}
    first, second = graph.nodes_outputs("Split", (best,), 2, axis=-1, **parts)
    sure = graph.node("GreaterOrEqual", graph.node("Sub", first, second), _number(graph, op.attributes["threshold"]))
    graph.set(op.outputs[0], graph.node("Where", sure, early, late, hint=op.outputs[0]), last(1))


# ── reductions, pools, normalisations ───────────────────────────────────────────────────────────────────────────────────────────────


def mean(graph: Graph, op: Op) -> None:
    """Over all positions of an image it is a pool, for which integer kernels exist; else a reduction."""
    rank, out = _rank(graph, op), graph.tensor(op.outputs[0])
    image = rank > 1 and sorted(op.attributes["axes"]) == list(range(rank - 1))
    if not image or (out.dtype != "int8" and graph.form(op.inputs[0]) != first(rank)):
        _reduced(graph, op, "ReduceMean")
        return
    pooled = graph.node("GlobalAveragePool", graph.real(op.inputs[0], first(rank)), hint=out.name)  # [N, C, 1, 1]
    graph.finish(op, pooled, last(len(out.shape)), shape=[-1, *out.shape])


def reduce(graph: Graph, op: Op) -> None:
    """sum, max or min over some axes."""
    _reduced(graph, op, {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}[op.attributes["function"]])


def _reduced(graph: Graph, op: Op, kind: str) -> None:
    rank = _rank(graph, op)
    value = graph.real(op.inputs[0], last(rank))
    axes, keep = [axis + 1 for axis in op.attributes["axes"]], int(op.attributes["keepdims"])
    if kind == "ReduceSum" or graph.opset >= 18:  # where the axes are an input
        y = graph.node(kind, value, graph.constant(axes, "int64", "axes"), keepdims=keep, hint=op.outputs[0])
    else:
        y = graph.node(kind, value, axes=axes, keepdims=keep, hint=op.outputs[0])
    graph.finish(op, y, last(rank if keep else rank - len(axes)))


def average_pool(graph: Graph, op: Op) -> None:
    """avg_pool2d, avg_pool1d."""
    form = first(_rank(graph, op))
    attributes = {**_window(op), "count_include_pad": int(op.attributes["count_include_pad"])}
    graph.finish(op, graph.node("AveragePool", graph.real(op.inputs[0], form), hint=op.outputs[0], **attributes), form)


def max_pool(graph: Graph, op: Op) -> None:
    """max_pool2d, max_pool1d."""
    form = first(_rank(graph, op))
    graph.set(op.outputs[0], graph.node("MaxPool", graph.value(op.inputs[0], form), hint=op.outputs[0], **_window(op)), form)


def _window(op: Op) -> dict[str, list[int]]:
    kernel, stride = ([v] if isinstance(v, int) else list(v) for v in (op.attributes["kernel"], op.attributes["stride"]))
    return {"kernel_shape": kernel, "strides": stride, "pads": list(op.attributes["padding"])}


def layer_norm(graph: Graph, op: Op) -> None:
    """Over the last axes."""
    rank, dims = _rank(graph, op), op.attributes["dims"]
    shape = graph.tensor(op.inputs[0]).shape[rank - dims :]
    values = [graph.real(op.inputs[0], last(rank))]
    for role, neutral in (("scale", np.ones), ("bias", np.zeros)):
        weight = graph.program.operand(op, role)
        values.append(graph.constant(neutral(shape) if weight is None else weight.real(), "float32", f"{op.name}.{role}"))
    y = graph.node("LayerNormalization", *values, axis=-dims, epsilon=op.attributes["eps"], hint=op.outputs[0])
    graph.finish(op, y, last(rank))


def group_norm(graph: Graph, op: Op) -> None:
    """An instance norm over each group, then scale and bias per channel."""
    rank, groups = _rank(graph, op), op.attributes["groups"]
    form, shape = first(rank), graph.tensor(op.inputs[0]).shape
    grouped = graph.reshape(graph.real(op.inputs[0], form), [-1, groups, prod(shape) // groups])
    plain = graph.constant(np.ones(groups), "float32", "ones"), graph.constant(np.zeros(groups), "float32", "zeros")
    y = graph.node("InstanceNormalization", grouped, *plain, epsilon=op.attributes["eps"])
    y = graph.reshape(y, [-1, *(shape[i] for i in form.order)])
    for role, kind in (("scale", "Mul"), ("bias", "Add")):
        if role in op.weights:
            y = graph.node(kind, y, _per_channel(graph, op, role, form))
    graph.finish(op, y, form)


# ── moves ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def reshape(graph: Graph, op: Op) -> None:
    """To one axis it keeps the order in which the input lies, and leaves the rest to the reader."""
    source, out = graph.tensor(op.inputs[0]), graph.tensor(op.outputs[0])
    form = graph.form(source.name)
    if form.flat and len(out.shape) == 1:
        graph.set(out.name, graph.value(source.name, form), form)
    elif len(out.shape) == 1 and form != last(len(source.shape)):
        flat = graph.reshape(graph.value(source.name, form), [-1, *out.shape], hint=out.name)
        graph.set(out.name, flat, Form(order=form.order, flat=source.shape))
    else:
        value = graph.value(source.name, last(len(source.shape)))
        graph.set(out.name, graph.reshape(value, [-1, *out.shape], hint=out.name), last(len(out.shape)))


def transpose(graph: Graph, op: Op) -> None:
    """No node at all: the value lies as it lay, only its axes have other numbers."""
    form, perm = _whole(graph, op.inputs[0]), op.attributes["perm"]
    order = tuple(perm.index(axis) for axis in form.order)
    graph.set(op.outputs[0], graph.value(op.inputs[0], form), Form(order=order))


def slice_(graph: Graph, op: Op) -> None:
    """From start to stop in steps."""
    form, a = _whole(graph, op.inputs[0]), op.attributes
    numbers = [graph.constant([n], "int64", "ends") for n in (a["start"], a["stop"], _axis(form, a["axis"]), a["step"])]
    graph.set(op.outputs[0], graph.node("Slice", graph.value(op.inputs[0], form), *numbers, hint=op.outputs[0]), form)


def concat(graph: Graph, op: Op) -> None:
    """Side by side."""
    form = _whole(graph, op.inputs[0])
    values = [graph.value(name, form) for name in op.inputs]
    graph.set(op.outputs[0], graph.node("Concat", *values, axis=_axis(form, op.attributes["axis"]), hint=op.outputs[0]), form)


def pad(graph: Graph, op: Op) -> None:
    """With a real, or a code."""
    form, padding = _whole(graph, op.inputs[0]), op.attributes["padding"]
    pads = [0, *(padding[i][0] for i in form.order), 0, *(padding[i][1] for i in form.order)]
    integer = graph.tensor(op.outputs[0]).dtype == "int8"
    value = op.attributes["value"] + (SHIFT if integer else 0)
    fill = graph.constant(value, "uint8" if integer else "float32", "fill")
    made = graph.node(
        "Pad", graph.value(op.inputs[0], form), graph.constant(pads, "int64", "pads"), fill, mode="constant", hint=op.outputs[0]
    )
    graph.set(op.outputs[0], made, form)


def upsample_nearest(graph: Graph, op: Op) -> None:
    """Every pixel again and again."""
    scales = graph.constant([1, 1, *op.attributes["scale"]], "float32", "scales")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    made = graph.node("Resize", graph.value(op.inputs[0], first(3)), "", scales, hint=op.outputs[0], **how)
    graph.set(op.outputs[0], made, first(3))


def upsample_bilinear(graph: Graph, op: Op) -> None:
    """To a size; the batch is read off the input, because sizes name every axis."""
    x = graph.real(op.inputs[0], first(3))
    shape = graph.node("Shape", x, start=0, end=2)
    sizes = graph.node("Concat", shape, graph.constant(op.attributes["size"], "int64", "size"), axis=0)
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if op.attributes["align_corners"] else "half_pixel"}
    graph.finish(op, graph.node("Resize", x, "", "", sizes, hint=op.outputs[0], **how), first(3))


def constant(graph: Graph, op: Op) -> None:
    """The weight, once per sample."""
    out = graph.tensor(op.outputs[0])
    data, dtype = raw(graph, op, "value"), out.dtype
    if dtype == "int8":
        data, dtype = data.astype(np.int16) + SHIFT, "uint8"
    value = graph.constant(data[None], dtype, op.weights["value"])
    if graph.batch:
        count = graph.node("Shape", graph.batch, start=0, end=1)
        ones = graph.constant([1] * len(out.shape), "int64", "ones")
        value = graph.node("Expand", value, graph.node("Concat", count, ones, axis=0), hint=out.name)
    graph.set(out.name, value, last(len(out.shape)))


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
