"""Single channels as numbers, the union-find that joins them while ``coupling.py`` walks the graph, and the groups that come of it.

Every output channel of every layer gets an id. A value of the graph carries ids along some of its axes (``Along``); where channels have to
stay or go together, their ids are joined. What is joined in the end is a *unit*: one channel, the same channel of several layers, a head.
A *group* is all units of the layers that share some: they are ranked against each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

Ids = NDArray[np.int64]
Role = Literal["out", "in", "scale"]
Kept = Callable[[Ids], NDArray[np.bool_]]
Mend = Callable[[fx.Node, Kept], None]

STAYS = -1  # the id of an entry that is no channel: padding, a constant


@dataclass(frozen=True, kw_only=True)
class Along:
    """Where a value carries channels: axes (from the front, rising) and an id for each entry of them, ``ids.shape[i]`` on ``axes[i]``."""

    axes: tuple[int, ...]
    ids: Ids

    def vector(self, axis: int) -> Ids:
        """The ids along one axis, at the first place of the others."""
        place = self.axes.index(axis)
        return np.moveaxis(self.ids, place, 0).reshape(self.ids.shape[place], -1)[:, 0]


@dataclass(frozen=True, kw_only=True)
class Member:
    """An axis of a parameter or buffer that is made of a group's channels.

    role: "out" of a layer that makes them, "in" of one that reads them, "scale": one number a channel (batch-norm, prelu). ids: one for
    each entry of the axis, ``STAYS`` for those of no layer.
    """

    parameter: str
    axis: int
    role: Role
    ids: Ids


@dataclass(frozen=True, kw_only=True)
class Group:
    """Units that are ranked together.

    name: the first weight that makes them. units: their numbers in ``Coupling.units``, in that weight's order. channels: of that weight.
    producers: each weight that makes these channels, and its axis of output channels. free: which units may go (bool, as ``units``);
    fixed: why the others, or all, must stay.
    """

    name: str
    units: Ids
    channels: int
    producers: tuple[tuple[str, int], ...]
    free: NDArray[np.bool_]
    fixed: str = ""


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """The groups by number, in the graph's order, and everything in the network that counts their channels.

    units: id → the number of its unit. members: every axis of a parameter or buffer that is made of channels. mends: (node's name, how its
    sizes change with the kept ids). needs: (layer, ids) of which one at least has to stay.
    """

    groups: Mapping[int, Group]
    units: Ids
    members: tuple[Member, ...]
    mends: tuple[tuple[str, Mend], ...] = ()
    needs: tuple[tuple[str, Ids], ...] = ()

    def kept(self, ids: Ids, keep: Mapping[int, Tensor]) -> Tensor:
        """Which of ``ids`` stay (bool, in their shape), given which units of each group stay (a group that isn't named: all)."""
        return torch.from_numpy(self.keeper(keep)(ids))

    def keeper(self, keep: Mapping[int, Tensor]) -> Kept:
        """``kept`` for many ids and one choice."""
        stays = np.ones(int(self.units.max(initial=-1)) + 2, bool)  # the last one stands for STAYS
        for number, mask in keep.items():
            stays[self.groups[number].units] = mask.cpu().numpy()
        unit = np.append(self.units, -1)
        return lambda ids: stays[unit[ids]]


@dataclass
class Spaces:
    """The analysis at work."""

    parent: list[int] = field(default_factory=list)
    makers: list[tuple[str, int, Ids]] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    members: dict[tuple[str, int], Member] = field(default_factory=dict)
    pins: dict[tuple[str, int | None], str] = field(default_factory=dict)
    grids: list[tuple[str, Ids]] = field(default_factory=list)
    mends: list[tuple[str, Mend]] = field(default_factory=list)
    needs: list[tuple[str, Ids]] = field(default_factory=list)

    def open(self, channels: int) -> Ids:
        """New channels."""
        start = len(self.parent)
        self.parent.extend(range(start, start + channels))
        return np.arange(start, start + channels)

    def root(self, number: int) -> int:
        """The id that stands for all that are joined with this one."""
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def fix(self, ids: Ids, reason: str) -> None:
        """These channels must stay; the first reason is kept."""
        for each in np.unique(ids):
            if each != STAYS:
                self.reasons.setdefault(int(each), reason)

    def join(self, a: Ids, b: Ids, where: str) -> None:
        """Each channel of ``a`` stays or goes with the one of ``b`` at its place (arrays that broadcast together)."""
        pairs = np.unique(np.stack([each.ravel() for each in np.broadcast_arrays(a, b)], 1), axis=0)
        for left, right in pairs.tolist():
            if STAYS in (left, right):
                self.fix(np.array([left, right]), f"'{where}' joins them with values whose channels stay")
                continue
            first, second = sorted((self.root(left), self.root(right)))
            self.parent[second] = first

    def claim(self, member: Member, where: str) -> None:
        """This axis of a parameter is made of these channels; a second user of it joins them with the first one's."""
        key = (member.parameter, member.axis)
        known = self.members.setdefault(key, member)
        if known is not member:
            self.join(known.ids, member.ids, where)
        self.needs.append((where, member.ids))

    def pin(self, parameter: str, axis: int | None, reason: str) -> None:
        """This axis (None: every axis) of a parameter can't change, whoever else uses it."""
        self.pins.setdefault((parameter, axis), reason)

    def result(self) -> Coupling:
        """What was found."""
        for (parameter, axis), member in self.members.items():
            for key in ((parameter, axis), (parameter, None)):
                if key in self.pins:
                    self.fix(member.ids, self.pins[key])
        for where, ids in self.grids:
            self._straighten(where, ids)
        roots = np.array([self.root(number) for number in range(len(self.parent))], np.int64)
        found, units = np.unique(roots, return_inverse=True)
        reasons = {int(units[number]): reason for number, reason in reversed(self.reasons.items())}
        groups = {number: _group(made, units, reasons) for number, made in enumerate(self._made(units))}
        return Coupling(
            groups=groups,
            units=units.astype(np.int64),
            members=tuple(self.members.values()),
            mends=tuple(self.mends),
            needs=tuple(self.needs),
        )

    def _straighten(self, where: str, ids: Ids) -> None:
        """A value that carries channels along several axes must stay a box: let what goes be whole slices along one axis."""
        if (ids == STAYS).any():
            self.fix(ids, f"'{where}' mixes them with values that stay")
            return
        roots = np.vectorize(self.root, otypes=[np.int64])(ids)
        if sum(bool((roots != roots.take([0], axis)).any()) for axis in range(ids.ndim)) <= 1:
            return
        for axis in range(ids.ndim - 1):
            self.join(ids, ids.take([0], axis), where)

    def _made(self, units: Ids) -> list[list[tuple[str, int, Ids]]]:
        """The layers' output axes, those together that share a unit."""
        together: list[tuple[set[int], list[tuple[str, int, Ids]]]] = []
        for maker in self.makers:
            held, own = set(units[maker[2]].tolist()), [maker]
            for each in [t for t in together if t[0] & held]:
                together.remove(each)
                held, own = held | each[0], each[1] + own
            together.append((held, own))
        return [own for _, own in sorted(together, key=lambda t: int(t[1][0][2][0]))]


def _group(made: list[tuple[str, int, Ids]], units: Ids, reasons: Mapping[int, str]) -> Group:
    held = np.concatenate([units[ids] for _, _, ids in made])
    _, first = np.unique(held, return_index=True)
    own = held[np.sort(first)]  # each once, in the order of the first weight
    fixed = [reasons[unit] for unit in own.tolist() if unit in reasons]
    producers = tuple(dict.fromkeys((name, axis) for name, axis, _ in made))
    return Group(
        name=made[0][0],
        units=own,
        channels=len(made[0][2]),
        producers=producers,
        free=np.array([unit not in reasons for unit in own.tolist()]),
        fixed=fixed[0] if fixed else "",
    )
