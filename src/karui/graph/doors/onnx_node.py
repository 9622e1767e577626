"""Node: what a rule of the ONNX door sees of one node of the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from karui.graph.doors.drawing import Drawing, Form, Known, Live, Value, path_of

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """Whole numbers that stand for reals, between a QuantizeLinear and its DequantizeLinear: the reals, and how they are written.

    shift: what was taken from the file's codes to make them signed, and so from its zero points.
    """

    value: Live
    form: Form
    shift: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole(Known):
    """A constant of whole numbers whose type in the file says more than its dtype here; ``kind``: that type's name."""

    kind: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One node.

    inputs: None where it leaves one out. attributes: numbers, texts, tensors and lists of them. wanted: for each output, whether something
    reads it. alone: for each input, whether this node is its only reader. fixed: the file's own batch is 1, written into its shapes.
    """

    drawing: Drawing
    kind: str
    opset: int
    inputs: tuple[Value | Coded | None, ...]
    attributes: Mapping[str, Any]
    wanted: tuple[bool, ...]
    alone: tuple[bool, ...]
    fixed: bool

    # ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def raw(self, place: int) -> Value | Coded | None:
        """An input as it is."""
        return self.inputs[place] if place < len(self.inputs) else None

    def get(self, place: int) -> Value | None:
        """An input of reals, or of plain numbers; None where the node leaves it out."""
        value = self.raw(place)
        if isinstance(value, Coded):
            self.drawing.refuse(f"{self.kind} of integer codes", "put a DequantizeLinear before it")
        return value

    def value(self, place: int) -> Value:
        """An input that has to be there."""
        value = self.get(place)
        return self.refuse(f"no input {place}", "check the file") if value is None else value

    def values(self) -> list[Value]:
        """All inputs."""
        return [self.value(i) for i in range(len(self.inputs))]

    def known(self, place: int) -> Known | None:
        """An input that has to be a constant, if it is there."""
        value = self.get(place)
        if isinstance(value, Live):
            self.refuse(f"a computed input {place}", "make it a constant of the file")
        return value

    def constant(self, place: int) -> Tensor | None:
        """The tensor of a constant that is one for all batch sizes."""
        value = self.known(place)
        if value is not None and not value.fixed:
            self.refuse(f"an input {place} that depends on the batch size", "make it a constant of the file")
        return None if value is None else value.two

    # ── attributes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _attribute(self, name: str, kinds: tuple[type, ...], default: Any) -> Any:
        value = self.attributes.get(name, default)
        if value is not default and not isinstance(value, kinds):
            self.refuse(f"the attribute {name} = {str(value)[:40]}", "check the file")
        return value

    def whole(self, name: str, default: int = 0) -> int:
        """A whole number."""
        return self._attribute(name, (int,), default)

    def real(self, name: str, default: float) -> float:
        """A number."""
        return float(self._attribute(name, (float, int), default))

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        return self._attribute(name, (str,), default)

    def wholes(self, name: str) -> list[int] | None:
        """A list of whole numbers; None where it lacks."""
        value = self._attribute(name, (list,), None)
        if value is not None and not all(isinstance(each, int) for each in value):
            self.refuse(f"the attribute {name} = {str(value)[:40]}", "check the file")
        return value

    def listed(self, name: str, place: int) -> list[int] | None:
        """A list of whole numbers that is an attribute in old opsets and an input in new ones."""
        value = self.get(place)
        return self.wholes(name) if value is None else self.drawing.numbers(value, name)

    def number(self, name: str, place: int) -> float | None:
        """A number that is an attribute in old opsets and an input in new ones."""
        value = self.get(place)
        if value is None:
            return self._attribute(name, (float, int), None)
        found = self.drawing.number(value)
        return self.refuse(f"a computed {name}", "make it a constant of the file") if found is None else found

    # ── axes ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def axis(self, x: Value, axis: int) -> int:
        """An axis of ``x``, counted from the front."""
        rank = x.two.dim()
        if not -rank <= axis < max(rank, 1):
            self.refuse(f"axis {axis} of a value with {rank} axes", "check the file")
        return axis % max(rank, 1)

    def inner(self, x: Value, axis: int) -> int:
        """An axis along which elements mix: not the batch's, samples must not depend on each other."""
        axis = self.axis(x, axis)
        if isinstance(x, Live) and x.two.shape[axis] != x.three.shape[axis]:
            self.refuse("an op along the batch axis", "samples must not depend on each other")
        return axis

    def images(self, x: Value) -> Value:
        """A value whose batch, if it has one, is its first axis, for ops that mix all others."""
        if isinstance(x, Live) and x.batch != 0:
            self.refuse("a value whose batch is not its first axis", "samples must not depend on each other")
        return x

    # ── messages and names ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, what: str, cure: str = "") -> NoReturn:
        """Raise the door's error."""
        self.drawing.refuse(f"{what} ({self.kind})", cure)

    def parameter(self, value: Known, role: str, change: Callable[[Tensor], Tensor] | None = None, key: str = "") -> Live:
        """A constant as a parameter of the layer that is drawn now."""
        return self.drawing.parameter(own(value), f"{self.drawing.layer}.{role}", change, key)

    def buffer(self, value: Known) -> Known:
        """A constant that trains along without gradients (running statistics): this layer's own, whoever else reads it."""
        copy = value.two.float().clone()
        return Known(two=copy, three=copy, name=value.name)


Rule = Callable[[Drawing, Node], Any]


def own(value: Known) -> Known:
    """Exporters write equal constants once. A vector of one number (zeros, ones) is nobody's shared weight: a copy for each reader."""
    if value.form is None and value.two.dim() == 1 and len(value.two) > 1 and bool((value.two == value.two[0]).all()):
        copy = value.two.clone()
        return Known(two=copy, three=copy, name=value.name)
    return value


def layer_name(node: str, kind: str, weight: str) -> str:
    """The path of a layer with weights: that of its weight where it has a good name, else the node's without the op's kind."""
    stem, dot, leaf = weight.rpartition(".")
    if dot and leaf in ("weight", "weight_quantized", "weight_scale", "gamma"):
        return path_of(stem)
    path = path_of(node)
    head, _, tail = path.rpartition(".")
    return head if head and tail == kind else path
