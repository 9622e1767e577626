"""The results as a page: the networks as a matrix, why a cell isn't a yes, then every other line as a table."""

from collections.abc import Iterator, Sequence

from benchmarks.doors.catalogue import subjects
from benchmarks.doors.coverage import AGREES
from benchmarks.doors.trial import COLUMNS, NEAR
from benchmarks.harness import Row, table

SHOWN = (*COLUMNS, AGREES)
TITLES = {"c": "C", "onnx": "ONNX", "litert": "LiteRT", "prunes": "30 % pruned"}
LEGEND = f"""captured: the outputs are those of the original in its own framework, one sample at a time, within 1e-4 of the greatest.
trains: a step of gradient descent reaches every parameter. 30 % pruned: so many channels of each group leave, and it runs.
int8: post-training quantization; every layer that multiplies ends in integers.
C, ONNX, LiteRT: written, and run beside the original as floats (1e-4); and as int8 beside the interpreter: C bit for bit where all is in
integers, else a root mean square of {NEAR:g} of the outputs' range.
doctor: `karui doctor` says the same of each cell."""


def page(where: dict[str, str], command: str, rows: Sequence[Row]) -> str:
    """The page's Markdown."""
    nets = [row for row in rows if row.figure in SHOWN]
    others = [row for row in rows if row.figure not in SHOWN]
    return "\n".join([table(where, command, others), *_matrix(nets), "", LEGEND, "", *_reasons(nets)]) + "\n"


def _matrix(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each network."""
    kinds = {subject.name: subject.kind for subject in subjects()}
    yield "| network | kind | " + " | ".join(TITLES.get(column, column) for column in SHOWN) + " |"
    yield "|" + "---|" * (2 + len(SHOWN))
    for name, cells in _by_network(rows).items():
        words = [str(cells.get(column, "")).partition(":")[0] for column in SHOWN]
        yield f"| {name} | {kinds.get(name, '')} | " + " | ".join("**no**" if word == "no" else word for word in words) + " |"


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    for name, cells in _by_network(rows).items():
        for column, value in cells.items():
            if not str(value).startswith("yes"):
                yield f"- {name}, {TITLES.get(column, column)}: {str(value).replace('|', '/')}"


def _by_network(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for row in rows:
        found.setdefault(row.case.partition(" ")[2], {})[row.figure] = row.value
    return found
