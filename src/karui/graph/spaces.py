"""Groups of channels as data, and the union-find that joins them while ``coupling.py`` walks the graph."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive entries along one axis of a tensor: ``channels`` channels of a group with ``inner`` entries each (after a flatten)."""

    group: int
    channels: int
    inner: int = 1

    def entries(self, keep: Tensor | None) -> Tensor:
        """Which entries stay (bool ``[channels · inner]``), given which channels stay (bool ``[channels]``; None: all)."""
        if keep is None:
            return torch.ones(self.channels * self.inner, dtype=torch.bool)
        return keep.repeat_interleave(self.inner)


Runs = tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Along:
    """Where a value carries channels: its axis, and the runs that make up that axis."""

    axis: int
    runs: Runs


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that stay or go together.

    name: the first producer's weight. producers: each weight that makes these channels, and its axis of output channels.
    fixed: why the channels must stay, "" where they may go.
    """

    name: str
    channels: int
    producers: tuple[tuple[str, int], ...]
    fixed: str = ""


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """The groups by number, in the graph's order; the axes of parameters and buffers that are made of them; and what else counts channels.

    constants: (node, place in its list of sizes, runs) of reshapes that spell a number of channels out.
    """

    groups: Mapping[int, Group]
    axes: Mapping[tuple[str, int], Runs]
    constants: tuple[tuple[str, int, Runs], ...] = ()

    def kept(self, runs: Runs, keep: Mapping[int, Tensor]) -> Tensor:
        """Which entries of an axis stay (bool), given which channels of each group stay (a group that isn't named: all)."""
        return torch.cat([run.entries(keep.get(run.group)) for run in runs])


@dataclass
class Spaces:
    """The analysis at work: a union-find of groups, and what is known about each."""

    parent: list[int] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    producers: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    axes: dict[tuple[str, int], Runs] = field(default_factory=dict)
    constants: list[tuple[str, int, Runs]] = field(default_factory=list)
    pins: dict[tuple[str, int | None], str] = field(default_factory=dict)

    def open(self, channels: int, reason: str = "") -> Runs:
        """A new group."""
        number = len(self.parent)
        self.parent.append(number)
        self.channels.append(channels)
        if reason:
            self.reasons[number] = reason
        return (Run(group=number, channels=channels),)

    def root(self, number: int) -> int:
        """The group that this one has become part of."""
        while self.parent[number] != number:
            number = self.parent[number]
        return number

    def fix(self, runs: Runs, reason: str) -> None:
        """These channels must stay; the first reason is kept."""
        for run in runs:
            self.reasons.setdefault(self.root(run.group), reason)

    def join(self, a: Runs, b: Runs, where: str) -> None:
        """The two meet entry by entry: one group from now on, or both fixed where their runs don't match."""
        if [(r.channels, r.inner) for r in a] != [(r.channels, r.inner) for r in b]:
            self.fix(a + b, f"'{where}' joins channels that are made up differently")
            return
        for left, right in zip(a, b, strict=True):
            first, second = sorted((self.root(left.group), self.root(right.group)))
            self.parent[second] = first
            if second in self.reasons:
                self.reasons.setdefault(first, self.reasons[second])

    def claim(self, parameter: str, axis: int, runs: Runs, where: str) -> None:
        """This axis of a parameter or buffer is made of ``runs``; a second user of it joins them with the first one's."""
        if (parameter, axis) in self.axes:
            self.join(self.axes[parameter, axis], runs, where)
        else:
            self.axes[parameter, axis] = runs

    def pin(self, parameter: str, axis: int | None, reason: str) -> None:
        """This axis (None: every axis) of a parameter can't change, whoever else uses it."""
        self.pins.setdefault((parameter, axis), reason)

    def result(self) -> Coupling:
        """What was found, with every group under its final number."""
        for (parameter, axis), runs in self.axes.items():
            for key in ((parameter, axis), (parameter, None)):
                if key in self.pins:
                    self.fix(runs, self.pins[key])

        def final(runs: Runs) -> Runs:
            return tuple(Run(group=self.root(r.group), channels=r.channels, inner=r.inner) for r in runs)

        made: dict[int, list[tuple[str, int]]] = {}
        for number, producers in sorted(self.producers.items()):
            into = made.setdefault(self.root(number), [])
            into.extend(p for p in producers if p not in into)
        groups = {
            number: Group(
                name=producers[0][0], channels=self.channels[number], producers=tuple(producers), fixed=self.reasons.get(number, "")
            )
            for number, producers in sorted(made.items())
        }
        axes = {key: final(runs) for key, runs in self.axes.items()}
        return Coupling(groups=groups, axes=axes, constants=tuple((n, p, final(r)) for n, p, r in self.constants))
