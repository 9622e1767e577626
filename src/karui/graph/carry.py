"""The walk that follows channels from op to op, and what its rules share; the rules are in ``carry_layers.py`` and ``carry_shapes.py``.

A rule takes the tracer and a node and returns where the result carries channels: an ``Along``, a list of them for an op of several results,
or None where it carries none that could be removed. The channel axis counts with the batch axis, so an image's is 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx

from karui.graph.forms import is_form
from karui.graph.network import Network
from karui.graph.spaces import STAYS, Along, Coupling, Ids, Kept, Member, Role, Spaces

Carried = Along | list[Along | None] | None
Rule = Callable[["Tracer", fx.Node], Carried]

BATCH = 61  # a prime that no layer has: the batch is told from other axes, and what is repeated for each sample shows


class Tracer:
    """Goes through the graph once, in order."""

    def __init__(self, network: Network, shapes: Mapping[fx.Node, tuple[int, ...]], rule_of: Callable[[fx.Node], Rule]) -> None:
        self.network, self.shapes, self.rule_of, self.spaces = network, shapes, rule_of, Spaces()
        self.values: dict[fx.Node, Carried] = {}

    def trace(self) -> Coupling:
        """Apply each node's rule; what leaves the network is fixed."""
        for node in self.network.module.graph.nodes:
            if node.op == "output":
                self.fix(self.network.results(), "it is an output of the network")
            elif node.op == "call_function" and parameter_of(node) is None:
                self.values[node] = self.rule_of(node)(self, node)
                for along in self.all_of(node):
                    if along.ids.ndim > 1:
                        self.spaces.grids.append((self.where(node), along.ids))
        return self.spaces.result()

    def where(self, node: fx.Node) -> str:
        """The layer's name, for messages."""
        return self.network.layer_of(node)

    def value(self, node: Any) -> Along | None:
        """Where a node's value carries channels; of an op of several results, nothing."""
        found = self.values.get(node) if isinstance(node, fx.Node) else None
        return found if isinstance(found, Along) else None

    def all_of(self, node: fx.Node) -> list[Along]:
        """Every place where a node's results carry channels."""
        found = self.values.get(node)
        return [each for each in (found if isinstance(found, list) else [found]) if each is not None]

    def fix(self, nodes: Sequence[fx.Node], reason: str) -> None:
        """Whatever channels these values carry must stay, and whatever parameters they are can't change."""
        for node in nodes:
            for along in self.all_of(node):
                self.spaces.fix(along.ids, reason)
            if (name := parameter_of(node)) is not None:
                self.spaces.pin(name, None, reason)

    def flat(self, along: Along, axis: int, at: fx.Node) -> Ids:
        """The ids along one axis, where a place of it can only stay or go whole: everything else at that place is joined with it."""
        vector = along.vector(axis)
        if along.ids.ndim > 1:
            spread = np.moveaxis(along.ids, along.axes.index(axis), 0)
            self.spaces.join(spread, vector.reshape(-1, *[1] * (spread.ndim - 1)), self.where(at))
        return vector

    def claim(self, node: Any, axis: int, ids: Ids | None, at: fx.Node, role: Role = "scale") -> None:
        """This axis of the parameter behind ``node`` is made of ``ids``; None: of channels that stay."""
        name = parameter_of(node)
        if node is None:
            return
        if name is None:  # a weight that is computed: nothing to cut
            if ids is not None:
                self.spaces.fix(ids, f"'{self.where(at)}' computes its weight")
        elif ids is None:
            self.spaces.pin(name, axis, f"'{self.where(at)}' shares its weight with channels that stay")
        else:
            self.spaces.claim(Member(parameter=name, axis=axis, role=role, ids=ids), self.where(at))

    def mend_size(self, node: fx.Node, place: int, index: int | None, along: Along, axis: int) -> None:
        """The number at this place of the node's arguments (and index of a list) counts the entries of an axis."""
        at = along.axes.index(axis)
        others = tuple(i for i in range(along.ids.ndim) if i != at)

        def mend(node: fx.Node, kept: Kept) -> None:
            set_size(node, place, index, int(kept(along.ids).any(axis=others).sum()))

        self.spaces.mends.append((node.name, mend))


def set_size(node: fx.Node, place: int, index: int | None, size: int) -> None:
    """Write a size into a node: a number, one of a list, or the factor of a batch that is multiplied elsewhere; −1 is left alone."""
    old = node.args[place] if index is None else node.args[place][index]  # type: ignore[index]
    if isinstance(old, fx.Node):  # batch · n
        at = next((i for i, a in enumerate(old.args) if isinstance(a, int)), None)
        if at is not None and size % BATCH == 0:
            old.update_arg(at, size // BATCH)
    elif old != -1 and index is None:
        node.update_arg(place, size)
    elif old != -1:
        sizes = list(node.args[place])  # type: ignore[arg-type]
        sizes[index] = size  # type: ignore[index]
        node.update_arg(place, sizes)


def place_of(node: fx.Node, name: str) -> int:
    """Where an argument stands in the op's schema."""
    return [a.name for a in node.target._schema.arguments].index(name)  # type: ignore[union-attr]


def parameter_of(node: object) -> str | None:
    """The parameter or buffer that a node stands for, seen through its forms; None for a computed value."""
    while isinstance(node, fx.Node) and node.op == "call_function" and is_form(node):
        node = node.args[0]
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def argument(node: fx.Node, name: str) -> Any:
    """An argument of an op by its name in the op's schema, or its default."""
    for place, each in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if each.name == name:
            return node.args[place] if place < len(node.args) else node.kwargs.get(name, each.default_value)
    raise KeyError(name)


def axes_of(node: fx.Node, name: str, dims: int) -> tuple[int, ...]:
    """An argument that names axes, counted from the front."""
    given = argument(node, name)
    return tuple(a % dims for a in (given if isinstance(given, list | tuple) else [given]))


def along_of(axes: Sequence[int], ids: Ids) -> Along | None:
    """An ``Along`` with its axes rising; None where no axis is left."""
    if not axes:
        return None
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    return Along(axes=tuple(axes[i] for i in order), ids=ids.transpose(order))


def constant(shape: Sequence[int]) -> Ids:
    """Ids of entries that are no channels."""
    return np.full(shape, STAYS, np.int64)


# ── rules that every op may fall back to ────────────────────────────────────────────────────────────────────────────────────────


def unknown(t: Tracer, node: fx.Node) -> Carried:
    """An op without a row: nothing that goes into it may change."""
    t.fix(node.all_input_nodes, f"'{t.where(node)}' uses {node.target}, which can't lose channels")
    return None


def no_tensor(t: Tracer, node: fx.Node) -> Carried:
    """A size or a check."""
    return None


def same(t: Tracer, node: fx.Node) -> Carried:
    """One value at a time: channels stay where they are."""
    return t.value(node.args[0])
