"""Layers of signs by tables that are made on the device, for Cortex-M: how their numbers lie for c_runtime/signs_table.c and signs_few.c.

Sixteen channels meet four inputs in one lookup. Their tables are 128 bytes for each four inputs, in scratch. A layer whose inputs are too
many for one go of counts goes in parts, where tables of a part and the sums of all pixels are less than tables of the whole. To make tables
takes what fourteen pixels take to look them up. Counting ones takes three times what a look takes, so that is for layers of few pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.export.c_geometry import Geometry
from karui.export.c_signs import Layer, layer_of, least_of, outside, places
from karui.export.c_source import Source, structure
from karui.program.arithmetic import bounds
from karui.program.program import Array, Op

BLOCK = 16  # output channels of a table
FIELDS = (0, 4, 2, 6, 1, 5, 3, 7)  # of a word, where each of eight channels lies: sums then come out in order
TWELVE = 12  # fours of inputs that the loop takes at a time
FEW = 4  # pixels, a plane each, for which tables take longer to make than ones to count
EIGHT = 8  # fours that full adders make one, where ones are counted
MOST = 60  # fours whose counts fit in eight bits, in whole twelves
ROWS, SUMS, TILE = 32, 8, 8  # words of a four's table, words of a pixel's sums, and pixels that go together
WORD = 2**31


@dataclass(frozen=True, kw_only=True)
class Parts:
    """pieces: (bytes from a pixel's start, fours, whether counts are widened after it); ends: the pieces and fours before each part."""

    pieces: list[tuple[int, int, bool]]
    ends: list[tuple[int, int]]

    @property
    def count(self) -> int:
        """How many parts."""
        return len(self.ends) - 1

    @property
    def fours(self) -> int:
        """Of the largest part."""
        return max(b[1] - a[1] for a, b in zip(self.ends, self.ends[1:], strict=False))


def tabled(source: Source, op: Op, g: Geometry) -> bool:
    """The layer by tables, or where it has few pixels by counting ones. False, and nothing is written, where it isn't one of signs, or has
    numbers that don't fit.
    """
    layer = layer_of(source, op, g)
    numbers = None if layer is None else _numbers(source, op, g, layer)
    if layer is None or numbers is None:
        return False
    tables, fields = numbers
    planes, (lay, where) = layer.planes.count, places(source, op, g, layer.planes)
    words = _weights(g, layer)  # [groups, blocks, 2, fours]
    if g.pixels * planes <= FEW:
        kernel, kept, fours = "k_signs_few", 1, -(-words.shape[3] // EIGHT) * EIGHT
        several = words.reshape(g["groups"], -1, words.shape[3])[:, : -(-g["o"] // g["groups"] // 8)]
        tables["weights"], rows = np.pad(several, ((0, 0), (0, 0), (0, fours - words.shape[3]))), fours * planes
        fields |= {"count": fours // EIGHT}
    else:
        runs = [y * lay["run_y"] + x * lay["run_x"] for y in range(lay["runs_y"]) for x in range(lay["runs_x"])]
        parts = parts_of(runs, 2 * lay["fours"], g.pixels * planes)
        kernel, kept, rows = "k_signs_tabled", g.pixels if parts.count > 1 else TILE, ROWS * parts.fours
        tables |= {"weights": np.ascontiguousarray(words.swapaxes(2, 3)), "pieces": _pieces(parts), "parts": np.array(parts.ends)}
        fields |= {"count": parts.count}
    fields |= {role: source.table(f"{op.name}.tabled.{role}", each.astype(np.uint32).view(np.int32)) for role, each in tables.items()}
    adds = {role: source.table(f"{op.name}.signs.{role}", each) for role, each in outside(g, layer).items()}
    signs = source.constant(f"{op.name}.signs", "k_signs", structure(lay=structure(**lay), **where, **adds))
    constant = source.constant(f"{op.name}.tabled", "k_tabled", structure(kept=kept, **fields))
    x, y, bordered = source.place(op.inputs[0]), source.place(op.outputs[0]), g.bordered != (g["h"], g["w"])
    copy = source.take("uint8_t", where["whole"] * planes) if bordered or not where["packed"] else "NULL"
    scratch = source.take("int32_t", rows), source.take("int32_t", SUMS * kept * planes)
    source.call(kernel, x, y, f"&{signs}", f"&{constant}", f"{source.use('k_signs_packs')}()", copy, *scratch)
    return True


def parts_of(runs: list[int], fours: int, sums: int) -> Parts:
    """How runs, each of so many fours, are gone through. sums: of how many pixels they are kept, where there are several parts."""
    goes = -(-len(runs) * fours // MOST)
    room = min(MOST, -(-len(runs) * fours // goes // TWELVE) * TWELVE)  # as even as it may be
    pieces: list[tuple[int, int, bool]] = []
    ends, left, before = [(0, 0)], room, 0
    for run in runs:
        done = 0
        while done < fours:
            take = fours - done if fours - done <= left else left // TWELVE * TWELVE
            if take:
                pieces.append((run + done, take, False))
            done, left, before = done + take, left - take, before + take
            if done < fours or run == runs[-1]:
                pieces[-1] = (*pieces[-1][:2], True)
                ends.append((len(pieces), before))
                left = room
    several = Parts(pieces=pieces, ends=ends)
    return several if ROWS * several.fours + SUMS * sums < ROWS * before else Parts(pieces=pieces, ends=[ends[0], ends[-1]])


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _numbers(source: Source, op: Op, g: Geometry, layer: Layer) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """What makes sums to codes or bits: tables, and numbers of ``k_tabled``. None where sums or multipliers take too many bits."""
    low, high = bounds(op, source.tensor(op.outputs[0]))
    scaled, least, greatest = _reach(g, layer)
    step = 1 if scaled else layer.planes.step
    if max(-least, greatest) > 0x7FFF:
        return None
    fields = {"scaled": int(scaled), "low": _four(low), "high": _four(high)}
    if op.outputs[0] in source.packed:
        return {"most": _most(least_of(source, op, g, layer), layer, step)}, fields
    requant = _requant(layer, step, low, high, np.arange(least, greatest + 1))
    return None if requant is None else ({"requant": requant}, fields)


def _reach(g: Geometry, layer: Layer) -> tuple[bool, int, int]:
    """Whether sums hold the step of a code and what the border adds, and the least and the greatest of them."""
    planes, inputs = layer.planes, layer.codes[0].size
    adds = abs(planes.low - planes.zero) * inputs if outside(g, layer) else 0
    return (True, -adds, inputs * planes.top * planes.step + adds) if adds else (False, 0, inputs * planes.top)


def _weights(g: Geometry, layer: Layer) -> Array:
    """Words of four bits of each of eight channels, [groups, blocks, 2, fours]."""
    groups, outputs = g["groups"], g["o"] // g["groups"]
    bits = np.packbits(layer.codes > 0, axis=2, bitorder="little")
    fours = np.stack([bits & 15, bits >> 4], axis=3).reshape(groups, outputs, -1)
    whole = np.pad(fours, ((0, 0), (0, -outputs % BLOCK), (0, 0))).reshape(groups, -1, 2, 8, fours.shape[2])
    return np.asarray((whole.astype(np.uint32) << 4 * np.array(FIELDS, np.uint32)[:, None]).sum(3, dtype=np.uint32))


def _pieces(parts: Parts) -> Array:
    """Pieces as ``k_tabled`` wants them."""
    return np.array([(at, fours // TWELVE * 256 + fours % TWELVE + widened) for at, fours, widened in parts.pieces])


def _requant(layer: Layer, step: int, low: int, high: int, sums: NDArray[np.int64]) -> Array | None:
    """[groups, blocks, 16, 2]: multipliers and biases that make the same code of every sum there may be; None where there are none.

    A code is ((sum · multiplier >> 16) + bias) >> shift, and the multiplier's lowest byte is that shift: so one instruction multiplies and
    adds, and the next one needs no further number. What that takes off the multiplier is little enough that some bias makes up for it.
    """
    n = layer.numbers
    rows = zip(n.requant.multiplier.tolist(), n.folded.tolist(), n.requant.shift.tolist(), strict=True)
    words = [_shorter(-step * m, b, s, low, high, sums) for m, b, s in rows]
    if None in words:
        return None
    return np.pad(np.array(words).reshape(n.groups, n.outputs, 2), ((0, 0), (0, -n.outputs % BLOCK), (0, 0)))


def _shorter(multiplier: int, bias: int, shift: int, low: int, high: int, sums: NDArray[np.int64]) -> tuple[int, int] | None:
    """A channel's."""
    exact = multiplier * sums + bias
    codes = np.clip(exact >> shift, low, high)
    most, scale = float(np.abs(exact).max()) / 2**shift + abs(bias) / 2**shift + 1, abs(multiplier) / 2**shift
    short = next((s for s in range(31, -1, -1) if scale * 2 ** (s + 16) < WORD - 256 and most * 2**s < WORD), None)
    if short is None:
        return None
    m = round((multiplier * 2.0 ** (short + 16 - shift) - short) / 256) * 256 + short
    products = sums * m >> 16
    least = int(((codes << short) - products)[codes > low].max(initial=-WORD))
    beyond = int(((codes + 1 << short) - products)[codes < high].min(initial=WORD))  # what the bias may not reach
    usual = bias >> shift - short if shift > short else bias << short - shift
    return None if least >= beyond else (m, min(max(usual, least), beyond - 1))


def _most(least: Array, layer: Layer, step: int) -> Array:
    """[groups, blocks, 8]: the greatest sums of counts whose bit is one, two in a word; none that fills up reaches one."""
    n = layer.numbers
    most = np.clip(-least[:, : n.outputs].astype(np.int64) // step, -0x8000, 0x7FFF)
    whole = np.pad(most, ((0, 0), (0, -n.outputs % BLOCK)), constant_values=-0x8000) & 0xFFFF
    return whole[:, ::2] | whole[:, 1::2] << 16


def _four(code: int) -> int:
    """A code four times in a word."""
    return int(np.full(4, code, np.int8).view(np.int32)[0])
