"""Which kernel computes an integer layer, by a machine's table; and which forms of weights are refused, as int8 is faster there.

Every choice gives the same integers. Without a table the usual rules decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from karui.export.c_cost import Layer, at_best, counts, predicted
from karui.export.c_few import near
from karui.export.c_weights import Coded, in_full
from karui.export.ceilings import Table
from karui.program.program import AffineValues, CodebookValues, Dense, Op, SignValues, TernaryValues, Weight

MARGIN = 1.05  # a form is slower where it takes that much longer: predictions aren't exact


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A layer, the kernel that computes it, and its time in ms: predicted (None: the table has no costs), and at the machine's ceilings."""

    layer: str
    kernel: str
    predicted_ms: float | None
    best_ms: float


@dataclass(kw_only=True)
class Planner:
    """The choices of one model. keep_forms: weights stay in their form even where that is slower than int8.

    forced: output of an op → kernel, whatever a table says; counted: what each of those does. layers, remarks: what was chosen by the
    table, and what has to be said aloud.
    """

    table: Table | None = None
    keep_forms: bool = False
    forced: Mapping[str, str] = field(default_factory=dict)
    counted: list[Mapping[str, float]] = field(default_factory=list)
    layers: list[Planned] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """A model is written, perhaps for the second time: nothing is chosen yet."""
        self.counted.clear()
        self.layers.clear()
        self.remarks.clear()

    def choose(self, op: Op, weight: Weight, layer: Layer, usual: str) -> tuple[str, Coded]:
        """A kernel of ``c_cost.KERNELS``, and the weight as it is to be stored. usual: the kernel without a table."""
        if kernel := self.forced.get(op.outputs[0]):
            self.counted.append(counts(layer, kernel))
            return kernel, layer.w
        if self.table is None:
            return usual, layer.w
        kernel, w = usual, layer.w
        times = self._times(layer, () if usual == "depth" else _candidates(layer))
        if times and (usual != "few" or usual in times):
            kernel = min(times, key=lambda each: times[each])
            full = None if w.in_place else in_full(weight)
            whole = {} if full is None else self._times(replace(layer, w=full), ("panels", "rows") if layer.numbers else ("rows",))
            if full is not None and whole and min(whole.values()) * MARGIN < times[kernel]:
                kernel, w, times = self._refuse(op, weight, layer, full, times, whole)
        else:
            times = {}
        took = times.get(kernel) if times else predicted(counts(layer, kernel), self.table) if usual == "depth" else None
        best = at_best(layer.macs, _nbytes(layer, kernel, w), self.table)
        ms = None if took is None else max(took, best) / 1e6
        self.layers.append(Planned(layer=op.name, kernel=kernel, predicted_ms=ms, best_ms=best / 1e6))
        return kernel, w

    def facts(self) -> dict[str, Any]:
        """What an artefact says of it."""
        if self.table is None:
            return {}
        layers = [vars(each) for each in self.layers]
        return {"layers": layers, "remarks": list(self.remarks), "measured": self.table.measured, "processor": self.table.processor}

    def _times(self, layer: Layer, kernels: tuple[str, ...]) -> dict[str, float]:
        assert self.table is not None
        found = {kernel: predicted(counts(layer, kernel), self.table) for kernel in kernels}
        return {kernel: ns for kernel, ns in found.items() if ns is not None}

    def _refuse(
        self, op: Op, weight: Weight, layer: Layer, full: Coded, times: dict[str, float], whole: dict[str, float]
    ) -> tuple[str, Coded, dict[str, float]]:
        """Say that int8 would be faster, and take it, unless forms are kept."""
        assert self.table is not None
        kernel, fastest = min(times, key=lambda each: times[each]), min(whole, key=lambda each: whole[each])
        small, large = _nbytes(layer, kernel, layer.w), _nbytes(layer, fastest, full)
        said = f"{op.name}: {form_of(weight)} are slower than int8 on {self.table.machine}"
        said += f" (predicted {whole[fastest] / times[kernel]:.2f}x)"
        if self.keep_forms:
            self.remarks.append(f"{said}; kept for their {small} bytes instead of {large}")
            return kernel, layer.w, times
        few = layer.few
        instead = {} if few is None else self._times(layer, ("few",))
        if few is not None and instead and instead["few"] <= whole[fastest] * MARGIN:
            self.remarks.append(f"{said}; stored in panels of {few.bits} bits, {few.nbytes} bytes instead of {small}")
            return "few", layer.w, instead
        self.remarks.append(f"{said}; stored as int8, {large} bytes instead of {small}")
        return fastest, full, whole


def _nbytes(layer: Layer, kernel: str, w: Coded) -> int:
    """Bytes of a weight as a kernel reads it."""
    return layer.few.nbytes if kernel == "few" and layer.few else sum(a.nbytes for a in w.tables.values())


def form_of(weight: Weight) -> str:
    """A weight's form in words: "1-bit weights", "weights of which 40% are zero"."""
    v, words = weight.values, "weights"
    if isinstance(v, SignValues):
        words = "1-bit weights"
    elif isinstance(v, TernaryValues):
        words = "ternary weights"
    elif isinstance(v, CodebookValues):
        words = f"weights with a palette of {len(v.codebook)}"
    elif isinstance(v, AffineValues) and v.bits < 8:
        words = f"{v.bits}-bit weights"
    if isinstance(weight.support, Dense):
        return words
    return f"{words} of which {1 - weight.stored / np.prod(weight.shape):.0%} are zero"


def _candidates(layer: Layer) -> tuple[str, ...]:
    """The kernels that can compute it from the weight as it is stored."""
    w, found = layer.w, ["rows"]
    if layer.numbers is not None:
        found.append("panels")
        if layer.few is not None and near(layer.few, w):
            found.append("few")
        if w.fields.get("codes") == "k_codes_bytes" and not layer.numbers.there.all():
            found.append("listed")
    if w.sparse:
        found.append("lists")
    return tuple(found)
