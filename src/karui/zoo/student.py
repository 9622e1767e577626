"""Students: smaller networks for a teacher's task, measured on the target, not estimated."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from karui.analyse.cost import measure
from karui.budget import Budget, Cost
from karui.compress.prune.blocks import PruneBlocks
from karui.compress.prune.channels import PruneChannels
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.errors import RecipeError, UnsupportedOp
from karui.finetune.session import attach
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.run.runners import require_measurable
from karui.verify.cost import cost_of, opened
from karui.verify.verdict import judge
from karui.zoo.catalogue import NETWORKS, build

WIDTHS = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)  # of the teacher's channels
DEPTHS = (1.0, 0.66, 0.34)  # of its residual branches


@dataclass(frozen=True, kw_only=True)
class Student:
    """A network that fits. origin: how it came about. cost: of its artefact for the budget's target, int8 where that was asked for."""

    origin: str
    network: Network
    cost: Cost


def student_of(network: Network, budget: Budget, *, int8: bool = True) -> list[Student]:
    """Networks that fit ``budget`` and could learn from ``network``, the one with most MACs first: one of each family.

    Families: the network with narrower layers, with fewer blocks and narrower layers, and each network of the zoo that takes and gives the
    same shapes. What is cut from the network keeps its most important channels' weights; the zoo's come with fresh ones: all want training
    (``Distill(teacher=network)``). int8: measure them as int8 programs, as karui's recipes end. The budget's ``drop`` isn't looked at.
    Raises RecipeError: the budget sets no limit, or nothing fits.
    """
    if not budget.limits:
        raise RecipeError("student_of: the budget sets no limit; give bytes, peak_ram or latency_ms")
    require_measurable(budget.target, budget.limits)
    found: list[Student] = []
    tried = 0
    for family in _families(network):
        for origin, candidate in family:
            tried += 1
            cost = _cost(candidate, budget, int8=int8)
            if cost is not None and judge(budget, cost, before=0.0, after=0.0).ok:  # nothing is trained, so nothing is lost yet
                found.append(Student(origin=origin, network=candidate, cost=cost))
                break
    if not found:
        limits = ", ".join(f"{name} {getattr(budget, name):g}" for name in budget.limits)
        raise RecipeError(f"student_of: none of {tried} candidates keeps {limits} on target '{budget.target}'; allow more")
    return sorted(found, key=lambda student: -(student.cost.macs or 0))


def _families(network: Network) -> Iterator[Iterator[tuple[str, Network]]]:
    """Candidates of each family, from large to small."""
    for depth in DEPTHS:
        shallow = network if depth == 1.0 else _cut(network, PruneBlocks(ratio=1 - depth, importance="change", samples=64))
        if shallow is not None:
            yield _narrower(shallow, "" if depth == 1.0 else f"{depth:.0%} of the blocks, ", whole=depth < 1.0)
    for name, entry in NETWORKS.items():
        if [tuple(spec.shape) for spec in network.inputs] == [entry.input]:
            yield _of_zoo(name, network)


def _narrower(network: Network, prefix: str, *, whole: bool) -> Iterator[tuple[str, Network]]:
    if whole:
        yield f"{prefix}{network.name} as wide as it is", network
    for width in WIDTHS:
        narrow = _cut(network, PruneChannels(pruning_ratio=1 - width))
        if narrow is not None:
            yield f"{prefix}{network.name} at {width:.4g} of its width", narrow


def _of_zoo(name: str, network: Network) -> Iterator[tuple[str, Network]]:
    """The zoo's network for this many classes, if it can have them."""
    outputs = [tuple(y.shape[1:]) for y in network(*network.example(2))]
    if len(outputs) == 1 and len(outputs[0]) == 1:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = build(name, classes=outputs[0][0])
        yield f"zoo:{name}", capture(module, network.example(2), name=name).eval()


def _cut(network: Network, technique: Technique) -> Network | None:
    """A copy after a technique without training; None where it finds nothing to cut."""
    copy = network.copy()
    try:
        _apply(copy, technique)
    except RecipeError:
        return None
    return copy


def _apply(network: Network, technique: Technique) -> None:
    with attach(network, [technique], steps=0, data=_noise(network)):
        pass


def _noise(network: Network) -> Data:
    """Data of the network's shapes, for what counts bytes and milliseconds and doesn't look at accuracy."""
    inputs = network.example(64)
    targets = torch.zeros(64, dtype=torch.int64)
    part = (inputs, targets)
    return Data.of(train=part, validation=part, test=part, name="noise")


def _cost(network: Network, budget: Budget, *, int8: bool) -> Cost | None:
    """What the network costs on the budget's target; None where that target can't have it."""
    facts = measure(network)
    try:
        ready = network.copy()
        if int8:
            _apply(ready, Quantize())
        program = lower(ready)
        with tempfile.TemporaryDirectory() as folder:
            cost = cost_of(opened(program, budget.target, Path(folder)), program, latency=budget.latency_ms is not None)
    except UnsupportedOp:
        return None
    return replace(cost, macs=facts.macs, params=facts.params)
