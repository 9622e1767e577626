"""Layers of weights in C: conv2d, conv1d, linear, conv_transpose2d. Linear is a 1×1 convolution over its rows; see c_runtime/layer.c."""

from typing import Any

import numpy as np

from karui.export.c_cost import Layer
from karui.export.c_duo_depth import depthwise as depthwise_duos
from karui.export.c_duo_forms import coded_duos, decoded, listed_duos, packed_one
from karui.export.c_duos import duos
from karui.export.c_few import Few, few_depthwise, few_of, few_taps_of, fews, near
from karui.export.c_floats import depthwise as depthwise_floats
from karui.export.c_floats import floats
from karui.export.c_geometry import Geometry, geometry
from karui.export.c_pairs import is_pair, pairs
from karui.export.c_panels import Numbers, depthwise, few, listed, numbers_of, panels
from karui.export.c_signs import signs
from karui.export.c_signs_tables import tabled
from karui.export.c_source import Source, structure
from karui.export.c_text import number
from karui.export.c_weights import Coded, coded, in_full
from karui.program.arithmetic import bias_values, bounds, quantization, requantization
from karui.program.program import Op

TILE_BYTES = 4096  # decoded rows that are kept at a time, if four rows don't need more
MOST_LISTED = 0.15  # denser rows are taken in full (docs/adr/0005); where there are no vectors, the best threshold was not measured
VECTOR = 16  # numbers that a loop takes at a time, at most, on the machines that karui is tuned on
SHORT = 128  # inputs; the rest of a longer row doesn't count


def layer(source: Source, op: Op) -> None:
    """One layer, by the kernel that suits its weight: depthwise, in full, as lists, or (integers) with several multipliers a row."""
    integer = source.tensor(op.outputs[0]).dtype == "int8"
    g, w = geometry(source, op), coded(source.program.weights[op.weights["weight"]], integer=integer)
    if integer:
        _integer(source, op, g, w)
    else:
        _float(source, op, g, w)


# ── int8 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _integer(source: Source, op: Op, g: Geometry, w: Coded) -> None:
    requant = requantization(source.program, op)
    several = w.raw_zero is not None or requant.multiplier.ndim == 2
    if (source.machine.duos and tabled(source, op, g)) or signs(source, op, g):
        return
    if is_pair(source, op) and pairs(source, op, g, w, lambda: weight(source, op, w)):
        return
    if source.machine.duos and not several and _duos(source, op, g, w):
        return
    kernel, numbers = "terms" if several else "depthwise", None
    if not several:
        numbers = numbers_of(source, op, g) if source.machine.sets else None
        w = _whole(source, op, g, w, numbers)
        kernel, w = _chosen(source, op, g, w, numbers)
    if numbers is not None and kernel in ("listed", "depth", "panels", "few"):
        _panels(source, op, g, w, numbers, kernel)
        return
    x, y, q = source.place(op.inputs[0]), source.place(op.outputs[0]), requant_of(source, op)
    if several:
        terms = 1 if requant.multiplier.ndim == 1 else requant.multiplier.shape[1]
        zero = "NULL" if w.raw_zero is None else source.table(f"{op.name}.weight.zero", w.raw_zero)
        lay = _layer(source, op, g, w, 1)
        patch, index, stored = source.take("int16_t", w.inputs), _index(source, w, 1), source.take("int8_t", w.most)
        source.call("k_terms_i8", x, y, lay, weight(source, op, w), q, terms, zero, patch, index, stored)
    elif g.depthwise:
        lay = _layer(source, op, g, w, 1)
        taps = _taps(source, op, g, w, "int8_t", lay)
        source.call("k_depthwise_i8", x, y, lay, taps, q, source.take("int32_t", g["c"]))
    elif kernel == "lists":
        tile = _tile(g, w.most * 3)
        lay, lists = _layer(source, op, g, w, tile), _index(source, w, tile)
        patch, stored, counts = source.take("int16_t", w.inputs), source.take("int8_t", tile * w.most), source.take("int32_t", tile)
        source.call("k_sparse_i8", x, y, lay, weight(source, op, w), q, patch, lists, stored, counts)
    else:
        stride, in_place = _stride(g, w)
        tile = g["o"] // g["groups"] if in_place else _tile(g, stride)
        lay, patch = _layer(source, op, g, w, tile, stride), source.take("int16_t", stride)
        rows = "NULL" if in_place else source.take("int8_t", tile * stride)
        index, stored = _index(source, w, 1), source.take("int8_t", w.most) if w.sparse else "NULL"
        source.call("k_dense_i8", x, y, lay, weight(source, op, w), q, patch, rows, index, stored)


def _duos(source: Source, op: Op, g: Geometry, w: Coded) -> bool:
    """A layer by two channels. False, and nothing is written, where its numbers don't allow it or others are faster."""
    if g.depthwise:
        return w.in_place and depthwise_duos(source, op, g)
    if w.fields.get("codes") == "k_codes_bytes" and listed_duos(source, op, g):
        return True
    if w.in_place:
        return duos(source, op, g)
    if packed_one(source, op, g, w):
        return True
    found = coded_duos(source, op, g, w)
    if found is not None:
        decoded(source, op, g, found, weight(source, op, found.w))
    return found is not None


def _chosen(source: Source, op: Op, g: Geometry, w: Coded, numbers: Numbers | None) -> tuple[str, Coded]:
    """The kernel, and the weight as it is stored for it: the planner's choice, or what these rules say."""
    if g.depthwise and numbers is None:
        return "depthwise", w
    plain = w.fields.get("codes") == "k_codes_bytes"
    usual = "lists" if _listed(w) else "rows"
    if numbers is not None:
        usual = "depth" if g.depthwise else "listed" if plain and few(numbers) else "panels"
    smaller = _smaller(g, w, numbers) if usual in ("panels", "depth") else None
    if smaller is not None and usual == "panels" and near(smaller, w):
        usual = "few"
    if source.planner is None:
        return usual, w
    rows = g["o"] // g["groups"] if w.in_place else _tile(g, _stride(g, w)[0])
    layer = Layer(g=g, w=w, numbers=numbers, few=smaller, tiles={"rows": rows, "lists": _tile(g, w.most * 3)})
    return source.planner.choose(op, source.program.weights[op.weights["weight"]], layer, usual)


def _whole(source: Source, op: Op, g: Geometry, w: Coded, numbers: Numbers | None) -> Coded:
    """A depthwise layer's zeros are stored, too: to decode such a layer takes longer than to compute it, and it has few weights."""
    kept = source.planner is not None and source.planner.keep_forms
    if numbers is None or not g.depthwise or not w.sparse or kept or _smaller(g, w, numbers) is not None:
        return w
    return in_full(source.program.weights[op.weights["weight"]]) or w


def _smaller(g: Geometry, w: Coded, numbers: Numbers | None) -> Few | None:
    """The weight as numbers of few bits; of a depthwise layer, whose kernel is the same, only where that takes about as many bytes."""
    if numbers is None or w.in_place:
        return None
    if not g.depthwise:
        return few_of(numbers)
    found = few_taps_of(numbers)
    return found if found is not None and near(found, w) else None


def _panels(source: Source, op: Op, g: Geometry, w: Coded, numbers: Numbers, kernel: str) -> None:
    if kernel == "listed":
        listed(source, op, numbers)
        return
    if kernel in ("few", "depth") and (smaller := _smaller(g, w, numbers)) is not None:
        (few_depthwise if g.depthwise else fews)(source, op, numbers, smaller)
        return
    fast = depthwise if kernel == "depth" else panels
    fast(source, op, w, numbers, "NULL" if w.in_place else weight(source, op, w))


# ── float ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _float(source: Source, op: Op, g: Geometry, w: Coded) -> None:
    x, y = source.place(op.inputs[0]), source.place(op.outputs[0])
    finish = finishing(source, op, bias_values(source.program, op) if "bias" in op.weights else None)
    if g.depthwise and op.kind != "conv_transpose2d":
        if depthwise_floats(source, op, g, w, finish):
            return
        lay = _layer(source, op, g, w, 1)
        source.call("k_depthwise_f32", x, y, lay, _taps(source, op, g, w, "float", lay), finish)
        return
    if floats(source, op, g, w, finish):
        return
    patch_of = source.use("k_patch_back_f32" if op.kind == "conv_transpose2d" else "k_patch_f32")
    if _listed(w):
        tile = _tile(g, w.most * 6)
        lay, patch, lists = _layer(source, op, g, w, tile), source.take("float", w.inputs), _index(source, w, tile)
        stored, counts = source.take("float", tile * w.most), source.take("int32_t", tile)
        source.call("k_sparse_f32", x, y, lay, weight(source, op, w), finish, patch_of, patch, lists, stored, counts)
    else:
        stride, in_place = _stride(g, w)
        tile = g["o"] // g["groups"] if in_place else _tile(g, stride * 4)
        lay, patch = _layer(source, op, g, w, tile, stride), source.take("float", stride)
        rows = "NULL" if in_place else source.take("float", tile * stride)
        index, stored = _index(source, w, 1), source.take("float", w.most) if w.sparse else "NULL"
        source.call("k_dense_f32", x, y, lay, weight(source, op, w), finish, patch_of, patch, rows, index, stored)


def finishing(source: Source, op: Op, bias: Any = None) -> str:
    """Bias and clamp of a float op."""
    low, high = limits(op)
    table = "NULL" if bias is None else source.table(f"{op.name}.bias", bias)
    return f"&{source.constant(f'{op.name}.finish', 'k_finish', structure(bias=table, low=low, high=high))}"


def limits(op: Op) -> tuple[str, str]:
    """The clamp of a float op as C numbers."""
    low, high = op.attributes.get("clamp") or (None, None)
    return number(-np.inf if low is None else low), number(np.inf if high is None else high)


# ── what both share ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def weight(source: Source, op: Op, w: Coded, role: str = "weight") -> str:
    """A ``k_weight``; its decoders are among the kernels from here on."""
    fields: dict[str, Any] = {}
    for name, array in w.tables.items():
        fields[name] = source.table(f"{op.name}.{role}.{name}", array)
    for name, value in w.fields.items():
        fields[name] = source.use(value) if name in ("where", "codes", "reals") else value
    return f"&{source.constant(f'{op.name}.{role}', 'k_weight', structure(**{'groups': 1, **fields}))}"


def requant_of(source: Source, op: Op) -> str:
    """The numbers of an integer op as a ``k_requant``."""
    requant = requantization(source.program, op)
    low, high = bounds(op, source.tensor(op.outputs[0]))
    tables = {role: source.table(f"{op.name}.{role}", getattr(requant, role)) for role in ("multiplier", "bias", "shift")}
    text = structure(**tables, zero=quantization(source.tensor(op.inputs[0]))[1], low=low, high=high)
    return f"&{source.constant(f'{op.name}.requant', 'k_requant', text)}"


def _layer(source: Source, op: Op, g: Geometry, w: Coded, tile: int, stride: int = 0) -> str:
    name = source.constant(f"{op.name}.layer", "k_layer", structure(**g.fields, tile=tile, most=w.most, stride=stride))
    return f"&{name}"


def _stride(g: Geometry, w: Coded) -> tuple[int, bool]:
    """From row to row of a tile, and whether rows are read in place.

    Short rows of many pixels are copied and filled up with zeros to whole vectors, as a compiler's loops do the rest one by one.
    """
    filled = -(-w.inputs // VECTOR) * VECTOR
    copy = g.pixels > 1 and w.inputs < SHORT and filled != w.inputs
    return (filled, False) if copy else (w.inputs, w.in_place)


def _listed(w: Coded) -> bool:
    return w.sparse and w.stored < MOST_LISTED * w.rows * w.inputs


def _tile(g: Geometry, row_bytes: int) -> int:
    """Rows to decode at a time: one for a single pixel, else as many as fit, four at least."""
    return 1 if g.pixels == 1 else min(g["o"] // g["groups"], max(4, TILE_BYTES // max(1, row_bytes)))


def _index(source: Source, w: Coded, rows: int) -> str:
    return source.take("k_index", rows * w.most) if w.sparse else "NULL"


def _taps(source: Source, op: Op, g: Geometry, w: Coded, kind: str, lay: str) -> str:
    """A depthwise weight turned to [taps, channels]: at export where it is plain, else in scratch before the layer runs."""
    if w.in_place:
        values = w.tables["values"].reshape(w.rows, w.inputs)
        return source.table(f"{op.name}.taps", values.T)
    taps, row = source.take(kind, w.rows * w.inputs), source.take(kind, w.inputs)
    index, stored = _index(source, w, 1), source.take(kind, w.most) if w.sparse else "NULL"
    source.call("k_turn_i8" if kind == "int8_t" else "k_turn_f32", lay, weight(source, op, w), taps, index, stored, row)
    return taps
