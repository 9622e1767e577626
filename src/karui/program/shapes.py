"""What shape an op's outputs have, from its inputs, weights and attributes; the rules of ``kinds.py`` in numbers.

Shapes have no batch axis. Every rule raises ValueError, in words, where the op makes no sense.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from karui.program.program import Op

Shape = tuple[int, ...]
Weights = Mapping[str, Shape]  # role → shape


def output_shapes(op: Op, inputs: Sequence[Shape], weights: Weights, declared: Sequence[Shape]) -> tuple[Shape, ...]:
    """The shapes of the outputs; ``declared`` is what the Program says, which decides for ``reshape`` alone."""
    if op.kind == "reshape":
        _need(prod(inputs[0]) == prod(declared[0]), f"{list(inputs[0])} can't become {list(declared[0])}")
        return (tuple(declared[0]),)
    shapes = _RULES[op.kind](op.attributes, inputs, weights)
    return shapes if shapes and isinstance(shapes[0], tuple) else (shapes,)  # type: ignore[return-value]


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _rank(shape: Shape, rank: int, what: str) -> None:
    _need(len(shape) == rank, f"{what} has shape {list(shape)}, expected {rank} axes")


def _window(size: int, kernel: int, stride: int, padding: Sequence[int], dilation: int = 1) -> int:
    out = (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1
    _need(out >= 1, f"a window of {kernel} doesn't fit into {size} + padding {sum(padding)}")
    return out


def _channels(weights: Weights, roles: Sequence[str], channels: int) -> None:
    for role in roles:
        if role in weights:
            _need(weights[role] in ((channels,), ()), f"{role} has shape {list(weights[role])}, expected [{channels}]")


def _groups(x: Shape, w: Shape, groups: int) -> None:
    _need(w[-1] * groups == x[-1], f"{x[-1]} input channels, but the weight takes {w[-1]} in each of {groups} groups")
    _need(w[0] % groups == 0, f"{w[0]} output channels don't divide into {groups} groups")


def _conv2d(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x, w = inputs[0], weights["weight"]
    _rank(x, 3, "the input")
    _rank(w, 4, "the weight")
    _groups(x, w, a["groups"])
    _channels(weights, ["bias"], w[0])
    top, left, bottom, right = a["padding"]
    h = _window(x[0], w[1], a["stride"][0], (top, bottom), a["dilation"][0])
    return (h, _window(x[1], w[2], a["stride"][1], (left, right), a["dilation"][1]), w[0])


def _conv1d(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x, w = inputs[0], weights["weight"]
    _rank(x, 2, "the input")
    _rank(w, 3, "the weight")
    _groups(x, w, a["groups"])
    _channels(weights, ["bias"], w[0])
    return (_window(x[0], w[1], a["stride"], a["padding"], a["dilation"]), w[0])


def _conv_transpose2d(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x, w = inputs[0], weights["weight"]
    _rank(x, 3, "the input")
    _rank(w, 4, "the weight")
    _groups(x, w, a["groups"])
    _channels(weights, ["bias"], w[0])
    crop = (a["padding"][0] + a["padding"][2], a["padding"][1] + a["padding"][3])
    h, width = ((x[i] - 1) * a["stride"][i] - crop[i] + a["dilation"][i] * (w[1 + i] - 1) + a["output_padding"][i] + 1 for i in range(2))
    _need(h >= 1 and width >= 1, f"padding {a['padding']} leaves nothing of the result")
    return (h, width, w[0])


def _linear(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x, w = inputs[0], weights["weight"]
    _rank(w, 2, "the weight")
    _channels(weights, ["bias"], w[0])
    _need(len(x) >= 1 and x[-1] == w[1], f"the input has shape {list(x)}, but the weight takes {w[1]} features")
    return (*x[:-1], w[0])


def _matmul(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x, y = inputs
    _need(len(x) >= 2 and len(y) >= 2, "both operands need two axes or more")
    k, n = (y[-1], y[-2]) if a["transpose_b"] else (y[-2], y[-1])
    _need(x[-1] == k, f"{list(x)} @ {list(y)}: {x[-1]} columns against {k} rows")
    return (*_broadcast(x[:-2], y[:-2]), x[-2], n)


def _broadcast(x: Shape, y: Shape) -> Shape:
    rank = max(len(x), len(y))
    pairs = list(zip((1,) * (rank - len(x)) + x, (1,) * (rank - len(y)) + y, strict=True))
    _need(all(m == n or 1 in (m, n) for m, n in pairs), f"shapes {list(x)} and {list(y)} don't broadcast")
    return tuple(n if m == 1 else m for m, n in pairs)


def _elementwise(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    return _broadcast(inputs[0], inputs[1])


def _same(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    return inputs[0]


def _affine(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _need(len(inputs[0]) >= 1, "the input has no axis for channels")
    _channels(weights, ["scale", "bias"], inputs[0][-1])
    return inputs[0]


def _lookup(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    channels = inputs[0][-1] if inputs[0] else 1
    _need(weights["table"] in ((256,), (channels, 256)), f"table has shape {list(weights['table'])}, expected [256] or [{channels}, 256]")
    return inputs[0]


def _axis(axis: int, x: Shape) -> int:
    _need(0 <= axis < len(x), f"axis {axis} is not one of the {len(x)} of {list(x)}")
    return axis


def _reduced(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    axes = {_axis(i, inputs[0]) for i in a["axes"]}
    _need(len(axes) == len(a["axes"]) > 0, f"axes {a['axes']} must be given, each once")
    if a["keepdims"]:
        return tuple(1 if i in axes else n for i, n in enumerate(inputs[0]))
    return tuple(n for i, n in enumerate(inputs[0]) if i not in axes)


def _pool2d(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x = inputs[0]
    _rank(x, 3, "the input")
    top, left, bottom, right = a["padding"]
    _need(
        max(top, bottom) < a["kernel"][0] and max(left, right) < a["kernel"][1], f"padding {a['padding']} is not below kernel {a['kernel']}"
    )
    h = _window(x[0], a["kernel"][0], a["stride"][0], (top, bottom))
    return (h, _window(x[1], a["kernel"][1], a["stride"][1], (left, right)), x[2])


def _pool1d(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _rank(inputs[0], 2, "the input")
    _need(max(a["padding"]) < a["kernel"], f"padding {a['padding']} is not below kernel {a['kernel']}")
    return (_window(inputs[0][0], a["kernel"], a["stride"], a["padding"]), inputs[0][1])


def _softmax(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _axis(a["axis"], inputs[0])
    return inputs[0]


def _exit_if(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    early, late = inputs
    _need(len(early) == 1 and early[0] >= 2, f"the scores of the exit have shape {list(early)}, expected one axis of two classes or more")
    _need(early == late, f"the exit gives {list(early)} scores, the rest of the network {list(late)}")
    return late


def _layer_norm(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x = inputs[0]
    _need(1 <= a["dims"] <= len(x), f"dims {a['dims']} of a tensor with {len(x)} axes")
    for role, shape in weights.items():
        _need(shape == x[-a["dims"] :], f"{role} has shape {list(shape)}, expected {list(x[-a['dims'] :])}")
    return x


def _group_norm(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x = inputs[0]
    _need(len(x) >= 1 and x[-1] % a["groups"] == 0, f"{list(x)} doesn't divide into {a['groups']} groups of channels")
    for role, shape in weights.items():
        _need(shape == (x[-1],), f"{role} has shape {list(shape)}, expected [{x[-1]}]")
    return x


def _concat(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    first, axis = inputs[0], _axis(a["axis"], inputs[0])
    for shape in inputs:
        fits = len(shape) == len(first) and all(m == n for i, (m, n) in enumerate(zip(shape, first)) if i != axis)
        _need(fits, f"{list(first)} and {list(shape)} differ beside axis {axis}")
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


def _transpose(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _need(sorted(a["perm"]) == list(range(len(inputs[0]))), f"perm {a['perm']} is no order of {len(inputs[0])} axes")
    return tuple(inputs[0][i] for i in a["perm"])


def _slice(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    x, axis = inputs[0], _axis(a["axis"], inputs[0])
    start, stop, step = a["start"], a["stop"], a["step"]
    _need(0 <= start < stop <= x[axis] and step >= 1, f"{start}:{stop}:{step} of an axis of {x[axis]}")
    return (*x[:axis], len(range(start, stop, step)), *x[axis + 1 :])


def _pad(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _need(len(a["padding"]) == len(inputs[0]), f"padding {a['padding']} for {len(inputs[0])} axes")
    return tuple(n + before + after for n, (before, after) in zip(inputs[0], a["padding"], strict=True))


def _upsample_nearest2d(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _rank(inputs[0], 3, "the input")
    h, w, c = inputs[0]
    return (h * a["scale"][0], w * a["scale"][1], c)


def _upsample_bilinear2d(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _rank(inputs[0], 3, "the input")
    return (a["size"][0], a["size"][1], inputs[0][2])


def _constant(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    return weights["value"]


def _embedding(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> Shape:
    _rank(weights["weight"], 2, "the weight")
    return (*inputs[0], weights["weight"][1])


def _recurrent(gates: int) -> Callable[[Mapping[str, Any], Sequence[Shape], Weights], tuple[Shape, ...]]:
    def rule(a: Mapping[str, Any], inputs: Sequence[Shape], weights: Weights) -> tuple[Shape, ...]:
        x, ih, hh = inputs[0], weights["weight_ih"], weights["weight_hh"]
        _rank(x, 2, "the input")
        _rank(ih, 2, "weight_ih")
        _rank(hh, 2, "weight_hh")
        hidden = hh[1]
        _need(ih == (gates * hidden, x[1]) and hh[0] == gates * hidden, f"weights {list(ih)} and {list(hh)} for an input {list(x)}")
        for role in ("bias_ih", "bias_hh"):
            _need(weights.get(role, (gates * hidden,)) == (gates * hidden,), f"{role} must have shape [{gates * hidden}]")
        return ((x[0], hidden), *[(hidden,)] * (2 if gates == 4 else 1))

    return rule


_RULES: Mapping[str, Callable[..., Shape | tuple[Shape, ...]]] = {
    "conv2d": _conv2d,
    "conv1d": _conv1d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "matmul": _matmul,
    **dict.fromkeys(("add", "sub", "mul", "div"), _elementwise),
    "affine": _affine,
    **dict.fromkeys(("clamp", "unary", "quantize", "dequantize"), _same),
    "lookup": _lookup,
    **dict.fromkeys(("mean", "reduce"), _reduced),
    **dict.fromkeys(("avg_pool2d", "max_pool2d"), _pool2d),
    **dict.fromkeys(("avg_pool1d", "max_pool1d"), _pool1d),
    "softmax": _softmax,
    "exit_if": _exit_if,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "concat": _concat,
    "transpose": _transpose,
    "slice": _slice,
    "pad": _pad,
    "upsample_nearest2d": _upsample_nearest2d,
    "upsample_bilinear2d": _upsample_bilinear2d,
    "constant": _constant,
    "embedding": _embedding,
    "gru": _recurrent(3),
    "lstm": _recurrent(4),
}
