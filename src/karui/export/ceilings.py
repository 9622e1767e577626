"""What a machine can do at most, and what our kernels reach on it: a table for each machine that C is exported for.

``karui calibrate`` measures it on this host and keeps it in the user's cache folder; for processors that aren't here, karui brings what is
published (``tables/``), marked as not measured.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from karui.errors import FileError
from karui.export.machines import MACHINES
from karui.workspace import atomic_write

FORMAT = 1
PEAKS, PATHS = ("int8", "binary", "float"), ("l1", "l2", "dram")
CURE = "measure it again with: karui calibrate"


@dataclass(frozen=True, kw_only=True)
class Table:
    """One machine's.

    machine: of ``machines.MACHINES``. processor: as it calls itself. measured: here, or taken from ``source``.
    ceilings: of one core; MACs per ns for ``PEAKS``, bytes read per ns for ``PATHS``.
    costs: ns for one unit of what a kernel does (``c_cost.py`` names them); empty where nothing was measured.
    error: how far the costs are from the times they were taken from, the median, as a share.
    """

    machine: str
    processor: str
    measured: bool
    source: str
    ceilings: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)
    error: float | None = None


def find(machine: str) -> Table | None:
    """The machine's table: measured here, else what karui brings, else None. Raises FileError for a file that is damaged."""
    if (path := path_of(machine)).exists():
        return read(path)
    shipped = files("karui.export") / "tables" / f"{machine}.json"
    return _table(shipped.read_text(encoding="utf-8"), f"karui's table of '{machine}'") if shipped.is_file() else None


def path_of(machine: str) -> Path:
    """Where a table that was measured here lies: ``machines/MACHINE.json`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "karui" / "machines" / f"{machine}.json"


def keep(table: Table, path: Path | None = None) -> Path:
    """Keep a table, whole or not at all; returns where. Raises RunError where the system refuses."""
    path = path_of(table.machine) if path is None else path
    atomic_write(path, json.dumps({"format": FORMAT, **asdict(table)}, indent=1) + "\n")
    return path


def read(path: Path) -> Table:
    """A table from a file. Raises FileError for one that isn't a table, or of another version."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' can't be read ({error}); {CURE}") from error
    return _table(text, f"'{path}'")


def _table(text: str, what: str) -> Table:
    try:
        facts = json.loads(text)
        version = facts.pop("format")
        if version != FORMAT:
            raise FileError(f"{what} is a table of version {version}, this karui reads {FORMAT}; {CURE}")
        table = Table(**facts)
        _check(table)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(f"{what} is no table of a machine ({error}); {CURE}") from error
    return table


def _check(table: Table) -> None:
    """Raise ValueError or KeyError for what can't be."""
    said: tuple[Any, ...] = (table.measured, table.processor, table.source)
    if table.machine not in MACHINES:
        raise ValueError(f"machine '{table.machine}' is unknown")
    if [type(each) for each in said] != [bool, str, str]:
        raise ValueError("processor and source are texts, measured is true or false")
    for name in PEAKS:
        _number(table.ceilings[name], name, above=0)
    for name, value in table.ceilings.items():
        if name not in PEAKS + PATHS:
            raise ValueError(f"ceiling '{name}' is unknown")
        _number(value, name, above=0)
    for name, value in table.costs.items():
        _number(value, name, above=-1)
        if value < 0:
            raise ValueError(f"cost '{name}' is negative")


def _number(value: Any, name: str, *, above: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= above:
        raise ValueError(f"'{name}' is {value!r}")
