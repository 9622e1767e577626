"""How much each layer bears: one layer of a copy is changed to one level, the copy is judged; so for every layer and every level.

Han et al. 2015, "Learning both weights and connections for efficient neural networks", fig. 6, for any way of changing a layer: a scan is
given two plain functions and knows nothing of pruning or bits. What it measures lies in the run's folder at once, so it may be killed at
any moment; the same scan goes on with the next cell.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from time import monotonic
from typing import Any

import torch

from karui.data import Part
from karui.data.parts import ArrayPart
from karui.errors import DataError, FileError
from karui.graph.network import Network
from karui.workspace import Run

Change = Callable[[Network, str, float], float]  # (a copy, a layer, a level) → the level that it came to
Judge = Callable[[Network], float]
Key = tuple[str, float]

FILE_NAME = "cells.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layer at one level.

    reached: the level that it came to, in whole weights or channels. value: the changed network's score, in the judge's unit; None where it
    is not finite. seconds: what it took.
    """

    layer: str
    level: float
    reached: float
    value: float | None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scan:
    """baseline: the score of the network as it is. cells: layer by layer, the levels in their order. seconds: what all of it took."""

    baseline: float
    cells: tuple[Cell, ...]
    seconds: float = 0.0


def scan(
    network: Network,
    layers: Sequence[str],
    levels: Sequence[float],
    change: Change,
    judge: Judge,
    *,
    run: Run,
    told: Callable[[Cell], None] = lambda cell: None,
) -> Scan:
    """Judge ``network``, then each layer at each level by itself; ``network`` stays as it is.

    change: edits the copy in place, that layer only. run: what it holds of an earlier call isn't measured again; the caller keeps it
    locked, and sees to it that it belongs to the same network, functions and data. told: hears of each new cell, once it is on the disk.
    Raises DataError where the network as it is has no finite score, FileError for damaged cells, and what the two functions raise.
    """
    held = _read(run)
    if held is None:
        started = monotonic()
        baseline = judge(network)
        if not isfinite(baseline):
            raise DataError(f"network '{network.name}' scores {baseline} as it is; look at its weights and at the metric")
        held = Scan(baseline=baseline, cells=(), seconds=monotonic() - started)
        _write(run, held)
    known = _by_key(held)
    for layer in layers:
        for level in levels:
            if (layer, level) not in known:
                cell = _measured(network, layer, level, change, judge)
                known[layer, level] = cell
                held = Scan(baseline=held.baseline, cells=(*held.cells, cell), seconds=held.seconds + cell.seconds)
                _write(run, held)
                told(cell)
    return Scan(baseline=held.baseline, cells=tuple(known[layer, level] for layer in layers for level in levels), seconds=held.seconds)


def _measured(network: Network, layer: str, level: float, change: Change, judge: Judge) -> Cell:
    started = monotonic()
    twin = network.copy().eval()
    reached, value = change(twin, layer, level), judge(twin)
    found = value if isfinite(value) else None
    return Cell(layer=layer, level=level, reached=reached, value=found, seconds=round(monotonic() - started, 3))


def known_cells(run: Run) -> Mapping[Key, Cell]:
    """What an earlier call left in the run's folder, by layer and level. Raises FileError where it is damaged."""
    held = _read(run)
    return {} if held is None else _by_key(held)


def spread(part: Part, count: int) -> Part:
    """At most ``count`` samples of a part, evenly spaced over it and in its order, so that a part sorted by class gives all its classes.

    A loader is gone through; what is picked stays in memory.
    """
    total = len(part)
    if total <= count:
        return part
    index = torch.arange(count) * total // count
    if isinstance(part, ArrayPart):
        return part.subset(index)
    inputs, targets, start = [], [], 0
    for batch in part.batches(256):
        here = index[(index >= start) & (index < start + len(batch))] - start
        inputs.append(tuple(x[here] for x in batch.inputs))
        targets.append(tuple(y[here] for y in batch.targets) if isinstance(batch.targets, tuple) else (batch.targets[here],))
        start += len(batch)
    picked, wanted = (tuple(map(torch.cat, zip(*each, strict=True))) for each in (inputs, targets))
    return ArrayPart(picked, wanted if isinstance(batch.targets, tuple) else wanted[0], name="validation")


# ── in the run's folder ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_key(held: Scan) -> dict[Key, Cell]:
    return {(cell.layer, cell.level): cell for cell in held.cells}


def _write(run: Run, held: Scan) -> None:
    run.write_json(FILE_NAME, asdict(held))


def _read(run: Run) -> Scan | None:
    if not (run.directory / FILE_NAME).exists():
        return None
    facts = run.json(FILE_NAME)
    try:
        return Scan(baseline=float(facts["baseline"]), cells=tuple(map(_cell, facts["cells"])), seconds=float(facts["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"'{run.directory / FILE_NAME}' is damaged ({error!r}); delete it and run again") from error


def _cell(facts: Mapping[str, Any]) -> Cell:
    return Cell(**{field.name: facts[field.name] for field in fields(Cell)})
