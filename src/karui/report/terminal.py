"""The same record as tables in the terminal; and what ``analyse`` and ``bench`` have to say."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from karui.export.ceilings import PATHS, PEAKS
from karui.export.ceilings import Table as Ceilings
from karui.report import words
from karui.report.page import headline, pairs
from karui.report.record import Bench, Candidate, Placed, Record, of


def show(facts: Record | Mapping[str, Any], console: Console, *, layers: bool = False) -> None:
    """Headline, costs, candidates and verdict of a run; ``layers`` adds the table per layer."""
    record = of(facts)
    console.print()
    console.print(Text(record.name, style="bold"), Text(f" {record.network} · {record.data}", style="dim"))
    console.print(Text(headline(record), style="bold cyan"))
    console.print(_summary(record))
    for each in record.exits:
        console.print(Text(words.leaving(each.name, each.share, each.macs), style="dim"))
    if record.candidates:
        console.print(_candidates(record))
    if layers and record.layers:
        console.print(_layers(record))
    if record.bench:
        console.print(bench(record.bench))
    for row in record.parity:
        told = f"{row.runner} {words.parity(row.ok, row.differing, row.greatest)}, held against the interpreter on {row.samples} samples"
        console.print(Text(told, style="red" if row.ok is False else "dim"))
    _verdict(record, console)
    for target, path in record.artefacts.items():
        console.print(Text(f"  {target:<8}", style="dim"), Text(path), sep="", soft_wrap=True)


def analysis(facts: Mapping[str, Any], *, title: str) -> Table:
    """Layers as the analysis sees them (``analyse.cost.Report.as_dict()``), with a line of totals."""
    table = _table("layer", "op", "output", "params", "MACs", "weights", "activations", right=4, title=title)
    for row in facts["layers"]:
        shape = " × ".join(str(n) for n in row["output_shape"])
        table.add_row(
            str(row["name"]),
            str(row["op"]),
            shape,
            words.amount(row["params"]),
            words.amount(row["macs"]),
            words.size(row["weight_bytes"]),
            words.size(row["activation_bytes"]),
        )
    table.add_section()
    totals = words.amount(facts["params"]), words.amount(facts["macs"]), words.size(facts["weight_bytes"])
    table.add_row("total", "", "", *totals, words.size(facts["peak"]["nbytes"]), style="bold")
    table.caption = f"activations in all: the most that live at once, at {facts['peak']['layer'] or 'the input'}"
    return table


def findings(found: Iterable[tuple[str, str, str]], console: Console) -> None:
    """What the doctor says, line by line as it is found: (what was tried, "yes", "partly" or "no", why)."""
    marks = {"yes": "green", "partly": "yellow", "no": "red"}
    for subject, verdict, why in found:
        console.print(Text(f"  {subject:<8}"), Text(f"{verdict:<8}", style=marks[verdict]), Text(why, style="dim"), sep="", soft_wrap=True)


def bench(rows: Sequence[Bench | Mapping[str, Any]]) -> Table:
    """Bytes and latency of each form under each runner, measured in one run."""
    table = _table("runs on", "form", "bytes", "median", "10 % … 90 %", right=3, title="Measured in one run: one sample, one thread")
    for row in rows:
        r = row if isinstance(row, Bench) else Bench.model_validate(row)
        table.add_row(r.runner, r.form, words.size(r.bytes), words.milliseconds(r.median_ms), _spread(r))
        if r.note:
            table.caption = f"{table.caption or ''}{r.form}: {r.note}\n"
    return table


def ceilings(table: Ceilings) -> dict[str, str]:
    """A machine's table in words: what its processor can do, what our dense kernel reaches, how well the costs fit."""
    peaks, c = table.ceilings, table.costs
    found = {"processor": table.processor, "measured": "yes" if table.measured else f"no: {table.source}"}
    found |= {name: f"{peaks[name]:.1f} MAC/ns" for name in PEAKS if name in peaks}
    found |= {name: f"{peaks[name]:.1f} B/ns" for name in PATHS if name in peaks}
    if c.get("panels.mac"):
        found["our dense int8"] = f"{1 / c['panels.mac']:.1f} MAC/ns where it is longest"
    if table.error is not None:
        found["fit"] = f"times differ from the table's by {table.error:.0%} (median)"
    return found


def places(rows: Sequence[Placed]) -> Table:
    """Each form at each place, in 80 columns; what takes a sentence stands under the table."""
    table = _table("place", "form", "bytes", "arena", "median", "10 % … 90 %", "equal", right=3)
    table.columns[0].min_width, table.columns[1].no_wrap, table.columns[-1].justify = 9, True, "left"
    table.collapse_padding, table.show_edge = True, False
    below: list[str] = []
    for r in rows:
        told = [words.milliseconds(r.median_ms), _spread(r)]
        if r.median_ms is None and not r.note:
            told = ["emulated", words.MISSING if r.instructions is None else f"{words.amount(r.instructions)} instr."]
        table.add_row(r.place, r.form, words.size(r.bytes), words.size(r.arena), *told, _equal(r))
        below += [f"{r.place}: {r.about}, C for {r.machine}"] if r.about else []
        below += [r.note if r.place in r.note else f"{r.place}: {r.note}"] if r.note else []
        if r.parity and r.parity.ok is False:
            below.append(f"{r.place}, {r.form}: {words.parity(r.parity.ok, r.parity.differing, r.parity.greatest)}")
    table.caption, table.caption_justify = Text("\n".join(dict.fromkeys(below))), "left"
    return table


def _equal(row: Placed) -> Text:
    """Whether the answers are the interpreter's, and if floats need not be, how near they come."""
    if row.parity is None:
        return Text("failed", "red") if row.note else Text(words.MISSING)
    if row.parity.ok is False:
        return Text("no", "red")
    return Text("yes" if not row.parity.greatest else f"± {row.parity.greatest:.0e}")


def _spread(row: Bench | Placed) -> str:
    if row.p10_ms is None:
        return words.MISSING
    low, high = words.milliseconds(row.p10_ms), words.milliseconds(row.p90_ms)
    (number, unit), same = low.split(), high.split()[-1]
    return f"{number if unit == same else low} … {high}"


def _table(*columns: str, right: int, title: str | None = None) -> Table:
    """A plain table; the figures' columns, aligned right, start at column ``right``, counted from one."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for n, name in enumerate(columns, 1):
        figures = n >= right and name not in ("outcome", "")
        table.add_column(name, justify="right" if figures else "left", no_wrap=figures, overflow="fold")
    return table


def _summary(record: Record) -> Table:
    table = _table("", "before", "after", "gain", "limit", right=2)
    before, after, unit = record.baseline, record.final, record.metric.unit
    if before.accuracy is not None or after.accuracy is not None:
        lost = None if before.accuracy is None or after.accuracy is None else after.accuracy - before.accuracy
        limit = (
            ""
            if record.budget.drop is None
            else f"−{record.budget.drop:g}"
            if record.metric.higher_is_better
            else f"+{record.budget.drop:g}"
        )
        table.add_row(
            f"{record.metric.name} (test)",
            words.score(before.accuracy, unit),
            words.score(after.accuracy, unit),
            words.points(lost, unit),
            limit,
        )
        table.add_row("  95 % interval", _interval(record, "baseline"), _interval(record, "final"), "", "", style="dim")
        if record.control is not None and record.control.accuracy is not None and before.accuracy is not None:
            dense = record.control.accuracy
            gain = words.points(dense - before.accuracy, unit)
            table.add_row("  control: dense, same training", "", words.score(dense, unit), gain, "", style="dim")
    for pair in pairs(record):
        table.add_row(pair.name, pair.before, pair.after, pair.gain, pair.limit.removeprefix("limit "))
    return table


def _interval(record: Record, which: str) -> str:
    standing = getattr(record, which)
    return (
        ""
        if standing.low is None or standing.high is None
        else words.between(standing.low, standing.high, record.metric.unit).removesuffix(" %")
    )


def _candidates(record: Record) -> Table:
    """Peak RAM and latency have their columns where the budget limits them."""
    budget = record.budget
    limited = {"peak RAM": budget.peak_ram is not None, "latency": budget.latency_ms is not None}
    names = [name for name, shown in limited.items() if shown]
    table = _table("#", "candidate", "validation", "bytes", *names, "outcome", right=3, title="What was tried")
    for n, candidate in enumerate(record.candidates, 1):
        mark, style = _outcome(candidate, record)
        figures = {"peak RAM": words.size(candidate.cost.peak_ram), "latency": words.milliseconds(candidate.cost.latency_ms)}
        table.add_row(
            str(n),
            candidate.name,
            words.score(candidate.validation, record.metric.unit),
            words.size(candidate.cost.bytes),
            *(figures[name] for name in names),
            f"{mark} {candidate.reason}".rstrip(),
            style=style,
        )
    return table


def _outcome(candidate: Candidate, record: Record) -> tuple[str, str]:
    if candidate.name == record.winner:
        return "✓ chosen:", "bold green"
    if candidate.fits is None:
        return "–", "dim"
    return ("✓", "") if candidate.fits else ("✗", "dim")


def _layers(record: Record) -> Table:
    table = _table("layer", "op", "weights", "kept", "zeros", "bits", "bytes before", "bytes after", right=3, title="Layer by layer")
    for layer in record.layers:
        table.add_row(
            layer.name,
            layer.op,
            words.amount(layer.params),
            words.amount(layer.params if layer.stored is None else layer.stored),
            words.percent(layer.sparsity),
            f"{layer.bits:g}",
            words.size(layer.bytes_before),
            words.size(layer.bytes_before if layer.bytes_after is None else layer.bytes_after),
        )
    return table


def _verdict(record: Record, console: Console) -> None:
    ok = record.verdict.ok
    console.print(Text("✓ inside the budget" if ok else "✗ outside the budget", style="bold green" if ok else "bold red"))
    for line in record.verdict.lines:
        console.print(Text(f"  {line}"), soft_wrap=True)
