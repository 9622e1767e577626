"""What the multiply-and-add kinds compute on int8, in the three arithmetics; and the steps into and out of the integers."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from karui.program import arithmetic as karui
from karui.program import litert
from karui.program.moves import aligned
from karui.program.program import Array, Op, Program
from karui.program.windows import correlate, edges, padded, square, taps

Rule = Callable[[Program, Op, list[Array], str], Array]


def layer(program: Program, op: Op, arguments: list[Array], arithmetic: str) -> Array:
    """conv2d, conv1d, linear."""

    def sums_of(codes: NDArray[np.int32]) -> NDArray[np.int64]:
        return _accumulators(program, op, arguments[0], codes)

    if arithmetic == "karui":
        sums = [sums_of(term.codes) for term in karui.terms(program.weights[op.weights["weight"]])]
        requant = karui.requantization(program, op)
        return karui.requantize(sums[0] if len(sums) == 1 else np.stack(sums, -1), requant, *_bounds(program, op))
    return _finished(program, op, litert.layer(program, op, sums_of, xnnpack=arithmetic == "xnnpack"))


def add(program: Program, op: Op, arguments: list[Array], arithmetic: str) -> Array:
    """Codes plus codes."""
    a, b = aligned(*arguments)
    if arithmetic == "karui":
        return karui.add(a, b, karui.addition(program, op), *_bounds(program, op))
    return _finished(program, op, litert.add(program, op, _centred(program, op, [a, b]), xnnpack=arithmetic == "xnnpack"))


def mul(program: Program, op: Op, arguments: list[Array], arithmetic: str) -> Array:
    """Codes times codes."""
    a, b = _centred(program, op, list(aligned(*arguments)))
    if arithmetic == "karui":
        return karui.requantize(a * b, karui.requantization(program, op), *_bounds(program, op))
    return _finished(program, op, litert.mul(program, op, [a, b], xnnpack=arithmetic == "xnnpack"))


def mean(program: Program, op: Op, arguments: list[Array], arithmetic: str) -> Array:
    """The mean over some axes."""
    axes = tuple(axis + 1 for axis in op.attributes["axes"])
    total = _centred(program, op, arguments)[0].sum(axes, keepdims=bool(op.attributes["keepdims"]))
    if arithmetic == "karui":
        return karui.requantize(total, karui.requantization(program, op), *_bounds(program, op))
    count = int(karui.window_counts(program, op)[0])
    return _finished(program, op, litert.mean(program, op, total, count, xnnpack=arithmetic == "xnnpack"))


def average_pool(program: Program, op: Op, arguments: list[Array], arithmetic: str) -> Array:
    """avg_pool2d, avg_pool1d; ``karui`` looks its numbers up by the count of pixels under the window."""
    a, flat = op.attributes, op.kind.endswith("1d")
    kernel, stride, padding = square(a["kernel"]), square(a["stride"]), edges(a["padding"])
    centred = _centred(program, op, arguments)[0]
    image = centred[:, None] if flat else centred
    total = sum(taps(padded(image, padding, 0), kernel, stride))
    ones = np.ones((1, *image.shape[1:3], 1), np.int64)
    counts: NDArray[np.int64] = np.asarray(sum(taps(padded(ones, padding, 0), kernel, stride)))
    if arithmetic == "karui":
        codes = _pooled(program, op, np.asarray(total), counts)
    else:
        found = litert.average(program, op, np.asarray(total), counts, xnnpack=arithmetic == "xnnpack")
        codes = np.clip(found, *_bounds(program, op)).astype(np.int8)
    return codes[:, 0] if flat else codes


def _pooled(program: Program, op: Op, total: NDArray[np.int64], counts: NDArray[np.int64]) -> Array:
    requant = karui.requantization(program, op)
    entry = np.broadcast_to(counts - 1 if len(requant.shift) > 1 else np.zeros_like(counts), total.shape)
    chosen = karui.Requant(multiplier=requant.multiplier[entry], bias=requant.bias[entry], shift=requant.shift[entry])
    product = total * chosen.multiplier.astype(np.int64) + chosen.bias
    return np.clip(product >> chosen.shift.astype(np.int64), *_bounds(program, op)).astype(np.int8)


def quantize(program: Program, op: Op, arguments: list[Array], arithmetic: str) -> Array:
    """Floats to codes."""
    target = program.tensor(op.outputs[0])
    return karui.quantize(arguments[0], *karui.quantization(target), *karui.code_range(target))


def _accumulators(program: Program, op: Op, x: Array, codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Σ (x − zero point) · codes, exactly: in float32 where every sum stays below 2^24, else in float64 (below 2^31 by the op's check)."""
    source = program.tensor(op.inputs[0])
    reach = max(abs(bound - karui.quantization(source)[1]) for bound in karui.code_range(source))
    exact = np.float32 if np.abs(codes.astype(np.int64)).reshape(len(codes), -1).sum(1).max(initial=0) * reach < 2**24 else np.float64
    centred = (x.astype(np.int32) - karui.quantization(source)[1]).astype(exact)
    if op.kind == "linear":
        return (centred.reshape(-1, codes.shape[1]) @ codes.T.astype(exact)).astype(np.int64).reshape(*x.shape[:-1], len(codes))
    a, flat = op.attributes, op.kind == "conv1d"
    image, weight = (centred[:, None], codes[:, None]) if flat else (centred, codes)
    image = padded(image, edges(a["padding"]), 0)
    sums = correlate(image, weight, square(a["stride"]), square(a["dilation"]), a["groups"]).astype(np.int64)
    return sums[:, 0] if flat else sums


def _centred(program: Program, op: Op, arguments: list[Array]) -> list[NDArray[np.int64]]:
    """``code − zero point`` of each argument."""
    return [x.astype(np.int64) - karui.quantization(program.tensor(name))[1] for x, name in zip(arguments, op.inputs, strict=True)]


def _bounds(program: Program, op: Op) -> tuple[int, int]:
    return karui.bounds(op, program.tensor(op.outputs[0]))


def _finished(program: Program, op: Op, codes: NDArray[np.int64]) -> Array:
    """Adds the zero point and clamps."""
    return np.clip(codes + karui.quantization(program.tensor(op.outputs[0]))[1], *_bounds(program, op)).astype(np.int8)


RULES: Mapping[str, Rule] = {
    "conv2d": layer,
    "conv1d": layer,
    "linear": layer,
    "add": add,
    "mul": mul,
    "mean": mean,
    "avg_pool2d": average_pool,
    "avg_pool1d": average_pool,
    "quantize": quantize,
}
