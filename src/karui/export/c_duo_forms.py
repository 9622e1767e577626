"""Integer layers by two channels whose weights are no bytes in full: decoded (c_runtime/duo_forms.c), or fours by lists (duo_listed.c)."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from karui.export.c_duos import FOUR, PIXELS, constant, fitting, fours_of, layer_of, pairs_of, scratch_of, words_of
from karui.export.c_geometry import Geometry
from karui.export.c_panels import Numbers, numbers_of
from karui.export.c_source import Source, structure
from karui.export.c_weights import Coded
from karui.program.arithmetic import bounds
from karui.program.program import Array, Op

TILE_BYTES = 4096  # of decoded duos that are kept at a time, where the arena has no more to spare; two always
TILE, MOST_BYTES = 8, 9216  # so many if they take no more: what pixels see is written out anew for each tile. Eight of 3 × 3 × 64 do
QUICK = {"k_codes_packed": "k_quick_packed", "k_codes_table": "k_quick_table"}  # decoders of four numbers at a time …
QUICK_BITS = 6  # … of so many bits, which read so many bytes beyond the stream:
BEYOND = 2
IN_HALVES = (1, 2, 4)  # bits of numbers that fill half a word

# Instructions, counted in QEMU on a Cortex-M4: a product, a weight (once for all pixels), a result
IN_FULL = (0.77, 3.5, 18.0)
AS_LISTS = (9.5, 0.0, 45.0)  # k_sparse_i8, for what is stored

STEP = PIXELS * FOUR * 2  # bytes of a four in a column
MOST = 32767  # bytes of a column that a list can step back over
LISTED = 0.85  # of all fours: above, skipping the others costs what it saves
STORED = (
    0.45  # of the weights in those fours at least, as in blocks of one channel; where more are zero, an index of single weights is smaller
)


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
    x, y, duo = source.place(op.inputs[0]), source.place(op.outputs[0]), constant(source, op, g, n, found.requant, "NULL")
    (column, edge), rows = scratch_of(source, g, n), source.take("int8_t", 2 * w.inputs)
    listed = [source.take("k_index", w.most), source.take("int8_t", w.most)] if w.sparse else ["NULL", "NULL"]
    each, size = -(-n.outputs // 2), fours_of(n) * 8
    tile = min(each, max(2, TILE_BYTES // size, min(TILE, MOST_BYTES // size), source.spare() // size))
    tile = -(-each // -(-each // tile))  # as many passes, each as short as that allows
    layer, words = layer_of(source, op, g, tile), source.take("int32_t", tile * size // 4)
    source.call("k_duos_coded_i8", x, y, layer, duo, weight, column, edge, words, rows, *listed)


def quick(w: Coded) -> Coded:
    """The same weight with a decoder that takes four numbers at a time, where there is one."""
    codes = w.fields.get("codes")
    if codes not in QUICK or w.fields["bits"] > QUICK_BITS or "zero" in w.tables:
        return w
    values = np.append(w.tables["values"], np.zeros(BEYOND, np.uint8))
    return replace(w, tables={**w.tables, "values": values}, fields={**w.fields, "codes": QUICK[codes]})


def packed_one(source: Source, op: Op, g: Geometry, w: Coded) -> bool:
    """A linear layer of one pixel, from packed weights as they lie. False, and nothing is written, for others."""
    f, bits = w.fields, w.fields.get("bits", 0)
    plain = f.get("codes") == "k_codes_packed" and not w.sparse and "zero" not in w.tables and f.get("groups", 1) == 1
    if (
        not plain
        or bits not in IN_HALVES
        or w.inputs * bits % 32
        or any(g[name] != 1 for name in ("h", "w", "kh", "kw", "oh", "ow", "groups"))
    ):
        return False
    n = numbers_of(source, op, g)
    if n is None or n.outputs < 2:
        return False
    low, high = bounds(op, source.tensor(op.outputs[0]))
    rows: dict[str, Array] = {"multiplier": n.requant.multiplier, "bias": n.folded, "shift": n.requant.shift}
    tables = {role: source.table(f"{op.name}.packed.{role}", array) for role, array in rows.items()}
    q = source.constant(f"{op.name}.requant", "k_requant", structure(**tables, low=low, high=high))
    x, y, stream = source.place(op.inputs[0]), source.place(op.outputs[0]), source.table(f"{op.name}.weight.values", w.tables["values"])
    pairs = source.take("int32_t", w.inputs // 2)
    source.call("k_packed_one_i8", x, y, w.inputs, w.rows, stream, bits, f["step"], f["offset"], f"&{q}", pairs)
    return True


# ── fours by lists ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def listed_duos(source: Source, op: Op, g: Geometry) -> bool:
    """A layer by the fours that each duo has. False, and nothing is written, where that saves nothing, or bytes are lost."""
    n = numbers_of(source, op, g)
    if n is None or n.outputs < 2 or fours_of(n) * STEP > MOST:
        return False
    pairs = pairs_of(n.outputs)
    words = words_of(n, pairs)
    there, stored = np.asarray(words.any(-1)), np.count_nonzero(n.codes.reshape(n.groups, n.outputs, -1)[:, pairs])
    if there.mean() > LISTED or stored < STORED * there.sum() * 2 * FOUR or (requant := fitting(n)) is None:
        return False
    duos, lists, ends = in_lists(words, there, requant[:-2].reshape(*there.shape[:2], 8), n.outputs % 2 == 1)
    layer, column, edge = layer_of(source, op, g), *scratch_of(source, g, n)
    tables = [source.table(f"{op.name}.duo.{name}", array) for name, array in (("lists", lists), ("ends", ends))]
    weight = constant(source, op, g, n, None, source.table(f"{op.name}.duo.listed", duos))
    source.call("k_duos_listed_i8", source.place(op.inputs[0]), source.place(op.outputs[0]), layer, weight, *tables, column, edge)
    return True


def in_lists(
    words: NDArray[np.int32], there: NDArray[np.bool_], requant: NDArray[np.int32], odd: bool
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int32]]:
    """Duos, lists and ends, as in c_runtime/duo_listed.c.

    words: ``[groups, duos, fours, 2]``; there: ``[groups, duos, fours]``; requant: ``[groups, duos, 8]``; odd: the last is alone.
    """
    known: dict[bytes, int] = {}  # list → where it begins, in bytes
    duos: list[NDArray[np.int32]] = []
    ends: list[int] = []
    size = end = 0
    for group in range(len(words)):
        last = words.shape[1] - odd
        for duo in range(words.shape[1]):
            if duo in (0, last):
                at = 0  # a part begins
            fours = np.flatnonzero(there[group, duo])
            fours = fours if len(fours) else np.zeros(1, np.int64)  # zeros, as a list has one four at least
            steps = np.diff(fours, prepend=-1, append=-1) - 1
            steps[-1] = -1 - fours[-1]
            text = (steps * STEP).astype(np.int16).tobytes()
            if text not in known:
                known[text], size = size, size + len(text)
            row = requant[group, duo]
            duos.append(np.concatenate([row[:2], [known[text] - at], words[group, duo, fours].reshape(-1), row[2:]]).astype(np.int32))
            at, end = known[text] + len(text), end + len(duos[-1])
            if duo == last - 1:
                ends.append(end)
        ends.append(end)
    return np.concatenate(duos), np.frombuffer(b"".join(known), np.int16), np.array(ends, np.int32)
