"""What a kernel does for an integer layer, counted, and from that how long it takes: by a machine's table, or at best.

Each count has a name; a table says how many ns one of it takes. The same counts are what ``karui calibrate`` fits its measurements with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from karui.export.c_few import Few
from karui.export.c_geometry import Geometry
from karui.export.c_panels import DEEP, WIDE, Numbers
from karui.export.c_weights import Coded
from karui.export.ceilings import Table

EIGHT = 8  # pixels that panels take at a time
NEAR = 1 << 18  # bytes of weights that a second-level cache keeps from one sample to the next, on the smallest of the machines

KERNELS = ("panels", "few", "listed", "depth", "rows", "lists")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An integer layer with one multiplier a channel.

    tile: rows that ``rows`` and ``lists`` decode at a time, each. few: its weights as numbers of few bits, where they can be and, of a
    depthwise layer, are.
    """

    g: Geometry
    w: Coded
    numbers: Numbers | None
    tiles: Mapping[str, int]
    few: Few | None = None

    @property
    def macs(self) -> int:
        """Those of the layer in full."""
        return self.w.rows * self.w.inputs * self.g.pixels


def counts(layer: Layer, kernel: str) -> dict[str, float]:
    """What a kernel of ``KERNELS`` does for a layer, by name."""
    g, w = layer.g, layer.w
    if kernel in ("rows", "lists"):
        passes = -(-w.rows // max(1, layer.tiles[kernel])) if g.pixels > 1 else g["groups"]
        found: dict[str, float] = {"patch": w.inputs * g.pixels * passes, "pixel": w.rows * g.pixels, "call": 1}
        found[f"{kernel}.mac"] = w.stored * g.pixels if kernel == "lists" else layer.macs
        return found | _decoding(w) | ({"rows.fill": w.rows * w.inputs} if kernel == "rows" and not w.in_place else {})
    n = layer.numbers
    assert n is not None
    pixels = 1 if g.pixels == 1 else -(-g.pixels // EIGHT) * EIGHT
    found = {"copied": n.copy, "stored": n.groups * n.each * WIDE * g.pixels, "call": 1}
    if kernel == "depth":
        found["depth.mac"] = w.inputs * -(-w.rows // WIDE) * WIDE * pixels
    elif kernel == "listed":
        found["listed.mac"] = int(n.there.sum()) * WIDE * DEEP * pixels
    else:
        name = "panels.one" if pixels == 1 else "panels.mac"
        found[name] = n.groups * n.each * WIDE * n.fields["runs_y"] * n.fields["runs_x"] * n.fields["fours"] * DEEP * pixels
        found["panels.tile"] = n.groups * -(-n.each // 2) * pixels * n.fields["runs_y"] * n.fields["runs_x"]
    if kernel == "listed":
        return found
    if kernel == "few" or (kernel == "depth" and layer.few is not None):
        return _opened(layer, found)
    return found | _decoding(w) | ({} if w.in_place else {"panels.fill": w.rows * w.inputs})


def _opened(layer: Layer, found: dict[str, float]) -> dict[str, float]:
    """Panels of few bits: opened once and then as others are, or, for one pixel, as they meet it."""
    assert layer.few is not None
    bits, weights = layer.few.bits, float(layer.few.codes.nbytes * 8 // layer.few.bits)
    if layer.g.pixels > 1 or layer.g.depthwise:
        if layer.few.room and "panels.mac" in found:  # sums of 16 bits, where there are instructions for them
            found["few.mac"] = found.pop("panels.mac")
        return found | {f"few.open{bits}": weights}
    others = {name: n for name, n in found.items() if not name.startswith("panels.")}
    return others | {f"few.{'one' if layer.few.room else 'wide'}{bits}": weights}


def _decoding(w: Coded) -> dict[str, float]:
    """What the two decoders of a weight do."""
    if w.in_place:
        return {}
    found = {f"codes.{str(w.fields['codes']).removeprefix('k_codes_')}": float(w.stored)}
    if "where" in w.fields:
        kind = str(w.fields["where"]).removeprefix("k_where_")
        found[f"where.{kind}"] = float(w.rows * w.inputs if kind == "bitmask" else w.stored)
    return found


def predicted(counted: Mapping[str, float], table: Table) -> float | None:
    """Nanoseconds, or None where the table lacks a cost."""
    if any(name not in table.costs for name in counted):
        return None
    return sum(table.costs[name] * n for name, n in counted.items())


def at_best(macs: float, nbytes: float, table: Table) -> float:
    """Nanoseconds that a layer of integers takes at least: its sums at the ceiling, or its weights from where they fit."""
    paths = table.ceilings
    read = nbytes / (paths["l2"] if nbytes <= NEAR else paths["dram"]) if "l2" in paths and "dram" in paths else 0.0
    return float(np.maximum(macs / paths["int8"], read))
