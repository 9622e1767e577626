"""The sensitivity scan of pruning: one layer's weights, or one group of channels, at a time, in a copy of the network, without training."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from glob import escape
from typing import Any

from karui.analyse import sensitivity as scans
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.masked import mask_weights
from karui.compress.prune.patterns import pattern_of
from karui.compress.prune.weights import Prune
from karui.compress.select import chosen, weights
from karui.data import Data, Part
from karui.data.identity import identity
from karui.errors import RecipeError
from karui.finetune.attach import attach_all, own_random_numbers
from karui.finetune.evaluate import score
from karui.finetune.phases import describe
from karui.finetune.progress import Progress
from karui.graph.coupling import coupling
from karui.graph.network import Network
from karui.report import sensitivity as report
from karui.report import words
from karui.report.record import MetricFacts
from karui.run.machine import machine, versions
from karui.search.trial import named
from karui.workspace import Run

Pruning = Prune | PruneChannels

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
ANY_LEVEL = {"sparsity": None, "pruning_ratio": None}
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # channels are fewer than weights, and take more with them


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What is changed together. size: how many weights (channels) it has; names: what a technique includes to choose it alone."""

    size: int
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is scanned. data: without its test part; part: the samples that judge; layers: by name, in the graph's order.

    left_out: those that were chosen and can't be pruned, with the reason.
    """

    network: Network
    data: Data
    part: Part
    technique: Pruning
    layers: Mapping[str, Layer]
    left_out: Mapping[str, str]
    levels: tuple[float, ...]
    seed: int


def subject_of(network: Network, data: Data, technique: Pruning, levels: Sequence[float] | None, samples: int, seed: int) -> Subject:
    """Put together what is scanned, and try the first cell's change, so that what can't be done is refused before anything is written.

    Raises RecipeError: levels or samples that make no sense, data that doesn't fit the network, a pattern that no layer has the name of.
    """
    if samples < 1:
        raise RecipeError(f"samples: expected 1 or more, got {samples}")
    steps = levels_of(technique, levels)
    _check_fits(network, data)
    layers, left_out = layers_of(network, technique)
    part = scans.spread(data.validation, samples)
    subject = Subject(network=network, data=data, part=part, technique=technique, layers=layers, left_out=left_out, levels=steps, seed=seed)
    prune(subject, network.copy(), next(iter(layers)), steps[0])
    return subject


def levels_of(technique: Pruning, levels: Sequence[float] | None) -> tuple[float, ...]:
    """The levels, rising, each once; the usual ones for None. n:m has one only.

    Raises RecipeError for one outside (0, 1), for none at all, and for one that the pattern doesn't give.
    """
    limit = pattern_of(technique.pattern).limit if isinstance(technique, Prune) else 1.0
    if levels is None:
        return (limit,) if limit < 1 else SPARSITIES if isinstance(technique, Prune) else RATIOS
    wrong = [level for level in levels if not 0 < level < 1]
    if wrong or not levels:
        raise RecipeError(f"levels: expected shares in (0, 1), such as 0.5 and 0.9, got {wrong[0] if wrong else 'none'}")
    if limit < 1 and isinstance(technique, Prune) and any(abs(level - limit) > 1e-9 for level in levels):
        raise RecipeError(f"levels: pattern {technique.pattern} gives {limit:.4g} and nothing else; leave levels out")
    return tuple(sorted(set(map(float, levels))))


def layers_of(network: Network, technique: Pruning) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers (groups of channels) that the technique's patterns choose, by name, in the graph's order; and those it can't prune.

    Raises RecipeError: a pattern that no layer has the name of, or nothing is left.
    """
    for pattern in technique.include:
        weights(network, (pattern,), ())
    found = weights(network, technique.include, technique.exclude)
    if isinstance(technique, Prune):
        twin = network.copy()
        _, misfits = mask_weights(twin, weights(twin, technique.include, technique.exclude), pattern_of(technique.pattern))
        return {name: Layer(size=network.get(name).numel(), names=(escape(name),)) for name in found if name not in misfits}, misfits
    groups = {group.name: group for group in coupling(network).groups.values()}
    names = {name: [each for each, _ in group.producers] for name, group in groups.items()}
    groups = {n: g for n, g in groups.items() if all(chosen(each, technique.include, technique.exclude) for each in names[n])}
    free = {n: Layer(size=g.channels, names=tuple(map(escape, names[n]))) for n, g in groups.items() if g.free.any()}
    if not free:
        raise RecipeError(f"include {list(technique.include)} and exclude {list(technique.exclude)} leave no channels that may go")
    return free, {name: group.fixed for name, group in groups.items() if name not in free}


def config(subject: Subject) -> dict[str, Any]:
    """What a scan's folder belongs to; other levels and other layers are asked of the same one."""
    data = subject.data
    total = hashlib.sha256(repr(identity((data.metric, data.loss))).encode())
    for part in (data.train, subject.part, data.calibration):  # an importance may look at the others
        total.update(part.fingerprint())
    return {
        "scan": "sensitivity",
        "network": subject.network.fingerprint(),
        "data": {"name": data.name, "fingerprint": total.hexdigest()[:16], "samples": len(subject.part)},
        "technique": describe(alone(subject.technique, Layer(size=0, names=("*",)), subject.levels[0])) | ANY_LEVEL,
        "seed": subject.seed,
    }


def scanned(subject: Subject, run: Run, progress: Progress) -> scans.Scan:
    """Measure what ``run``, which the caller holds, doesn't have yet."""
    metric, layers, levels = subject.data.metric, tuple(subject.layers), subject.levels
    known = scans.known_cells(run)
    progress.start(len(layers) * len(levels), "sensitivity", done=sum((layer, level) in known for layer in layers for level in levels))

    def judge(judged: Network) -> float:
        return score(judged, subject.part, metric)

    def told(cell: scans.Cell) -> None:
        progress.advance(f"{cell.layer.removesuffix('.weight')} at {100 * cell.level:.4g} %: {words.score(cell.value, metric.unit)}")

    found = scans.scan(subject.network, layers, levels, partial(prune, subject), judge, run=run, told=told)
    progress.finish()
    return found


def prune(subject: Subject, copy: Network, name: str, level: float) -> float:
    """Prune one layer of a copy of the subject's network, in place; returns the share that is gone."""
    technique = alone(subject.technique, subject.layers[name], level)
    with own_random_numbers(copy):
        (attached,) = attach_all(copy, [technique], subject.data, teacher=subject.network, steps=0, seed=subject.seed)
        return reached(attached.finish(), name)


def alone(technique: Pruning, layer: Layer, level: float) -> Pruning:
    """The technique on this layer by itself, at once."""
    if isinstance(technique, Prune):
        return replace(
            technique, sparsity=level, macs=None, allocation="uniform", schedule="one_shot", regrow="never", include=layer.names, exclude=()
        )
    return replace(technique, pruning_ratio=level, macs=None, allocation="uniform", include=layer.names, exclude=())


def reached(facts: Mapping[str, Any], name: str) -> float:
    """The share of a layer's weights (a group's channels) that is gone, from what the technique told at its end."""
    if "layers" in facts:
        return float(facts["layers"][name])
    group = facts["groups"][name]
    return 1.0 - float(group["kept"]) / float(group["channels"])


def record(subject: Subject, scan: scans.Scan, drop: float, command: str) -> report.Sensitivity:
    """The figures and how they came about."""
    metric, whole = subject.data.metric, isinstance(subject.technique, PruneChannels)
    facts = MetricFacts(name=metric.name, unit=metric.unit, higher_is_better=metric.higher_is_better)
    cells = {name: [(c.level, c.reached, c.value) for c in scan.cells if c.layer == name] for name in subject.layers}
    return report.Sensitivity(
        name=subject.network.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        seconds=round(scan.seconds, 1),
        versions=versions(),
        machine=machine(),
        seed=subject.seed,
        data=subject.data.name,
        samples=len(subject.part),
        metric=facts,
        method=named(subject.technique),
        level="pruning_ratio" if whole else "sparsity",
        counted="channels" if whole else "weights",
        baseline=scan.baseline,
        drop=drop,
        left_out=dict(subject.left_out),
        rows=[report.row(name, layer.size, cells[name], scan.baseline, drop, facts) for name, layer in subject.layers.items()],
    )


def _check_fits(network: Network, data: Data) -> None:
    given = " and ".join(f"{str(x.dtype).removeprefix('torch.')} {list(x.shape[1:])}" for x in data.example(1))
    taken = " and ".join(f"{spec.dtype} {list(spec.shape)}" for spec in network.inputs)
    if given != taken:
        raise RecipeError(f"data '{data.name}' has samples of {given}, network '{network.name}' takes {taken}; choose data of its own kind")
