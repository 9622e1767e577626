"""A record as one HTML page that needs nothing but itself: no scripts, no fonts, no pictures from elsewhere; light and dark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from karui.report import plots, words
from karui.report.record import Record, Standing, of, read
from karui.workspace import atomic_write

FILE_NAME = "report.html"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One figure before and after, in words; widths are per cent of the larger of the two; ``gain`` as "20.1× smaller"."""

    name: str
    before: str
    after: str
    gain: str
    before_width: float
    after_width: float
    limit: str = ""


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer's figures in words, and its bars as per cent of the largest layer."""

    name: str
    op: str
    params: str
    stored: str
    sparsity: str
    zeros: float
    bits: str
    bytes_before: str
    bytes_after: str
    before_width: float
    after_width: float
    macs_before: str
    macs_after: str
    macs_before_width: float
    macs_after_width: float


def html(facts: Record | Mapping[str, Any]) -> str:
    """The page for a record (or its JSON form); FileError if that is no record."""
    record = of(facts)
    return template("template.html").render(
        record=record,
        words=words,
        created=_date(record.created),
        headline=headline(record),
        pairs=pairs(record),
        interval=_interval(record),
        layers=layer_rows(record),
        candidates=Markup(plots.candidates(record)),  # noqa: S704 (plots escapes what it is given)
        frontier=Markup(plots.frontier(record)),  # noqa: S704
        curves=Markup(plots.curves(record)),  # noqa: S704
    )


def template(name: str) -> jinja2.Template:
    """A page's template, from this folder; what is put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def write(folder: Path) -> Path:
    """Read the record of the run in ``folder`` and write ``report.html`` beside it; returns its path."""
    path = folder / FILE_NAME
    atomic_write(path, html(read(folder)))
    return path


def headline(record: Record) -> str:
    """The result in one sentence: "20.6× smaller, 2.58× faster, −0.08 points of accuracy"."""
    before, after, target = record.baseline, record.final, record.budget.target
    parts = []
    if smaller := words.times(before.bytes.get(target), after.bytes.get(target)):
        parts.append(_gain(smaller, "smaller", "larger"))
    if faster := words.times(before.latency_ms, after.latency_ms):
        parts.append(_gain(faster, "faster", "slower"))
    if before.accuracy is not None and after.accuracy is not None:
        parts.append(f"{words.points(after.accuracy - before.accuracy, record.metric.unit)} of {record.metric.name}")
    return ", ".join(parts) or "nothing was measured"


def _gain(factor: float, less: str, more: str) -> str:
    if abs(factor - 1) < 0.005:
        return f"no {less}"
    return f"{words.ratio(factor)} {less}" if factor > 1 else f"{words.ratio(1 / factor)} {more}"


def pairs(record: Record) -> list[Pair]:
    """Costs before and after: the artefacts' bytes (the budget's target first), latency, peak RAM, parameters, MACs; measured ones only."""
    before, after, budget = record.baseline, record.final, record.budget
    rows: list[tuple[str, float | None, float | None, Callable[[float | None], str], float | None]]
    names = sorted({*before.bytes, *after.bytes}, key=lambda name: (name != budget.target, name))
    rows = [
        (
            f"bytes, {_artefact(name)}",
            before.bytes.get(name),
            after.bytes.get(name),
            words.size,
            budget.bytes if name == budget.target else None,
        )
        for name in names
    ]
    rows += [
        ("latency", before.latency_ms, after.latency_ms, words.milliseconds, budget.latency_ms),
        ("peak RAM", before.peak_ram, after.peak_ram, words.size, budget.peak_ram),
        ("parameters", before.params, after.params, words.amount, None),
        ("MACs", before.macs, after.macs, words.amount, None),
    ]
    return [_pair(*row) for row in rows if row[1] is not None or row[2] is not None]


def _artefact(target: str) -> str:
    return {"c": "compiled C", "onnx": "ONNX file", "litert": ".tflite file", "karui": ".karui file"}.get(target, target)


def _pair(name: str, before: float | None, after: float | None, write: Callable[[float | None], str], limit: float | None) -> Pair:
    factor = words.times(before, after)
    less, more = ("faster", "slower") if name.startswith("latency") else ("smaller", "larger") if "bytes" in name else ("less", "more")
    largest = max(before or 0, after or 0) or 1
    return Pair(
        name=name,
        before=write(before),
        after=write(after),
        gain=_gain(factor, less, more).replace("no less", "the same").replace("no smaller", "the same") if factor else "",
        before_width=100 * (before or 0) / largest,
        after_width=100 * (after or 0) / largest,
        limit="" if limit is None else f"limit {write(limit)}",
    )


def _interval(record: Record) -> list[tuple[str, Standing, float, float, float]]:
    """Name, standing, and left, width, middle of its interval in per cent of a common scale; [] if nothing was judged."""
    rows = [("before", record.baseline), ("control", record.control), ("after", record.final)]
    judged = [(name, s, s.accuracy, s.low, s.high) for name, s in rows if s is not None and s.accuracy is not None]
    if not judged:
        return []
    ends = [v for _, _, middle, low, high in judged for v in (middle, low, high) if v is not None]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    low, span = low - 0.15 * span, 1.3 * span

    def at(value: float) -> float:
        return 100 * (value - low) / span

    placed = []
    for name, standing, middle, bottom, top in judged:
        left, right = at(middle if bottom is None else bottom), at(middle if top is None else top)
        placed.append((name, standing, left, right - left, at(middle)))
    return placed


def layer_rows(record: Record) -> list[LayerRow]:
    """The layers in the network's order."""
    most_bytes = max((max(row.bytes_before, row.bytes_after or 0) for row in record.layers), default=0) or 1
    most_macs = max((max(row.macs, row.macs_after or 0) for row in record.layers), default=0) or 1
    rows = []
    for layer in record.layers:
        after = layer.bytes_before if layer.bytes_after is None else layer.bytes_after
        macs = layer.macs if layer.macs_after is None else layer.macs_after
        rows.append(
            LayerRow(
                name=layer.name,
                op=layer.op,
                params=words.amount(layer.params),
                stored=words.amount(layer.params if layer.stored is None else layer.stored),
                sparsity=words.percent(layer.sparsity),
                zeros=100 * layer.sparsity,
                bits=f"{layer.bits:g}",
                bytes_before=words.size(layer.bytes_before),
                bytes_after=words.size(after),
                before_width=100 * layer.bytes_before / most_bytes,
                after_width=100 * after / most_bytes,
                macs_before=words.amount(layer.macs),
                macs_after=words.amount(macs),
                macs_before_width=100 * layer.macs / most_macs,
                macs_after_width=100 * macs / most_macs,
            )
        )
    return rows


def _date(created: str) -> str:
    try:
        return datetime.fromisoformat(created).strftime("%-d %B %Y, %H:%M")
    except ValueError:
        return created
