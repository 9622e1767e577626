"""Pictures as SVG text: candidates (size against score), bits (bytes against harm), training curves. Colours are the page's CSS classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import ceil, floor, log10

from karui.report import words
from karui.report.record import Candidate, Point, Record

WIDTH, HEIGHT = 960, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 16, 44


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values to pixels: ``low`` at pixel ``start``, ``high`` at ``stop``; ``log`` for a logarithmic one."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high, here = (log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (self.stop - self.start) * (here - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values inside the axis, four to eight of them."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def _linear_ticks(low: float, high: float) -> list[float]:
    step = 10 ** floor(log10((high - low) / 4))
    step *= next((k for k in (1, 2, 2.5, 5) if (high - low) / (step * k) <= 6), 10)
    return [step * k for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    for leads in ((1, 2, 5), (1, 3), (1,)):
        marks = [lead * 10.0**p for p in range(floor(log10(low)), ceil(log10(high)) + 1) for lead in leads]
        inside = [mark for mark in marks if low <= mark <= high]
        if len(inside) <= 8:
            break
    return inside


def _span(values: Sequence[float], margin: float = 0.08) -> tuple[float, float]:
    """The values' range with a margin; a single value gets room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _svg(title: str, description: str, body: Iterable[str], height: float = HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}: {escape(description)}">'
    return "\n".join([head, f"<title>{escape(title)}</title>", *body, "</svg>"])


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _grid(x: Axis, y: Axis, x_words: Sequence[str], y_words: Sequence[str], names: tuple[str, str]) -> list[str]:
    """Grid lines, tick labels and the axes' names. Pixels of ``y`` grow downwards, so its ``start`` is the bottom."""
    parts = [_line(x.start, y.at(tick), x.stop, y.at(tick), "grid") for tick in y.ticks()]
    parts += [_text(x.start - 8, y.at(tick) + 4, label, "tick", "end") for tick, label in zip(y.ticks(), y_words)]
    parts += [_text(x.at(tick), y.start + 18, label, "tick") for tick, label in zip(x.ticks(), x_words)]
    parts.append(_line(x.start, y.start, x.stop, y.start, "axis"))
    parts.append(_text(x.stop, y.start + 36, names[0], "name", "end"))
    parts.append(_text(x.start + 4, y.stop - 4, names[1], "name", "start"))
    return parts


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    """As few decimals as tell the ticks apart."""
    for digits in range(5):
        labels = [f"{tick:,.{digits}f}" for tick in ticks]
        if len(set(labels)) == len(labels) and all(abs(float(s.replace(",", "")) - t) < 1e-6 for s, t in zip(labels, ticks)):
            return labels
    return [f"{tick:.3g}" for tick in ticks]


# ── Candidates ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def candidates(record: Record) -> str:
    """Bytes (logarithmic) against the validation score, numbered as in the table; '' with fewer than two measured candidates."""
    shown = [(n, c) for n, c in enumerate(record.candidates, 1) if c.validation is not None and c.cost.bytes]
    if len(shown) < 2:
        return ""
    sizes = [float(c.cost.bytes or 1) for _, c in shown] + ([float(record.budget.bytes)] if record.budget.bytes else [])
    least = _least_score(record)
    scores = [c.validation or 0.0 for _, c in shown] + ([least] if least is not None else [])
    x = Axis(low=min(sizes) / 1.35, high=max(sizes) * 1.35, start=LEFT, stop=WIDTH - RIGHT, log=True)
    low, high = _span(scores, 0.12)
    y = Axis(low=low, high=high, start=HEIGHT - BOTTOM, stop=TOP)
    unit = f", {record.metric.unit}" if record.metric.unit else ""
    names = ("bytes of the artefact, logarithmic", f"{record.metric.name} on validation{unit}")
    parts = _budget_area(record, x, y, least)
    parts += _grid(x, y, [words.size(t).replace(".00 ", " ").replace(".0 ", " ") for t in x.ticks()], _tick_labels(y.ticks()), names)
    parts += [_dot(n, c, x, y, record) for n, c in shown]
    return _svg("Candidates", f"{len(shown)} candidates by size and {record.metric.name}; the same figures stand in the table", parts)


def _least_score(record: Record) -> float | None:
    """The worst validation score that the budget allows, where the record has what it takes to say."""
    start, drop = record.baseline.validation, record.budget.drop
    if start is None or drop is None:
        return None
    return start - drop if record.metric.higher_is_better else start + drop


def _budget_area(record: Record, x: Axis, y: Axis, least: float | None) -> list[str]:
    right = x.at(record.budget.bytes) if record.budget.bytes else x.stop
    edge = y.at(least) if least is not None else (y.start if record.metric.higher_is_better else y.stop)
    top, bottom = sorted((edge, y.stop if record.metric.higher_is_better else y.start))
    if record.budget.bytes is None and least is None:
        return []
    parts = [f'<rect class="inside" x="{x.start:.1f}" y="{top:.1f}" width="{right - x.start:.1f}" height="{bottom - top:.1f}"/>']
    parts.append(_text(x.start + 8, bottom - 8, "inside the budget", "inside-name", "start"))
    if record.budget.bytes:
        parts.append(_line(right, y.start, right, y.stop, "limit"))
    if least is not None:
        parts.append(_line(x.start, edge, x.stop, edge, "limit"))
    return parts


def _dot(number: int, candidate: Candidate, x: Axis, y: Axis, record: Record) -> str:
    kind = "winner" if candidate.name == record.winner else "fits" if candidate.fits else "misses"
    cx, cy = x.at(float(candidate.cost.bytes or 1)), y.at(candidate.validation or 0.0)
    label = f"{candidate.name}: {words.size(candidate.cost.bytes)}, {words.score(candidate.validation, record.metric.unit)}"
    return (
        f'<g class="dot {kind}"><title>{escape(label)}</title><circle cx="{cx:.1f}" cy="{cy:.1f}" r="11"/>'
        f'<text x="{cx:.1f}" y="{cy + 4:.1f}" text-anchor="middle">{number}</text></g>'
    )


# ── Bits, layer by layer ────────────────────────────────────────────────────────────────────────────────────────────────────────


def frontier(record: Record) -> str:
    """The share of the bytes against the harm of the best choice of bits for it, and what was chosen; '' where bits weren't chosen."""
    if not record.frontier:
        return ""
    shown = [*record.frontier, *([record.bits_chosen] if record.bits_chosen else [])]
    x = Axis(low=0.0, high=100.0, start=LEFT, stop=WIDTH - RIGHT)
    y = Axis(low=0.0, high=max(t.harm for t in shown) * 1.08 or 1.0, start=HEIGHT - BOTTOM, stop=TOP)
    parts = _grid(
        x, y, _tick_labels(x.ticks()), _tick_labels(y.ticks()), ("% of the weights' bytes at the widest", "harm: divergence, added up")
    )
    path = " ".join(f"{x.at(100 * t.share):.1f},{y.at(t.harm):.1f}" for t in record.frontier)
    parts.append(f'<polyline class="curve strong" points="{path}"/>')
    for trade in shown:
        kind = "winner" if trade is record.bits_chosen else "fits"
        label = f"{'chosen: ' if kind == 'winner' else ''}{words.percent(trade.share)} of the bytes, harm {trade.harm:.3g}"
        at = f'cx="{x.at(100 * trade.share):.1f}" cy="{y.at(trade.harm):.1f}"'
        parts.append(f'<g class="dot {kind}"><title>{escape(label)}</title><circle {at} r="{7 if kind == "winner" else 4}"/></g>')
    return _svg("Bits, layer by layer", f"{len(record.frontier)} best choices by bytes and harm, and the one that was made", parts)


# ── Training curves ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def curves(record: Record) -> str:
    """Loss and metric over the epochs of all phases, the winner's strong and the others' faint; '' where nothing was trained."""
    runs = {
        name: _joined(list(points)) for name, points in groupby(sorted(record.history, key=lambda p: p.candidate), lambda p: p.candidate)
    }
    runs = {name: points for name, points in runs.items() if len(points) > 1}
    if not runs:
        return ""
    panel = 230
    unit = f", {record.metric.unit}" if record.metric.unit else ""
    wanted = (("loss", "training loss"), ("metric", f"{record.metric.name} on validation{unit}"))
    panels = [(field, label) for field, label in wanted if sum(len(_series(points, field)) > 1 for points in runs.values())]
    parts = [part for row, (field, label) in enumerate(panels) for part in _panel(record, runs, field, label, row * panel, panel)]
    return _svg("Training curves", f"{len(runs)} trained candidates over their epochs", parts, panel * len(panels)) if panels else ""


Curve = list[tuple[float, Point]]


def _joined(points: list[Point]) -> Curve:
    """Phase after phase along one axis: epochs are counted from each phase's start."""
    curve: Curve = []
    offset = 0.0
    for _, phase in groupby(sorted(points, key=lambda p: (p.phase, p.epoch)), lambda p: p.phase):
        members = list(phase)
        curve += [(offset + point.epoch, point) for point in members]
        offset += members[-1].epoch
    return curve


def _series(curve: Curve, field: str) -> list[tuple[float, float]]:
    return [(epoch, value) for epoch, point in curve if (value := getattr(point, field)) is not None]


def _panel(record: Record, runs: dict[str, Curve], field: str, label: str, top: float, height: float) -> list[str]:
    series = {name: _series(curve, field) for name, curve in runs.items()}
    values = [value for points in series.values() for _, value in points]
    longest = max(epoch for points in series.values() for epoch, _ in points)
    x = Axis(low=0.0, high=longest or 1.0, start=LEFT, stop=WIDTH - RIGHT)
    low, high = _span(values)
    y = Axis(low=low, high=high, start=top + height - BOTTOM, stop=top + TOP + 6)
    parts = _grid(x, y, _tick_labels(x.ticks()), _tick_labels(y.ticks()), ("epochs", label))
    strong = record.winner if record.winner in series else next(iter(series))
    parts += _phase_marks(runs[strong], x, y)
    for name in sorted(series, key=lambda name: name == strong):  # the strong one last, on top
        path = " ".join(f"{x.at(epoch):.1f},{y.at(value):.1f}" for epoch, value in series[name])
        kind = "strong" if name == strong else "faint"
        parts.append(f'<polyline class="curve {kind}" points="{path}"><title>{escape(name)}</title></polyline>')
    return parts


def _phase_marks(curve: Curve, x: Axis, y: Axis) -> list[str]:
    """A dashed line where a phase of the strong curve begins, but the first."""
    parts: list[str] = []
    for (end, before), (_, after) in zip(curve, curve[1:]):
        if before.phase != after.phase:
            parts.append(_line(x.at(end), y.start, x.at(end), y.stop, "phase"))
            parts.append(_text(x.at(end) + 5, y.stop + 15, f"phase {after.phase + 1}", "tick", "start"))
    return parts
