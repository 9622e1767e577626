"""Kinds that only choose, move or look up values: the same for floats and integers, which keep their scale and zero point."""

from collections.abc import Callable, Mapping

import numpy as np

from karui.errors import UnsupportedOp
from karui.program.arithmetic import bounds, code_range, quantization
from karui.program.program import AffineValues, Array, FloatValues, Op, Program
from karui.program.windows import edges, padded, square, taps

Rule = Callable[[Program, Op, list[Array]], Array]


def aligned(a: Array, b: Array) -> tuple[Array, Array]:
    """Two batches of different rank made ready for broadcasting: the new axes go after the batch's."""
    rank = max(a.ndim, b.ndim)
    first, second = (x.reshape(x.shape[:1] + (1,) * (rank - x.ndim) + x.shape[1:]) for x in (a, b))
    return first, second


def clamp_floats(op: Op, y: Array) -> Array:
    """The fused clamp of a float op, as float32."""
    low, high = op.attributes.get("clamp") or (None, None)
    y = y.astype(np.float32)
    return (
        y
        if low is None and high is None
        else np.clip(y, None if low is None else np.float32(low), None if high is None else np.float32(high))
    )


def clamp(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Between two reals, or two codes."""
    target = program.tensor(op.outputs[0])
    if target.dtype == "float32":
        return clamp_floats(op, arguments[0])
    _same_scale(program, op)
    return np.clip(arguments[0], *bounds(op, target))


def lookup(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Table [256], or [C,256] with one row per channel of the last axis."""
    table = _raw(program, op, "table").astype(program.tensor(op.outputs[0]).dtype)
    low = 0 if program.tensor(op.inputs[0]).dtype == "uint8" else -128
    index = arguments[0].astype(np.int64) - low
    return table[index] if table.ndim == 1 else table[np.arange(len(table)), index]


def max_pool(program: Program, op: Op, arguments: list[Array]) -> Array:
    """max_pool2d, max_pool1d; padding never wins."""
    a, flat = op.attributes, op.kind == "max_pool1d"
    source = program.tensor(op.inputs[0])
    _same_scale(program, op)
    lowest = -np.inf if source.dtype == "float32" else code_range(source)[0]
    image = padded(arguments[0][:, None] if flat else arguments[0], edges(a["padding"]), lowest)
    y = np.maximum.reduce(list(taps(image, square(a["kernel"]), square(a["stride"]))))
    return y[:, 0] if flat else y


def concat(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Arrays side by side."""
    _same_scale(program, op)
    return np.concatenate(arguments, axis=op.attributes["axis"] + 1)


def reshape(program: Program, op: Op, arguments: list[Array]) -> Array:
    """To the shape of the output, in the same order."""
    _same_scale(program, op)
    return arguments[0].reshape(len(arguments[0]), *program.tensor(op.outputs[0]).shape)


def transpose(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Axis i of the result is axis perm[i] of the input."""
    _same_scale(program, op)
    return np.ascontiguousarray(arguments[0].transpose(0, *(axis + 1 for axis in op.attributes["perm"])))


def slice_(program: Program, op: Op, arguments: list[Array]) -> Array:
    """From start to stop (left out) in steps."""
    _same_scale(program, op)
    a = op.attributes
    where = [slice(None)] * arguments[0].ndim
    where[a["axis"] + 1] = slice(a["start"], a["stop"], a["step"])
    return arguments[0][tuple(where)]


def pad(program: Program, op: Op, arguments: list[Array]) -> Array:
    """With a value; on integers with a code, the zero point where none is given."""
    _same_scale(program, op)
    target, value = program.tensor(op.outputs[0]), op.attributes.get("value")
    if value is None:
        value = 0.0 if target.dtype == "float32" else quantization(target)[1]
    return np.pad(arguments[0], ((0, 0), *(tuple(pair) for pair in op.attributes["padding"])), constant_values=value)


def upsample_nearest(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Every pixel becomes scale[0] × scale[1] of it."""
    _same_scale(program, op)
    return arguments[0].repeat(op.attributes["scale"][0], axis=1).repeat(op.attributes["scale"][1], axis=2)


def constant(program: Program, op: Op, batch: int) -> Array:
    """The weight, once per sample."""
    target = program.tensor(op.outputs[0])
    return np.broadcast_to(_raw(program, op, "value").astype(target.dtype), (batch, *target.shape))


def embedding(program: Program, op: Op, arguments: list[Array]) -> Array:
    """Rows of the weight."""
    table, index = program.weights[op.weights["weight"]].real(), arguments[0]
    if index.size and not (0 <= index.min() and index.max() < len(table)):
        raise UnsupportedOp(
            f"'{op.name}' ({op.kind}): code {int(index.max())} or {int(index.min())} is outside its table of {len(table)} rows"
        )
    return table[index]


def _raw(program: Program, op: Op, role: str) -> Array:
    """A weight as it goes into a tensor: codes for integers, numbers for floats."""
    weight = program.weights[op.weights[role]]
    if isinstance(weight.values, FloatValues):
        return weight.values.data
    integer = program.tensor(op.outputs[0]).dtype != "float32"
    return weight.values.codes if integer and isinstance(weight.values, AffineValues) else weight.real()


def _same_scale(program: Program, op: Op) -> None:
    target = program.tensor(op.outputs[0])
    for name in op.inputs:
        source = program.tensor(name)
        if source.dtype != target.dtype or source.quant != target.quant:
            raise UnsupportedOp(
                f"'{op.name}' ({op.kind}) keeps dtype, scale and zero point, but '{name}' has {source.dtype} {source.quant} and "
                f"'{target.name}' {target.dtype} {target.quant}; requantize before it"
            )


RULES: Mapping[str, Rule] = {
    "clamp": clamp,
    "lookup": lookup,
    "max_pool2d": max_pool,
    "max_pool1d": max_pool,
    "concat": concat,
    "reshape": reshape,
    "transpose": transpose,
    "slice": slice_,
    "pad": pad,
    "upsample_nearest2d": upsample_nearest,
    "embedding": embedding,
}
