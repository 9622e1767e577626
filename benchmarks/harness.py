"""What every benchmark shares: its rows, its command line, its JSON and its table.

``python -m benchmarks.NAME [--quick] --json FILE`` writes ``{"machine", "versions", "command", "rows": […]}``. ``case`` starts with the
number of the line it answers; ``goal`` is the figure that was asked for, never changed; a missed goal stays ``"ok": false``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from karui.errors import DataError
from karui.run.machine import machine, versions
from karui.run.measure import require_quiet
from karui.workspace import atomic_write

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. ``ok`` None: there is no goal, or the row was skipped (then ``figure`` says why).

    spread: the standard deviation over ``seeds``; of a timing, the way from the 10th to the 90th percentile.
    """

    case: str
    figure: str
    value: float | str | None
    unit: str = ""
    peer: str | None = None
    seeds: int = 1
    spread: float | None = None
    goal: str | None = None
    ok: bool | None = None


def at_most(case: str, figure: str, value: float, limit: float, unit: str = "", **more: object) -> Row:
    """A row whose goal is ``value ≤ limit``."""
    return Row(case=case, figure=figure, value=value, unit=unit, goal=f"≤ {limit:g}", ok=value <= limit, **more)  # type: ignore[arg-type]


def at_least(case: str, figure: str, value: float, limit: float, unit: str = "", **more: object) -> Row:
    """A row whose goal is ``value ≥ limit``."""
    return Row(case=case, figure=figure, value=value, unit=unit, goal=f"≥ {limit:g}", ok=value >= limit, **more)  # type: ignore[arg-type]


def skipped(case: str, reason: str) -> Row:
    """A row that could not be measured here."""
    return Row(case=case, figure=f"skipped: {reason}", value=None)


Measure = Callable[[bool], Iterable[Row]]
Page = Callable[[dict[str, str], str, Sequence[Row]], str]


def main(name: str, measure: Measure | Mapping[str, Measure], *, timings: bool | Collection[str], page: Page | None = None) -> None:
    """Run a benchmark from the command line.

    measure: gives the rows; or the numbers of the lines it answers, each with what gives its rows: then ``--only`` measures some and leaves
    the others in the file as they are. timings: whether it refuses a busy machine, or which lines do. All of a file's timings are one
    machine's, which the file names; counts and accuracies may be measured again on another. page: what makes the Markdown beside the JSON,
    of the machine, the command and the rows; ``table`` where it is left out.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="measure the committed networks again, in under a minute")
    parser.add_argument("--json", type=Path, default=None, help="where to write the rows")
    lines = measure if isinstance(measure, Mapping) else {}
    parser.add_argument(
        "--only", nargs="+", choices=list(lines), default=None, help="these lines; the file's others stay"
    ) if lines else None
    arguments = parser.parse_args()
    only: list[str] | None = getattr(arguments, "only", None)
    timed = timings is True or bool(timings and set(timings) & set(only or lines))
    if timed:
        require_quiet()
    where, kept = machine(), list[Row]()
    if only and arguments.json and arguments.json.exists():
        where, kept = _others(arguments.json, only, timed=timed, timings=() if isinstance(timings, bool) else timings)
    command = " ".join(["python", "-m", f"benchmarks.{name}", *(["--quick"] if arguments.quick else [])])
    rows: list[Row] = []
    parts = [each for number, each in lines.items() if only is None or number in only] if isinstance(measure, Mapping) else [measure]
    for row in (row for part in parts for row in part(arguments.quick)):
        print(line(row), flush=True)
        rows.append(row)
        if arguments.json:  # after each row: what a stopped run has measured stays
            _write(arguments.json, where, command, sorted([*kept, *rows], key=lambda row: row.case.partition(" ")[0]), page or table)
    sys.exit(1 if any(row.ok is False for row in rows) else 0)


def _write(file: Path, where: dict[str, str], command: str, rows: Sequence[Row], page: Page) -> None:
    found = {"machine": where, "versions": versions(), "command": command, "rows": [asdict(row) for row in rows]}
    atomic_write(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if file.parent.resolve() == RESULTS:
        atomic_write(file.with_suffix(".md"), page(where, command, rows))


def _others(file: Path, only: Collection[str], *, timed: bool, timings: Collection[str]) -> tuple[dict[str, str], list[Row]]:
    """The machine of the file's timings, and its rows of other lines. Raises DataError if timings of two machines would stand together."""
    held = json.loads(file.read_text(encoding="utf-8"))
    kept = [Row(**row) for row in held["rows"] if row["case"].partition(" ")[0] not in only]
    if not timed:
        return held["machine"], kept
    here = machine()
    if held["machine"] != here and any(row.case.partition(" ")[0] in timings for row in kept):
        raise DataError(f"the timings in '{file}' are of {held['machine']}; measure those of all lines here: {' '.join(sorted(timings))}")
    return here, kept


def line(row: Row) -> str:
    """A row for the terminal."""
    value = f"{row.value:.6g}" if isinstance(row.value, int | float) else str(row.value or "")
    verdict = {True: "ok", False: "MISSED", None: ""}[row.ok]
    return f"{row.case:<34} {row.figure:<46} {value:>12} {row.unit:<6} {row.goal or '':<10} {verdict}"


def table(where: dict[str, str], command: str, rows: Iterable[Row]) -> str:
    """The rows as a Markdown page."""
    lines = [f"`{command}` on {where['cpu']}, {where['cores']} cores", ""]
    lines += ["| case | figure | value | spread | unit | peer | seeds | goal | ok |", "|" + "---|" * 9]
    for r in rows:
        value = f"{r.value:.6g}" if isinstance(r.value, int | float) else str(r.value or "")
        spread = "" if r.spread is None else f"{r.spread:.3g}"
        verdict = {True: "yes", False: "**no**", None: ""}[r.ok]
        lines.append(f"| {r.case} | {r.figure} | {value} | {spread} | {r.unit} | {r.peer or ''} | {r.seeds} | {r.goal or ''} | {verdict} |")
    return "\n".join(lines) + "\n"
