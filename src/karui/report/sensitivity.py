"""What each layer bears, as facts, as one HTML page with a heat map, and as a table in the terminal."""

import json
from collections.abc import Sequence
from math import floor, log10, sqrt
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from karui.errors import FileError
from karui.report import words
from karui.report.heatmap import Line, Tile, heat_map
from karui.report.page import template
from karui.report.record import Facts, MetricFacts, Number
from karui.workspace import atomic_write

FORMAT_VERSION = 1
FILE_NAME, PAGE_NAME = "sensitivity.json", "sensitivity.html"


class Cell(Facts):
    """One layer at one level. reached: the level in whole weights or channels; value: the score; loss: what it cost, negative for a gain.

    value and loss are in the metric's unit, None where the score was not finite.
    """

    level: float
    reached: float
    value: Number = None
    loss: Number = None


class Row(Facts):
    """One layer at every level, the gentlest first. size: how many weights (or what else is counted) it has.

    bears: the last of its levels that costs no more than the drop; None where none does.
    """

    layer: str
    size: int
    cells: list[Cell]
    bears: float | None = None


class Sensitivity(Facts):
    """A whole scan: every row has the same levels. level: what they are levels of; counted: what ``size`` counts.

    method: what was done to each layer, in words. baseline: the score of the network as it is, on ``samples`` of the validation part.
    drop: the loss that ``bears`` allows. left_out: layer → why it can't be changed so. seconds: the time of all measured cells.
    """

    format_version: int = FORMAT_VERSION
    name: str
    created: str
    command: str = ""
    seconds: Number = None
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    seed: int = 0
    data: str
    samples: int
    metric: MetricFacts = MetricFacts()
    method: str
    level: str = "sparsity"
    counted: str = "weights"
    baseline: float
    drop: float
    rows: list[Row]
    left_out: dict[str, str] = {}

    def levels(self, drop: float | None = None) -> dict[str, float]:
        """Layer → the last level that costs it no more than ``drop`` (the scan's own), by itself; layers that bear none are left out."""
        most = {row.layer: bears(row.cells, self.drop if drop is None else drop) for row in self.rows}
        return {layer: level for layer, level in most.items() if level is not None}


def row(
    layer: str, size: int, found: Sequence[tuple[float, float, float | None]], baseline: float, drop: float, metric: MetricFacts
) -> Row:
    """A layer's row from what was found: (level, level reached, score) for each of its levels."""
    sign = 1.0 if metric.higher_is_better else -1.0
    cells = [
        Cell(level=level, reached=reached, value=value, loss=None if value is None else sign * (baseline - value))
        for level, reached, value in found
    ]
    return Row(layer=layer, size=size, cells=cells, bears=bears(cells, drop))


def bears(cells: Sequence[Cell], drop: float) -> float | None:
    """The last level whose loss is at most ``drop``; one that changed nothing (10 % of four channels) is not borne."""
    return next((cell.level for cell in reversed(cells) if cell.reached and fits(cell, drop)), None)


def fits(cell: Cell, drop: float) -> bool:
    """Whether a cell costs no more than ``drop``; a hair more is a rounding of the difference."""
    return cell.loss is not None and cell.loss <= drop + 1e-9


def to_dict(facts: Sensitivity) -> dict[str, Any]:
    """JSON values only."""
    return facts.model_dump(mode="json")


def write(facts: Sensitivity, folder: Path) -> Path:
    """Write ``sensitivity.json`` and the page beside it; returns the page's path."""
    atomic_write(folder / FILE_NAME, json.dumps(to_dict(facts), indent=1, ensure_ascii=False) + "\n")
    atomic_write(folder / PAGE_NAME, html(facts))
    return folder / PAGE_NAME


def read(folder: Path) -> Sensitivity:
    """The facts of the scan in ``folder``. Raises FileError if they are missing or damaged."""
    path = folder / FILE_NAME
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format_version"] != FORMAT_VERSION:
            raise FileError(f"'{path}' has format_version {facts['format_version']}, this karui reads {FORMAT_VERSION}; scan again")
        return Sensitivity.model_validate(facts)
    except FileNotFoundError as error:
        raise FileError(f"'{path}' does not exist; give the folder that 'karui sensitivity -o' wrote, once the scan has ended") from error
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise FileError(f"'{path}' is damaged; run 'karui sensitivity' with the same -o again") from error


def html(facts: Sensitivity) -> str:
    """The page: it needs nothing but itself."""
    return template("sensitivity.html").render(
        facts=facts,
        words=words,
        created=facts.created.partition("T")[0],
        headline=headline(facts),
        within=_within(facts),
        score=lambda value: _bare(value, facts.metric.unit),
        level=lambda value: _level(facts, value),
        change=lambda value: _change(value, facts),
        layer=_layer,
        picture=Markup(picture(facts)),  # noqa: S704 (the picture escapes what it is given)
    )


def headline(facts: Sensitivity) -> str:
    """What the layers bear, in one sentence, from the one that bears least to the one that bears most."""
    ranked = sorted(facts.rows, key=lambda row: -1.0 if row.bears is None else [c.level for c in row.cells].index(row.bears))
    least, most = ranked[0], ranked[-1]
    if most.bears is None:
        return f"No layer bears any of these levels within {_within(facts)}"
    top = f"{_level(facts, most.bears)} ({_layer(most.layer)})"
    if least.bears is None:
        return f"Within {_within(facts)}, one layer at a time: from none of these levels ({_layer(least.layer)}) to {top}"
    if least.bears == most.bears:
        return f"Within {_within(facts)}, one layer at a time: every layer bears {_level(facts, most.bears)}"
    return f"Within {_within(facts)}, one layer at a time: from {_level(facts, least.bears)} ({_layer(least.layer)}) to {top}"


def _within(facts: Sensitivity) -> str:
    return _size(facts.drop, facts.metric.unit)


def _size(value: float, unit: str) -> str:
    """An amount of the metric without a sign: 0.50 points."""
    return words.points(value, unit).lstrip("+±")


def _bare(value: float | None, unit: str) -> str:
    """A score without its unit, which stands above the table."""
    return words.score(value, unit).removesuffix(unit).rstrip()


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _level(facts: Sensitivity, value: float | None) -> str:
    """A share as per cent; anything else (bits) as it is."""
    if value is None:
        return words.MISSING
    return f"{100 * value:.4g} %" if facts.level in ("sparsity", "pruning_ratio") else f"{value:g}"


def _change(loss: float | None, facts: Sensitivity) -> str:
    """A loss as the change of the metric, with its sign, without its unit: −0.35; to a tenth of the drop."""
    if loss is None:
        return words.MISSING
    change = -loss if facts.metric.higher_is_better else loss
    digits = 2 if facts.metric.unit == "%" else min(max(1 - floor(log10(facts.drop)), 0), 9) if facts.drop else 4
    text = f"{abs(change):.{digits}f}"
    return text if float(text) == 0 else f"{'−' if change < 0 else '+'}{text}"


# ── the picture ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def picture(facts: Sensitivity) -> str:
    """Layers down, levels across; each tile holds the metric's change. A frame marks the last level within the drop."""
    worst = max((cell.loss or 0.0 for row in facts.rows for cell in row.cells), default=0.0)
    lines = [
        Line(name=_layer(row.layer), end=words.amount(row.size), tiles=[_tile(facts, row, cell, worst) for cell in row.cells])
        for row in facts.rows
    ]
    return heat_map(
        lines,
        [_level(facts, cell.level) for cell in facts.rows[0].cells],
        title=f"Change of {facts.metric.name}: layers down, {_spoken(facts.level)} across; the same figures stand in the table",
        end=facts.counted,
        good=f"costs {_within(facts)} or less",
        bad=f"costs more, up to {_size(worst, facts.metric.unit)}" if worst > facts.drop else "",
    )


def _tile(facts: Sensitivity, row: Row, cell: Cell, worst: float) -> Tile:
    told = f"{_layer(row.layer)} at {_level(facts, cell.reached)}: {words.score(cell.value, facts.metric.unit)}"
    shade = None if fits(cell, facts.drop) else _shade(cell.loss, facts.drop, worst)
    return Tile(text=_change(cell.loss, facts), told=told, shade=shade, framed=cell.level == row.bears)


def _shade(loss: float | None, drop: float, worst: float) -> float:
    """How bad a loss is, from 0 just beyond the drop to 1 at the worst; the root tells small losses apart, where it matters."""
    return 1.0 if loss is None else sqrt((loss - drop) / (worst - drop))


# ── the terminal ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def show(facts: Sensitivity, console: Console) -> None:
    """The metric of each layer at each level: green within the drop, yellow up to ten times as much, red beyond."""
    score = words.score(facts.baseline, facts.metric.unit)
    console.print(Text(f"{facts.name}: {facts.metric.name} by {_spoken(facts.level)} of one layer", style="bold"))
    console.print(Text(f"{score} as it is, on {facts.samples:,} samples of the validation part; {facts.method}", style="dim"))
    table = _table(facts)
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.print(table if needed <= console.width else _table(facts, sizes=False))
    for layer, reason in facts.left_out.items():
        console.print(Text(f"{_layer(layer)} is left out: {reason}", style="dim"))
    console.print(Text(headline(facts), style="bold cyan"))


def _table(facts: Sensitivity, *, sizes: bool = True) -> Table:
    found = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    found.add_column("layer", overflow="fold")
    for head in (*((facts.counted,) if sizes else ()), *(_level(facts, cell.level) for cell in facts.rows[0].cells), "bears"):
        found.add_column(head, justify="right", no_wrap=True)
    for row in facts.rows:
        scores = [Text(_bare(cell.value, facts.metric.unit), style=_style(cell, facts.drop)) for cell in row.cells]
        size = (words.amount(row.size),) if sizes else ()
        found.add_row(_layer(row.layer), *size, *scores, Text(_level(facts, row.bears), style="bold"))
    return found


def _style(cell: Cell, drop: float) -> str:
    if fits(cell, drop):
        return "green"
    return "yellow" if cell.loss is not None and fits(cell, 10 * drop) else "red"
