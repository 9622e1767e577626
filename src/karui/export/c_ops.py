"""Everything that isn't a layer of weights, in C: one function per kind, or per family of kinds."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from karui.export.c_exits import exit_if
from karui.export.c_layers import layer, limits, requant_of, weight
from karui.export.c_signs import pack
from karui.export.c_source import Source, structure
from karui.export.c_text import number
from karui.export.c_weights import coded
from karui.program.arithmetic import addition, bounds, code_range, quantization, requantization
from karui.program.program import AffineValues, Array, FloatValues, Op
from karui.program.windows import edges, square

Axes = list[tuple[int, int, int]]  # (count, stride of one pointer, stride of the other), outermost first


# ── nested loops ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def strides(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next, per axis, of an array that lies in order."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def merged(axes: Axes) -> Axes:
    """The same loops with axes of length 1 dropped and neighbours joined where both pointers go on evenly."""
    result: Axes = []
    for count, a, b in axes:
        if count == 1:
            continue
        if result and result[-1][1] == a * count and result[-1][2] == b * count:
            result[-1] = (result[-1][0] * count, a, b)
        else:
            result.append((count, a, b))
    return result


def loops(source: Source, op: Op, axes: Axes, name: str = "axes") -> str:
    """The loops as a constant array of ``k_axis``."""
    text = "{" + ", ".join(f"{{{n}, {a}, {b}}}" for n, a, b in axes) + "}"
    return source.constant(f"{op.name}.{name}", f"k_axis[{len(axes)}]", text)


def move(source: Source, op: Op, x: str, y: str, shape: Sequence[int], a: Sequence[int], b: Sequence[int], *, size: int) -> None:
    """Copy ``shape`` elements of ``size`` bytes between pointers with these strides (in elements)."""
    axes = merged([(n, i * size, j * size) for n, i, j in zip(shape, a, b, strict=True)])
    piece = size
    if axes and axes[-1][1] == axes[-1][2] == size:
        piece *= axes.pop()[0]
    source.call("k_move", x, y, loops(source, op, [*axes, (piece, 0, 0)], "move"), len(axes))


def raw(pointer: str, offset: int = 0) -> str:
    """A pointer as bytes, some bytes further."""
    return f"(int8_t *)(void *){pointer}" + (f" + {offset}" if offset else "")


def raw_const(pointer: str, offset: int = 0) -> str:
    """The same for reading."""
    return f"(const int8_t *)(const void *){pointer}" + (f" + {offset}" if offset else "")


def size_of(source: Source, op: Op) -> int:
    """Bytes of an element of the op's output."""
    tensor = source.tensor(op.outputs[0])
    return tensor.nbytes // tensor.count


# ── moves ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def reshape(source: Source, op: Op) -> None:
    """A copy, or nothing where both lie at one place."""
    x, y = source.place(op.inputs[0]), source.place(op.outputs[0])
    if x != y:
        n = source.tensor(op.outputs[0]).count
        move(source, op, raw_const(x), raw(y), [n], [1], [1], size=size_of(source, op))


def transpose(source: Source, op: Op) -> None:
    """Axis i of the result is axis perm[i] of the input."""
    x, y = source.tensor(op.inputs[0]).shape, source.tensor(op.outputs[0]).shape
    a = [strides(x)[axis] for axis in op.attributes["perm"]]
    move(source, op, raw_const(source.place(op.inputs[0])), raw(source.place(op.outputs[0])), y, a, strides(y), size=size_of(source, op))


def slice_(source: Source, op: Op) -> None:
    """From start in steps."""
    x, y, a, size = source.tensor(op.inputs[0]).shape, source.tensor(op.outputs[0]).shape, op.attributes, size_of(source, op)
    steps = [s * (a["step"] if axis == a["axis"] else 1) for axis, s in enumerate(strides(x))]
    start = a["start"] * strides(x)[a["axis"]] * size
    move(source, op, raw_const(source.place(op.inputs[0]), start), raw(source.place(op.outputs[0])), y, steps, strides(y), size=size)


def concat(source: Source, op: Op) -> None:
    """One copy for each input."""
    y, size, done = source.tensor(op.outputs[0]).shape, size_of(source, op), 0
    step = strides(y)
    for name in op.inputs:
        x, start = source.tensor(name).shape, done * step[op.attributes["axis"]] * size
        move(source, op, raw_const(source.place(name)), raw(source.place(op.outputs[0]), start), x, strides(x), step, size=size)
        done += x[op.attributes["axis"]]


def pad(source: Source, op: Op) -> None:
    """Fill, then copy into the middle."""
    x, y, size = source.tensor(op.inputs[0]).shape, source.tensor(op.outputs[0]), size_of(source, op)
    value = op.attributes.get("value")
    place = source.place(op.outputs[0])
    if y.dtype == "float32":
        source.call("k_fill_f32", place, y.count, number(0.0 if value is None else value))
    else:
        source.call("k_fill_i8", place, y.count, quantization(y)[1] if value is None else int(value))
    start = sum(before * s for (before, _), s in zip(op.attributes["padding"], strides(y.shape), strict=True)) * size
    move(source, op, raw_const(source.place(op.inputs[0])), raw(place, start), x, strides(x), strides(y.shape), size=size)


def upsample_nearest(source: Source, op: Op) -> None:
    """A copy that reads every pixel again and again: its repeats are axes on which the input doesn't move."""
    (h, w, c), (sy, sx) = source.tensor(op.inputs[0]).shape, op.attributes["scale"]
    places = raw_const(source.place(op.inputs[0])), raw(source.place(op.outputs[0]))
    move(source, op, *places, [h, sy, w, sx, c], [w * c, 0, c, 0, 1], strides([h, sy, w, sx, c]), size=size_of(source, op))


def constant(source: Source, op: Op) -> None:
    """A table that others read in place."""
    name, values = op.outputs[0], raw_values(source, op, "value")
    table = source.table(f"{op.name}.value", values)
    if name in source.places:
        move(source, op, raw_const(table), raw(source.places[name]), [values.size], [1], [1], size=values.itemsize)
    else:
        source.places[name] = table


def raw_values(source: Source, op: Op, role: str) -> Array:
    """A weight as it goes into a tensor: codes for integers, numbers for floats."""
    held, dtype = source.program.weights[op.weights[role]], source.tensor(op.outputs[0]).dtype
    if isinstance(held.values, FloatValues):
        return held.values.data.astype(dtype)
    codes = dtype != "float32" and isinstance(held.values, AffineValues)
    return (held.values.codes if codes else held.real()).astype(dtype)  # type: ignore[union-attr]


def lookup(source: Source, op: Op) -> None:
    """A table of 256 codes, or one for each channel; or bits, for layers of signs."""
    if op.outputs[0] in source.packed:
        return pack(source, op)
    x, table = source.tensor(op.inputs[0]), raw_values(source, op, "table")
    channels = x.shape[-1] if table.ndim == 2 else 1
    places = source.place(op.inputs[0]), source.place(op.outputs[0])
    if source.machine.sets and channels == 1:
        codes = table if x.dtype == "uint8" else np.roll(table, 128)  # by the byte that a code is
        source.write(f"{source.chosen('lookup')}({places[0]}, {places[1]}, {x.count}, {source.table(f'{op.name}.table', codes)});")
        return
    kernel = "k_lookup_u8" if x.dtype == "uint8" else "k_lookup_i8"
    name, step = source.table(f"{op.name}.table", table), 256 if table.ndim == 2 else 0
    source.call(kernel, *places, x.count // channels, channels, name, step)


def embedding(source: Source, op: Op) -> None:
    """Rows of a weight; ``run`` returns 2 for a code outside the table."""
    w = coded(source.program.weights[op.weights["weight"]], integer=False, in_order=False)
    index, stored = (source.take("k_index", w.most), source.take("float", w.most)) if w.sparse else ("NULL", "NULL")
    source.use("k_embedding")
    places = f"{source.place(op.inputs[0])}, {source.place(op.outputs[0])}"
    given = f"{places}, {source.tensor(op.inputs[0]).count}, {w.rows}, {weight(source, op, w)}, {index}, {stored}"
    source.write(f"if (k_embedding({given}))")
    source.write("    return 2;")


# ── element by element ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pairs(source: Source, op: Op) -> None:
    """add, sub, mul, div with broadcasting."""
    y = source.tensor(op.outputs[0])
    first, second = (broadcast_strides(source.tensor(name).shape, y.shape) for name in op.inputs)
    axes = merged(list(zip(y.shape, first, second, strict=True))) or [(1, 0, 0)]
    places = [source.place(name) for name in (*op.inputs, op.outputs[0])]
    if y.dtype == "float32":
        source.use(f"k_{op.kind}_f32")
        source.call("k_pairs_f32", f"k_{op.kind}_f32", *places, loops(source, op, axes), len(axes), *limits(op))
        return
    low, high = bounds(op, y)
    if op.kind == "add":
        sums = addition(source.program, op)
        numbers = dict(ma=sums.multipliers[0], mb=sums.multipliers[1], multiplier=0, bias=sums.bias, shift=sums.shift)
    else:
        (za, zb), requant = (quantization(source.tensor(name))[1] for name in op.inputs), requantization(source.program, op)
        numbers = dict(ma=za, mb=zb, multiplier=requant.multiplier[0], bias=requant.bias[0], shift=requant.shift[0])
    pair = source.constant(f"{op.name}.pair", "k_pair", structure(**numbers, low=low, high=high))
    if op.kind == "add" and source.machine.sets and [each[1:] for each in axes] == [(1, 1)]:
        source.write(f"{source.chosen('add')}({', '.join(places)}, {axes[0][0]}, &{pair});")
    else:
        source.call(f"k_{op.kind}_i8", *places, loops(source, op, axes), len(axes), f"&{pair}")


def broadcast_strides(shape: Sequence[int], target: Sequence[int]) -> list[int]:
    """Strides of an operand along the axes of the result; 0 where it is repeated."""
    own = [0 if n == 1 else s for n, s in zip(shape, strides(shape), strict=True)]
    return [0] * (len(target) - len(shape)) + own


def affine(source: Source, op: Op) -> None:
    """x · scale[c] + bias[c] from floats or pixels."""
    x = source.tensor(op.inputs[0])
    channels = x.shape[-1]
    tables = [
        source.table(f"{op.name}.{role}", np.broadcast_to(source.program.weights[op.weights[role]].real(), (channels,)))
        for role in ("scale", "bias")
    ]
    kernel = "k_affine_u8" if x.dtype == "uint8" else "k_affine_f32"
    source.call(kernel, source.place(op.inputs[0]), source.place(op.outputs[0]), x.count // channels, channels, *tables, *limits(op))


def clamp(source: Source, op: Op) -> None:
    """Between two reals or two codes."""
    y = source.tensor(op.outputs[0])
    kernel, ends = ("k_clamp_f32", limits(op)) if y.dtype == "float32" else ("k_clamp_i8", bounds(op, y))
    source.call(kernel, source.place(op.inputs[0]), source.place(op.outputs[0]), y.count, *ends)


def unary(source: Source, op: Op) -> None:
    """A function of every value."""
    function, alpha = f"k_{op.attributes['function']}", op.attributes.get("alpha")
    try:
        source.use(function)
    except KeyError:
        raise source.refuse(op, f"function '{op.attributes['function']}'", "use another activation") from None
    n = source.tensor(op.outputs[0]).count
    source.call("k_unary", function, source.place(op.inputs[0]), source.place(op.outputs[0]), n, number(alpha or 0.0))


def quantize(source: Source, op: Op) -> None:
    """Floats to codes."""
    y = source.tensor(op.outputs[0])
    scale, zero = quantization(y)
    kernel = source.chosen("quantize") if source.machine.sets else source.use("k_quantize")
    places = source.place(op.inputs[0]), source.place(op.outputs[0])
    source.write(f"{kernel}({', '.join(map(str, (*places, y.count, number(float(scale)), zero, *code_range(y))))});")


def dequantize(source: Source, op: Op) -> None:
    """Codes to floats."""
    x = source.tensor(op.inputs[0])
    scale, zero = quantization(x)
    source.call("k_dequantize", source.place(op.inputs[0]), source.place(op.outputs[0]), x.count, number(float(scale)), zero)


# ── reductions and pools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def reduction(source: Source, op: Op) -> None:
    """mean, and the sums and extremes of ``reduce``."""
    x, y, function = source.tensor(op.inputs[0]), source.tensor(op.outputs[0]), op.attributes.get("function", "mean")
    kept = [1 if axis in op.attributes["axes"] else n for axis, n in enumerate(x.shape)]
    out = [0 if axis in op.attributes["axes"] else s for axis, s in enumerate(strides(kept))]
    axes = merged(list(zip(x.shape, strides(x.shape), out, strict=True))) or [(1, 0, 0)]
    table, places = loops(source, op, axes), (source.place(op.inputs[0]), source.place(op.outputs[0]))
    if y.dtype == "int8":
        source.call("k_mean_i8", *places, source.take("int32_t", y.count), y.count, table, len(axes), requant_of(source, op))
        return
    sign = {"max": 1, "min": -1}.get(function, 0)
    source.call("k_fill_f32", places[1], y.count, number(-sign * np.inf if sign else 0.0))
    if sign:
        source.call("k_extreme_f32", *places, table, len(axes), number(sign))
        return
    source.call("k_sum_f32", *places, table, len(axes))
    if function == "mean":
        source.call("k_scale_f32", places[1], y.count, f"1.0f / {x.count // y.count}.0f", *limits(op))


def pool(source: Source, op: Op) -> None:
    """Greatest or mean value under each window, 1-D or 2-D."""
    x, y, a = source.tensor(op.inputs[0]), source.tensor(op.outputs[0]), op.attributes
    (kh, kw), (sy, sx), (top, left, _, _) = square(a["kernel"]), square(a["stride"]), edges(a["padding"])
    window = windows(source, op, kh=kh, kw=kw, sy=sy, sx=sx, top=top, left=left)
    places = source.place(op.inputs[0]), source.place(op.outputs[0])
    suffix = f"i8{source.machine.pools}" if y.dtype == "int8" else "f32"
    if op.kind.startswith("max"):
        source.call(f"k_max_pool_{suffix}", *places, window)
        return
    counted = int(any(a["padding"]) and not a["count_include_pad"])
    if suffix == "f32":
        source.call("k_avg_pool_f32", *places, window, counted, *limits(op))
    else:
        source.call(f"k_avg_pool_{suffix}", *places, window, requant_of(source, op), counted, source.take("int32_t", x.shape[-1]))


def windows(source: Source, op: Op, **fields: int) -> str:
    """A ``k_layer`` for an op without weights: the sizes of its images, and these fields."""
    x, y = ((1, *s) if len(s) == 2 else s for s in (source.tensor(op.inputs[0]).shape, source.tensor(op.outputs[0]).shape))
    text = structure(h=x[0], w=x[1], c=x[2], oh=y[0], ow=y[1], o=y[2], **fields)
    return f"&{source.constant(f'{op.name}.window', 'k_layer', text)}"


# ── float operations over an axis ───────────────────────────────────────────────────────────────────────────────────────────────────


def softmax(source: Source, op: Op) -> None:
    """Along one axis."""
    x, axis = source.tensor(op.inputs[0]).shape, op.attributes["axis"]
    sizes = prod(x[:axis]), x[axis], prod(x[axis + 1 :])
    source.call("k_softmax", source.place(op.inputs[0]), source.place(op.outputs[0]), *sizes)


def normalization(source: Source, op: Op) -> None:
    """layer_norm and group_norm."""
    x, a = source.tensor(op.inputs[0]).shape, op.attributes
    weights = source.program.weights
    tables = [
        source.table(f"{op.name}.{role}", weights[op.weights[role]].real()) if role in op.weights else "NULL" for role in ("scale", "bias")
    ]
    places, eps = (source.place(op.inputs[0]), source.place(op.outputs[0])), number(a["eps"])
    if op.kind == "layer_norm":
        width = prod(x[len(x) - a["dims"] :])
        source.call("k_layer_norm", *places, prod(x) // width, width, *tables, eps)
    else:
        source.call("k_normalise", *places, prod(x[:-1]), a["groups"], x[-1] // a["groups"], *tables, eps)


def matmul(source: Source, op: Op) -> None:
    """scale · a @ b over all outer axes."""
    a, b = (source.tensor(name).shape for name in op.inputs)
    y, transposed = source.tensor(op.outputs[0]).shape, int(op.attributes["transpose_b"])
    outer = [[s * prod(shape[-2:]) for s in broadcast_strides(shape[:-2], y[:-2])] for shape in (a, b)]
    axes = merged(list(zip(y[:-2], *outer, strict=True)))
    table = loops(source, op, axes) if axes else "NULL"
    places = [source.place(name) for name in (*op.inputs, op.outputs[0])]
    source.call("k_matmul", *places, table, len(axes), a[-2], a[-1], y[-1], transposed, number(op.attributes["scale"]))


def bilinear(source: Source, op: Op) -> None:
    """To another size."""
    places = source.place(op.inputs[0]), source.place(op.outputs[0])
    source.call("k_bilinear", *places, windows(source, op), int(op.attributes["align_corners"]))


def recurrent(source: Source, op: Op) -> None:
    """gru and lstm."""
    weights = {role: coded(source.program.weights[op.weights[f"weight_{role}"]], integer=False) for role in ("ih", "hh")}
    length, inputs = source.tensor(op.inputs[0]).shape
    fields: dict[str, Any] = dict(length=length, inputs=inputs, hidden=weights["hh"].inputs, reverse=int(op.attributes["reverse"]))
    for role, w in weights.items():
        bias = f"bias_{role}"
        fields[role] = weight(source, op, w, f"weight_{role}")
        fields[bias] = source.table(f"{op.name}.{bias}", source.program.weights[op.weights[bias]].real()) if bias in op.weights else "NULL"
        fields[f"row_{role}"] = "NULL" if w.in_place else source.take("float", w.inputs)
        fields[f"gates_{role}"] = source.take("float", w.rows)
    sparse = [w for w in weights.values() if w.sparse]
    most = max((w.most for w in sparse), default=0)
    fields["index"] = source.take("k_index", most) if sparse else "NULL"
    fields["stored"] = source.take("float", most) if sparse else "NULL"
    source.use("k_recurrent")
    places = [source.place(name) for name in (*op.inputs, *op.outputs)]
    source.call(f"k_{op.kind}", *places, f"&(const k_recurrent){structure(**fields)}")


RULES: Mapping[str, Callable[[Source, Op], None]] = {
    **dict.fromkeys(("conv2d", "conv1d", "linear", "conv_transpose2d"), layer),
    **dict.fromkeys(("add", "sub", "mul", "div"), pairs),
    **dict.fromkeys(("mean", "reduce"), reduction),
    **dict.fromkeys(("avg_pool2d", "avg_pool1d", "max_pool2d", "max_pool1d"), pool),
    **dict.fromkeys(("layer_norm", "group_norm"), normalization),
    **dict.fromkeys(("gru", "lstm"), recurrent),
    "affine": affine,
    "clamp": clamp,
    "concat": concat,
    "constant": constant,
    "dequantize": dequantize,
    "embedding": embedding,
    "exit_if": exit_if,
    "lookup": lookup,
    "matmul": matmul,
    "pad": pad,
    "quantize": quantize,
    "reshape": reshape,
    "slice": slice_,
    "softmax": softmax,
    "transpose": transpose,
    "unary": unary,
    "upsample_bilinear2d": bilinear,
    "upsample_nearest2d": upsample_nearest,
}
