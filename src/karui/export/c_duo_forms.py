"""Integer layers by two channels whose weights are no bytes in full: how their numbers lie for c_runtime/duo_forms.c."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from karui.export.c_duos import constant, fitting, fours_of, shared
from karui.export.c_geometry import Geometry
from karui.export.c_panels import Numbers, numbers_of
from karui.export.c_source import Source
from karui.export.c_weights import Coded
from karui.program.program import Op

TILE_BYTES = 8192  # of decoded words that are kept at a time, if two duos don't need more
QUICK = {"k_codes_packed": "k_quick_packed", "k_codes_table": "k_quick_table"}  # decoders of four numbers at a time …
QUICK_BITS = 6  # … of so many bits, which read so many bytes beyond the stream:
BEYOND = 2

# Instructions, counted in QEMU on a Cortex-M4: a product, a weight (once for all pixels), a result
IN_FULL = (0.77, 3.5, 18.0)
AS_LISTS = (9.5, 0.0, 45.0)  # k_sparse_i8, for what is stored


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A layer for ``k_duos_coded_i8``: its weight as it is to be stored, its numbers, and its requantization as in k_duo_weight."""

    w: Coded
    n: Numbers
    requant: NDArray[np.int32]


def coded_duos(source: Source, op: Op, g: Geometry, w: Coded) -> Decoded | None:
    """A layer whose weights can be decoded to duos; None where channels don't go into words, or lists take less time."""
    if w.sparse and instructions(AS_LISTS, g, w.stored) < instructions(IN_FULL, g, w.rows * w.inputs):
        return None
    n = numbers_of(source, op, g)
    if n is None or (requant := fitting(n)) is None:
        return None
    return Decoded(w=quick(w), n=n, requant=requant)


def instructions(costs: tuple[float, float, float], g: Geometry, weights: int) -> float:
    """What a layer takes that goes through so many weights, about."""
    product, weight, result = costs
    return weights * (product * g.pixels + weight) + result * g["o"] * g.pixels


def decoded(source: Source, op: Op, g: Geometry, found: Decoded, weight: str) -> None:
    """That layer. weight: its ``k_weight``."""
    w, n = found.w, found.n
    each, size = -(-n.outputs // 2), fours_of(n) * 8
    tile = min(each, max(2, TILE_BYTES // size))
    tile = -(-each // -(-each // tile))  # as many passes, each as short as that allows
    layer, column, edge = shared(source, op, g, n, tile)
    x, y, duo = source.place(op.inputs[0]), source.place(op.outputs[0]), constant(source, op, n, found.requant, "NULL")
    words, rows = source.take("int32_t", tile * size // 4), source.take("int8_t", 2 * w.inputs)
    listed = [source.take("k_index", w.most), source.take("int8_t", w.most)] if w.sparse else ["NULL", "NULL"]
    source.call("k_duos_coded_i8", x, y, layer, duo, weight, column, edge, words, rows, *listed)


def quick(w: Coded) -> Coded:
    """The same weight with a decoder that takes four numbers at a time, where there is one."""
    codes = w.fields.get("codes")
    if codes not in QUICK or w.fields["bits"] > QUICK_BITS or "zero" in w.tables:
        return w
    values = np.append(w.tables["values"], np.zeros(BEYOND, np.uint8))
    return replace(w, tables={**w.tables, "values": values}, fields={**w.fields, "codes": QUICK[codes]})
