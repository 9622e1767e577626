"""Builder: what the rules write into while a graph is walked.

A *value* is what a node of the graph stands for. Layout is tracked per value: ``order[i]`` is the axis of the network's tensor (without the
batch) that the program's i-th axis holds, so an image of the network's ``(C, H, W)`` lying as ``(H, W, C)`` has order ``(1, 2, 0)``.
A permute in the network changes the order and moves nothing; a rule that needs an order asks for it, and only then a transpose is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import torch

from karui.errors import UnsupportedOp
from karui.graph.network import Network
from karui.program.program import Array, DType, FloatValues, Layout, Op, Tensor, Weight

Order = tuple[int, ...]
CHANNELS_LAST: dict[int, Order] = {3: (1, 2, 0), 2: (1, 0), 1: (0,)}


def layout_of(order: Order) -> Layout:
    """What the axes of a tensor that lies in ``order`` mean."""
    return "nhwc" if order == (1, 2, 0) else "nlc" if order == (1, 0) else "plain"


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor of the program that holds a tensor of the network. ``shape``: the network's, without the batch.

    The batch usually is the network's first axis. Attention moves it, and joins it with the heads for a while: ``batch`` is how many axes
    of ``shape`` stand before it, ``left`` and ``right`` how many of its neighbours (0 or 1) share its axis. The program never sees it.
    """

    name: str
    shape: tuple[int, ...]
    order: Order
    batch: int = 0
    left: int = 0
    right: int = 0

    def axis(self, graph_axis: int) -> int:
        """Where the program holds the axis of ``shape``."""
        return self.order.index(graph_axis)

    @property
    def ordinary(self) -> bool:
        """True where the batch is the first axis, alone."""
        return (self.batch, self.left, self.right) == (0, 0, 0)

    def axes(self) -> list[tuple[int, ...]]:
        """The network's axes, each as the axes of ``shape`` in it; −1 stands for the batch."""
        first, last = self.batch - self.left, self.batch + self.right
        joined = (*range(first, self.batch), -1, *range(self.batch, last))
        return [(i,) for i in range(first)] + [joined] + [(i,) for i in range(last, len(self.shape))]

    def like(self, name: str, shape: tuple[int, ...], order: Order) -> "Value":
        """Another tensor whose batch stands where this one's does."""
        return replace(self, name=name, shape=shape, order=order)


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """The shape of a network's tensor: axes before the one that holds the batch, what the batch is multiplied with there, axes after."""

    before: tuple[int, ...]
    factor: int
    after: tuple[int, ...]
    dtype: torch.dtype = field(default=torch.float32, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch."""
        return (*self.before, *((self.factor,) if self.factor > 1 else ()), *self.after)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A value that no input reaches: known now. ``data`` has no batch axis unless it has one of size 1."""

    data: torch.Tensor


@dataclass
class Builder:
    """Collects tensors, weights and ops; ``value`` of each node is kept in ``env`` by the walker."""

    network: Network
    shapes: dict[torch.fx.Node, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    layer: str = ""

    def tensor(self, name: str, shape: Sequence[int], order: Order, dtype: DType = "float32") -> Value:
        """A new tensor for a network tensor of ``shape``, lying in ``order``."""
        name = self._free(name)
        laid = tuple(shape[axis] for axis in order)
        self.tensors[name] = Tensor(name=name, shape=laid, dtype=dtype, layout=layout_of(order))
        return Value(name=name, shape=tuple(shape), order=order)

    def emit(
        self,
        kind: str,
        inputs: Sequence[Value],
        name: str,
        shape: Sequence[int],
        order: Order | None = None,
        *,
        like: Value | None = None,
        weights: dict[str, str] | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> Value:
        """Write one op; returns the value it makes: network ``shape`` without the batch, lying in ``order``, its batch as ``like``'s."""
        order = tuple(range(len(shape))) if order is None else order
        out = self.tensor(name, shape, order)
        self.ops.append(
            Op(
                kind=kind,
                name=self.layer,
                inputs=tuple(v.name for v in inputs),
                outputs=(out.name,),
                weights=weights or {},
                attributes=attributes or {},
            )
        )
        return out if like is None else like.like(out.name, out.shape, out.order)

    def laid(self, value: Value, order: Order) -> Value:
        """``value`` lying in ``order``: itself, or behind a transpose."""
        if value.order == order:
            return value
        perm = [value.order.index(axis) for axis in order]
        return self.emit("transpose", [value], f"{value.name}_t", value.shape, order, like=value, attributes={"perm": perm})

    def plain(self, value: Value) -> Value:
        """``value`` lying as the network wrote it."""
        return self.laid(value, tuple(range(len(value.shape))))

    def channels_last(self, value: Value) -> Value:
        """``value`` with the network's first axis last."""
        return self.laid(value, CHANNELS_LAST[len(value.shape)])

    def reshaped(self, value: Value, name: str, shape: Sequence[int]) -> Value:
        """The elements of an ordinary value in the network's order, in another shape."""
        return self.emit("reshape", [self.plain(value)], name, shape)

    def weight(self, weight: Weight) -> str:
        """Keep a weight; one of the same name and content is kept once. Returns the name."""
        known = self.weights.get(weight.name)
        if known is None:
            self.weights[weight.name] = weight
            return weight.name
        if known.shape == weight.shape and np.array_equal(known.real(), weight.real()):
            return weight.name
        weight = replace(weight, name=self._free(weight.name))
        self.weights[weight.name] = weight
        return weight.name

    def floats(self, name: str, data: torch.Tensor | Array) -> str:
        """Keep a plain float weight; returns its name."""
        array = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data
        array = np.ascontiguousarray(array, np.float32)
        return self.weight(Weight(name=name, shape=array.shape, values=FloatValues(data=array)))

    def constant(self, constant: Constant, name: str, rank: int) -> Value:
        """A constant as a tensor of ``rank`` axes (a batch axis of size 1 is dropped, missing axes are added in front)."""
        data = constant.data.detach().float()
        while data.dim() > rank and data.shape[0] == 1:
            data = data[0]
        if data.dim() > rank:
            self.refuse("a constant with a batch axis of its own", "give it a batch size of 1")
        data = data.reshape((1,) * (rank - data.dim()) + tuple(data.shape))
        return self.emit("constant", [], name, tuple(data.shape), weights={"value": self.floats(f"{name}.value", data)})

    def refuse(self, what: str, cure: str) -> NoReturn:
        """Raise the one error of this room."""
        raise UnsupportedOp(f"'{self.layer}' uses {what}, which can't be lowered to a program; {cure}")

    def _free(self, name: str) -> str:
        taken, free, i = self.tensors.keys() | self.weights.keys(), name, 1
        while free in taken:
            i += 1
            free = f"{name}_{i}"
        return free
