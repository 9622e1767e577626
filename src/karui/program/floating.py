"""What every kind computes on float32. Weights of any form take part as the real numbers they stand for."""

from collections.abc import Callable, Mapping

import numpy as np

from karui.program import unary
from karui.program.arithmetic import dequantize as to_floats
from karui.program.arithmetic import quantization
from karui.program.moves import aligned, clamp_floats
from karui.program.program import Array, Op, Program
from karui.program.windows import correlate, edges, padded, square, taps

Rule = Callable[[Program, Op, list[Array]], Array | list[Array]]


def layer(program: Program, op: Op, arguments: list[Array]) -> Array:
    """conv2d, conv1d, linear."""
    weight, a, flat = _real(program, op, "weight"), op.attributes, op.kind == "conv1d"
    if op.kind == "linear":
        y = arguments[0] @ weight.T
    else:
        image, kernel = (arguments[0][:, None], weight[:, None]) if flat else (arguments[0], weight)
        y = correlate(padded(image, edges(a["padding"]), 0.0), kernel, square(a["stride"]), square(a["dilation"]), a["groups"])
        y = y[:, 0] if flat else y
    return clamp_floats(op, _plus(y, _optional(program, op, "bias")))


def conv_transpose2d(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Every input pixel paints weight · pixel into the output; the padding is cut off."""
    x, a, groups = arguments[0], op.attributes, op.attributes["groups"]
    weight = _real(program, op, "weight")
    (sy, sx), (dy, dx), (top, left, _, _) = a["stride"], a["dilation"], a["padding"]
    n, height, width, _ = x.shape
    out, kh, kw, _ = weight.shape
    rows, columns, _ = program.tensor(op.outputs[0]).shape
    canvas = np.zeros(
        (n, max((height - 1) * sy + (kh - 1) * dy + 1, top + rows), max((width - 1) * sx + (kw - 1) * dx + 1, left + columns), out),
        np.float32,
    )
    for i in range(kh):
        for j in range(kw):
            parts = [part @ w.T for part, w in zip(np.split(x, groups, axis=3), np.split(weight[:, i, j], groups), strict=True)]
            y0, x0 = i * dy, j * dx
            canvas[:, y0 : y0 + (height - 1) * sy + 1 : sy, x0 : x0 + (width - 1) * sx + 1 : sx] += np.concatenate(parts, axis=3)
    return clamp_floats(op, _plus(canvas[:, top : top + rows, left : left + columns], _optional(program, op, "bias")))


def matmul(program: Program, op: Op, arguments: list[Array]) -> Array:
    """scale · a @ b."""
    a, b = aligned(*arguments)
    return np.float32(op.attributes["scale"]) * (a @ (b.swapaxes(-1, -2) if op.attributes["transpose_b"] else b))


def elementwise(program: Program, op: Op, arguments: list[Array]) -> Array:
    """add, sub, mul, div."""
    operations: Mapping[str, np.ufunc] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
    with np.errstate(divide="ignore", invalid="ignore"):
        return clamp_floats(op, operations[op.kind](*aligned(*arguments)))


def affine(program: Program, op: Op, arguments: list[Array]) -> Array:
    """x · scale + bias, one of each per channel of the last axis."""
    scale, bias = _real(program, op, "scale"), _real(program, op, "bias")
    return clamp_floats(op, _plus(arguments[0].astype(np.float32) * scale, bias))


def unary_(program: Program, op: Op, arguments: list[Array]) -> Array:
    """A function of ``unary.py``."""
    return unary.apply(op.attributes["function"], arguments[0], op.attributes.get("alpha"))


def mean(program: Program, op: Op, arguments: list[Array]) -> Array:
    """The mean over some axes."""
    axes = tuple(axis + 1 for axis in op.attributes["axes"])
    return clamp_floats(op, arguments[0].mean(axes, keepdims=bool(op.attributes["keepdims"])))


def reduce(program: Program, op: Op, arguments: list[Array]) -> Array:
    """sum, max or min over some axes."""
    functions: Mapping[str, np.ufunc] = {"sum": np.add, "max": np.maximum, "min": np.minimum}
    axes = tuple(axis + 1 for axis in op.attributes["axes"])
    return functions[op.attributes["function"]].reduce(arguments[0], axis=axes, keepdims=bool(op.attributes["keepdims"]))


def average_pool(program: Program, op: Op, arguments: list[Array]) -> Array:
    """avg_pool2d, avg_pool1d: the sum under the window by the kernel's size, or by the count of real pixels."""
    a, flat = op.attributes, op.kind == "avg_pool1d"
    image = arguments[0][:, None] if flat else arguments[0]
    kernel, stride, padding = square(a["kernel"]), square(a["stride"]), edges(a["padding"])
    ones = np.ones((1, *image.shape[1:3], 1), np.float32)
    ones = padded(ones, padding, 1.0 if a["count_include_pad"] else 0.0)
    y = np.sum(list(taps(padded(image, padding, 0.0), kernel, stride)), axis=0) / np.sum(list(taps(ones, kernel, stride)), axis=0)
    return clamp_floats(op, y[:, 0] if flat else y)


def softmax(program: Program, op: Op, arguments: list[Array]) -> Array:
    """exp(x − max) over its sum, along one axis."""
    axis = op.attributes["axis"] + 1
    e = np.exp(arguments[0] - arguments[0].max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def exit_if(program: Program, op: Op, arguments: list[Array]) -> Array:
    """The exit's scores where the greatest is by the threshold above the second, else the others."""
    early, late = arguments
    second, first = np.moveaxis(np.partition(early, -2, axis=1)[:, -2:], 1, 0)
    sure = first - second >= np.float32(op.attributes["threshold"])
    return np.where(sure[:, None], early, late)


def layer_norm(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Mean 0 and variance 1 over the last ``dims`` axes, then scale and bias."""
    x = arguments[0]
    y = _normalised(x, tuple(range(x.ndim - op.attributes["dims"], x.ndim)), op.attributes["eps"])
    return _scaled(program, op, y)


def group_norm(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Mean 0 and variance 1 over each group of channels and all positions, then scale and bias per channel."""
    x, groups = arguments[0], op.attributes["groups"]
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    return _scaled(program, op, _normalised(grouped, (1, 3), op.attributes["eps"]).reshape(x.shape))


def upsample_bilinear(program: Program, op: Op, arguments: list[Array]) -> Array:
    """To ``size``; without ``align_corners`` pixels are areas, and the outermost value goes on to the edge."""
    y = arguments[0]
    for axis, size in ((1, op.attributes["size"][0]), (2, op.attributes["size"][1])):
        y = _interpolated(y, axis, size, bool(op.attributes["align_corners"]))
    return y


def gru(program: Program, op: Op, arguments: list[Array]) -> list[Array]:
    """h = (1 − z)·n + z·h with n = tanh(W x + b + r·(U h + c)); gates r, z, n; h starts at zero."""
    gates, recurrent, offset = _recurrence(program, op, arguments[0])
    h = np.zeros((len(gates), recurrent.shape[1]), np.float32)
    states = np.zeros((*gates.shape[:2], h.shape[1]), np.float32)
    for t in _steps(op, gates):
        (xr, xz, xn), (hr, hz, hn) = (np.split(v, 3, axis=1) for v in (gates[:, t], h @ recurrent.T + offset))
        r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + r * hn) + z * h
        states[:, t] = h
    return [states, h]


def lstm(program: Program, op: Op, arguments: list[Array]) -> list[Array]:
    """c = f·c + i·g and h = o·tanh(c); gates i, f, g, o; h and c start at zero."""
    gates, recurrent, offset = _recurrence(program, op, arguments[0])
    h = c = np.zeros((len(gates), recurrent.shape[1]), np.float32)
    states = np.zeros((*gates.shape[:2], h.shape[1]), np.float32)
    for t in _steps(op, gates):
        i, f, g, o = np.split(gates[:, t] + h @ recurrent.T + offset, 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        states[:, t] = h
    return [states, h, c]


def dequantize(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Codes to floats."""
    return to_floats(arguments[0], *quantization(program.tensor(op.inputs[0])))


def _real(program: Program, op: Op, role: str) -> Array:
    """A weight that the op must have, as floats."""
    return program.weights[op.weights[role]].real()


def _optional(program: Program, op: Op, role: str) -> Array | None:
    """A weight that the op may have."""
    return _real(program, op, role) if role in op.weights else None


def _plus(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias


def _normalised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + np.float32(eps)))


def _scaled(program: Program, op: Op, y: Array) -> Array:
    scale = _optional(program, op, "scale")
    return _plus(y if scale is None else y * scale, _optional(program, op, "bias"))


def _interpolated(x: Array, axis: int, size: int, align_corners: bool) -> Array:
    count = x.shape[axis]
    if align_corners:
        place = np.arange(size) * ((count - 1) / (size - 1) if size > 1 else 0.0)
    else:
        place = np.maximum((np.arange(size) + 0.5) * (count / size) - 0.5, 0)
    low = np.minimum(place.astype(np.int64), count - 1)
    part = (place - low).astype(np.float32).reshape(-1, *(1,) * (x.ndim - axis - 1))
    return x.take(low, axis) * (1 - part) + x.take(np.minimum(low + 1, count - 1), axis) * part


def _recurrence(program: Program, op: Op, x: Array) -> tuple[Array, Array, Array]:
    """What the inputs add to the gates at every step [N,L,gates·H], the recurrent weight, and its bias."""
    weight, recurrent = _real(program, op, "weight_ih"), _real(program, op, "weight_hh")
    bias = _optional(program, op, "bias_hh")
    return _plus(x @ weight.T, _optional(program, op, "bias_ih")), recurrent, np.zeros(len(recurrent), np.float32) if bias is None else bias


def _steps(op: Op, gates: Array) -> range:
    return range(gates.shape[1] - 1, -1, -1) if op.attributes["reverse"] else range(gates.shape[1])


def _sigmoid(x: Array) -> Array:
    return unary.apply("sigmoid", x)


RULES: Mapping[str, Rule] = {
    "conv2d": layer,
    "conv1d": layer,
    "linear": layer,
    "conv_transpose2d": conv_transpose2d,
    "matmul": matmul,
    "add": elementwise,
    "sub": elementwise,
    "mul": elementwise,
    "div": elementwise,
    "affine": affine,
    "unary": unary_,
    "mean": mean,
    "reduce": reduce,
    "avg_pool2d": average_pool,
    "avg_pool1d": average_pool,
    "softmax": softmax,
    "exit_if": exit_if,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "upsample_bilinear2d": upsample_bilinear,
    "gru": gru,
    "lstm": lstm,
    "dequantize": dequantize,
}
