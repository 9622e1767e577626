"""Graph: what the rules of ``onnx_layers.py`` and ``onnx_ops.py`` write into while a Program becomes ONNX.

A Program has channels last, ONNX convolves channels first. Every ONNX value here knows in which order it holds its tensor's axes, and a
transpose is written only where somebody needs another order: transposes of the Program cost nothing, and a flatten before a linear layer
is paid for by the order of that layer's columns.

An int8 tensor becomes uint8 codes (code + 128, zero point + 128: the same reals), which onnxruntime multiplies faster on x86.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from karui.errors import UnsupportedOp
from karui.program.arithmetic import bounds, quantization
from karui.program.program import Array, Op, Program, Tensor

SHIFT = 128  # from int8 codes to uint8 codes


@dataclass(frozen=True, kw_only=True)
class Form:
    """How an ONNX value holds a tensor: its axis j + 1 is the tensor's axis ``order[j]``.

    Where ``flat`` is set, the tensor has one axis, and the value holds it as an array of shape ``flat`` put in that order and flattened.
    """

    order: tuple[int, ...]
    flat: tuple[int, ...] = ()


def last(rank: int) -> Form:
    """The Program's own order."""
    return Form(order=tuple(range(rank)))


def first(rank: int) -> Form:
    """Channels (the last axis) first."""
    return Form(order=(rank - 1, *range(rank - 1)) if rank > 1 else tuple(range(rank)))


@dataclass(frozen=True, kw_only=True)
class Node:
    """One ONNX node."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class Graph:
    """Nodes, constants and, for each tensor of the Program, the values that hold it."""

    def __init__(self, program: Program, opset: int) -> None:
        self.program, self.opset = program, opset
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}
        self.batch = ""  # a value whose first axis is the batch
        self._values: dict[str, dict[Form, str]] = {}  # codes for int8 tensors, else the numbers themselves
        self._reals: dict[str, dict[Form, str]] = {}  # int8 tensors as reals
        self._written: dict[tuple[Any, ...], tuple[str, ...]] = {}
        self._taken: set[str] = set()

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def name(self, hint: str) -> str:
        """A free name that begins with ``hint``."""
        free, i = hint, 2
        while free in self._taken:
            free, i = f"{hint}.{i}", i + 1
        self._taken.add(free)
        return free

    def constant(self, array: Any, dtype: str, hint: str = "constant", *, owner: str = "") -> str:
        """A constant; the same content is written once, for each ``owner``."""
        data = np.asarray(array, dtype)
        key = (owner, dtype, data.shape, data.tobytes())
        if key not in self._written:
            self._written[key] = (self.name(hint),)
            self.constants[self._written[key][0]] = data
        return self._written[key][0]

    def node(self, kind: str, *inputs: str, hint: str = "", **attributes: Any) -> str:
        """A node with one output, of which it returns the name."""
        return self.nodes_outputs(kind, inputs, 1, hint=hint, **attributes)[0]

    def nodes_outputs(self, kind: str, inputs: Sequence[str], count: int, *, hint: str = "", **attributes: Any) -> tuple[str, ...]:
        """A node with ``count`` outputs; the same node is written once."""
        key = (kind, *inputs, count, repr(sorted(attributes.items())))
        if key not in self._written:
            made = tuple(self.name(hint or f"{inputs[0] if inputs else 'value'}.{kind.lower()}") for _ in range(count))
            self.nodes.append(Node(kind=kind, inputs=tuple(inputs), outputs=made, attributes=attributes))
            self._written[key] = made
        return self._written[key]

    def reshape(self, value: str, shape: Sequence[int], hint: str = "") -> str:
        """To ``shape``; −1 is the batch."""
        return self.node("Reshape", value, self.constant(shape, "int64", "shape"), hint=hint)

    def transpose(self, value: str, perm: Sequence[int]) -> str:
        """Axes in another order; nothing where it is the same."""
        return value if list(perm) == sorted(perm) else self.node("Transpose", value, perm=list(perm))

    # ── tensors ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name."""
        return self.program.tensor(name)

    def set(self, tensor: str, value: str, form: Form) -> None:
        """``value`` holds the tensor (its codes, if it is int8) in this form."""
        self._values.setdefault(tensor, {})[form] = value

    def form(self, tensor: str) -> Form:
        """A form in which the tensor is there already."""
        return next(iter(self._values[tensor]))

    def value(self, tensor: str, form: Form) -> str:
        """The tensor in this form: codes (uint8) if it is int8, else the numbers themselves."""
        held = self._values[tensor]
        if form not in held:
            held[form] = self._converted(tensor, *next(iter(held.items())), form)
        return held[form]

    def real(self, tensor: str, form: Form) -> str:
        """The tensor in this form as floats."""
        facts = self.tensor(tensor)
        if facts.dtype == "float32":
            return self.value(tensor, form)
        held = self._reals.setdefault(tensor, {})
        if form not in held and facts.dtype == "int8":
            held[form] = self.node("DequantizeLinear", self.value(tensor, form), *self.scale(facts), hint=f"{tensor}.real")
        elif form not in held:  # pixels and plain integers
            held[form] = self.node("Cast", self.value(tensor, form), to="float32", hint=f"{tensor}.real")
        return held[form]

    def scale(self, tensor: Tensor) -> tuple[str, str]:
        """The constants for scale and (uint8) zero point of an int8 tensor."""
        scale, zero_point = quantization(tensor)
        return self.constant(scale, "float32", "scale"), self.constant(zero_point + SHIFT, "uint8", "zero_point")

    def _converted(self, tensor: str, have: Form, value: str, want: Form) -> str:
        shape = self.tensor(tensor).shape
        if have.flat:
            unflat = self.reshape(value, [-1, *(have.flat[i] for i in have.order)])
            value = self.reshape(self.transpose(unflat, [0, *(1 + have.order.index(i) for i in range(len(have.order)))]), [-1, *shape])
            have = last(len(shape))
        if want.flat:
            raise ValueError(f"'{tensor}' can't be held in the form {want}")
        return self.transpose(value, [0, *(1 + have.order.index(i) for i in want.order)])

    # ── how an op ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self, op: Op, real: str, form: Form, *, shape: Sequence[int] = ()) -> None:
        """Clamp the op's result (floats in this form), quantize it if the op's output is int8, reshape it where ``shape`` is given.

        An integer kernel is a layer with its quantization right behind it, so nothing may stand between the two.
        """
        value = self._ended(op, real)
        self.set(op.outputs[0], self.reshape(value, shape, hint=f"{op.outputs[0]}.shaped") if shape else value, form)

    def _ended(self, op: Op, real: str) -> str:
        out = self.tensor(op.outputs[0])
        if out.dtype != "int8":
            return self.clip(real, *(op.attributes.get("clamp") or (None, None)))
        codes = self.node("QuantizeLinear", real, *self.scale(out), hint=f"{out.name}.codes")
        return self.clip_codes(codes, *bounds(op, out))

    def clip_codes(self, codes: str, low: int, high: int) -> str:
        """Between two codes of int8; −128 and 127 hold anyway. It comes after the rounding, so that a layer and its quantization fuse."""
        ends = None if low <= -SHIFT else low + SHIFT, None if high >= SHIFT - 1 else high + SHIFT
        return self.clip(codes, *ends, "uint8")

    def clip(self, value: str, low: float | None, high: float | None, dtype: str = "float32") -> str:
        """Between two bounds, either of them open."""
        if low is None and high is None:
            return value
        if low == 0 and high is None and dtype == "float32":
            return self.node("Relu", value)
        ends = [self.constant(v, dtype, "bound") if v is not None else "" for v in (low, high)]
        return self.node("Clip", value, *(ends if ends[1] else ends[:1]))

    def refuse(self, op: Op, what: str, cure: str) -> UnsupportedOp:
        """The error of this room, to be raised."""
        return UnsupportedOp(f"'{op.name}' ({op.kind}): {what}, which target 'onnx' can't express; {cure}")
