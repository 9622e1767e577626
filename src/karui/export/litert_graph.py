"""Graph: what the rules of ``litert_layers.py``, ``litert_ops.py`` … write into while a Program becomes a ``.tflite`` file.

LiteRT has channels last as the Program does, so every tensor of the Program is one tensor of the file, with a batch axis of 1 before its
own axes. A value is an index into ``held``. Nothing here knows the file format: ``litert_file.py`` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from karui.errors import UnsupportedOp
from karui.program.arithmetic import bounds, quantization
from karui.program.program import Op, Program, Tensor

Bound = float | None

_FUSED: Mapping[tuple[Bound, Bound], str] = {(None, None): "NONE", (0, None): "RELU", (0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1"}


@dataclass(frozen=True, kw_only=True)
class Held:
    """A tensor of the file: with its batch axis; ``data`` makes it a constant; scales, if it has any, run along ``axis``."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: int = 0
    axis: int = 0
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator: its builtin's name, the values it takes (−1: none) and makes, and the options of the file format by name."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


class Graph:
    """Nodes, tensors and, for each tensor of the Program, the value that holds it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[Node] = []
        self.held: list[Held] = []
        self._values: dict[str, int] = {}
        self._reals: dict[str, int] = {}
        self._views: dict[int, dict[tuple[int, ...], int]] = {}
        self._written: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self._taken: set[str] = set()

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def name(self, hint: str) -> str:
        """A free name that begins with ``hint``."""
        free, i = hint, 2
        while free in self._taken:
            free, i = f"{hint}.{i}", i + 1
        self._taken.add(free)
        return free

    def add(self, held: Held) -> int:
        """A tensor of the file, under a free name."""
        self.held.append(replace(held, name=self.name(held.name)))
        return len(self.held) - 1

    def constant(self, array: Any, dtype: str, hint: str = "constant", *, like: Held | None = None) -> int:
        """A constant; the same content is written once. ``like`` lends its scales."""
        data = np.ascontiguousarray(array, dtype)
        return self.stored(data.tobytes(), data.shape, dtype, hint, like=like)

    def stored(self, data: bytes, shape: tuple[int, ...], dtype: str, hint: str, *, like: Held | None = None) -> int:
        """A constant whose bytes are packed already (``dtype`` may be int4)."""
        base = like or Held(name="", shape=(), dtype=dtype)
        made = replace(base, name=hint, shape=shape, dtype=dtype, data=data)
        key = ("constant", data, replace(made, name="", data=None))
        if key not in self._written:
            self._written[key] = (self.add(made),)
        return self._written[key][0]

    def number(self, value: float) -> int:
        """A float constant without axes."""
        return self.constant(value, "float32", "number")

    def node(
        self,
        kind: str,
        *inputs: int,
        shape: Sequence[int] | None = None,
        dtype: str = "",
        tensor: Tensor | None = None,
        hint: str = "",
        **options: Any,
    ) -> int:
        """A node with one output, which it returns.

        Its shape is what the inputs broadcast to, its dtype and scale the first input's, unless told; ``tensor`` lends dtype and scale.
        """
        first = self.held[inputs[0]]
        if tensor is not None:
            base = self.like(tensor)
        else:
            base = first if dtype in ("", first.dtype) else Held(name="", shape=(), dtype=dtype)
        if shape is None:
            shape = np.broadcast_shapes(*(self.held[i].shape for i in inputs))
        made = replace(base, name=hint or f"{first.name}.{kind.lower()}", shape=tuple(shape), data=None)
        return self.nodes_outputs(kind, inputs, [made], **options)[0]

    def nodes_outputs(self, kind: str, inputs: Sequence[int], made: Sequence[Held], **options: Any) -> tuple[int, ...]:
        """A node with several outputs; the same node is written once."""
        key = (kind, *inputs, tuple(replace(m, name="") for m in made), repr(sorted(options.items())))
        if key not in self._written:
            outputs = tuple(self.add(m) for m in made)
            self.nodes.append(Node(kind=kind, inputs=tuple(inputs), outputs=outputs, options=options))
            self._written[key] = outputs
        return self._written[key]

    def cast(self, value: int, dtype: str, hint: str = "") -> int:
        """Numbers of another dtype, whatever their scale says."""
        return self.node("CAST", value, dtype=dtype, hint=hint, inDataType=self.held[value].dtype, outDataType=dtype)

    def reshape(self, value: int, shape: Sequence[int], hint: str = "") -> int:
        """The same numbers in another shape; one that a value had before is taken from there."""
        views = self._views.setdefault(value, {self.held[value].shape: value})
        wanted = tuple(shape)
        if wanted not in views:
            first = next(iter(views.values()))  # reshapes of reshapes would stay in the file
            views[wanted] = self.node("RESHAPE", first, self.constant(wanted, "int32", "shape"), shape=wanted, hint=hint)
            self._views[views[wanted]] = views
        return views[wanted]

    def copy(self, value: int, hint: str) -> int:
        """The same numbers as a result of its own."""
        held = self.held[value]
        shape = self.constant(held.shape, "int32", "shape")
        made = self.add(replace(held, name=hint, data=None))
        self.nodes.append(Node(kind="RESHAPE", inputs=(value, shape), outputs=(made,), options={}))
        return made

    def transpose(self, value: int, perm: Sequence[int], hint: str = "") -> int:
        """Axes in another order (the batch's is axis 0); a reshape where all that moves are axes of 1."""
        shape = self.held[value].shape
        moved = tuple(shape[axis] for axis in perm)
        long = [axis for axis in perm if shape[axis] != 1]
        if long == sorted(long):
            return self.reshape(value, moved, hint)
        return self.node("TRANSPOSE", value, self.constant(perm, "int32", "perm"), shape=moved, hint=hint)

    # ── tensors ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tensor(self, name: str) -> Tensor:
        """The Program's tensor of this name."""
        return self.program.tensor(name)

    def like(self, tensor: Tensor) -> Held:
        """How the file holds a tensor of the Program."""
        held = Held(name=tensor.name, shape=(1, *tensor.shape), dtype=tensor.dtype)
        if tensor.dtype != "int8":
            return held
        scale, zero_point = quantization(tensor)
        return replace(held, scale=(float(scale),), zero_point=zero_point)

    def shape(self, value: int) -> tuple[int, ...]:
        """With the batch axis."""
        return self.held[value].shape

    def set(self, tensor: str, value: int) -> None:
        """``value`` holds the tensor."""
        self._values[tensor] = value

    def value(self, tensor: str) -> int:
        """What holds the tensor: codes if it is int8, else the numbers themselves."""
        return self._values[tensor]

    def real(self, tensor: str) -> int:
        """The tensor as floats."""
        facts, value = self.tensor(tensor), self.value(tensor)
        if facts.dtype == "float32":
            return value
        if tensor not in self._reals:
            if facts.dtype == "int8":
                self._reals[tensor] = self.node("DEQUANTIZE", value, dtype="float32", hint=f"{tensor}.real")
            else:  # pixels and plain integers
                self._reals[tensor] = self.cast(value, "float32", hint=f"{tensor}.real")
        return self._reals[tensor]

    # ── how an op ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def end(self, op: Op, kind: str, *inputs: int, shape: Sequence[int] | None = None, **options: Any) -> None:
        """The op as a node that can clamp by itself: in integers where the op's output is int8 (its inputs then are, too).

        ``shape``: what the node gives, where that is a view of the op's output.
        """
        out = self.tensor(op.outputs[0])
        fused = self.fused(op)
        made = self.node(
            kind,
            *inputs,
            shape=shape or (1, *out.shape),
            tensor=out,
            hint=out.name if fused else f"{out.name}.open",
            fusedActivationFunction=fused or "NONE",
            **options,
        )
        self.set(out.name, self.reshape(made if fused else self.clamped(op, made), (1, *out.shape), hint=out.name))

    def finish(self, op: Op, real: int) -> None:
        """Clamp the op's result (floats), or quantize and clamp it if the op's output is int8; in the output's shape."""
        out = self.tensor(op.outputs[0])
        if out.dtype == "int8":
            real = self.node("QUANTIZE", real, tensor=out, hint=out.name)
        self.set(out.name, self.reshape(self.clamped(op, real), (1, *out.shape), hint=out.name))

    def fused(self, op: Op) -> str | None:
        """The op's clamp as one of LiteRT's activations; None where it is none of them."""
        out = self.tensor(op.outputs[0])
        if out.dtype != "int8":
            return _FUSED.get(_clamp(op))
        scale, zero_point = quantization(out)
        for (low, high), name in _FUSED.items():
            # runtimes round a bound up or to even; a bound that lies between two codes is none to rely on
            ends = [None if v is None else v / float(scale) for v in (low, high)]
            if any(v is not None and abs(abs(v % 1) - 0.5) < 1e-3 and abs(v) < 256 for v in ends):
                continue
            codes = (-128 if ends[0] is None else zero_point + round(ends[0])), (127 if ends[1] is None else zero_point + round(ends[1]))
            if (max(-128, codes[0]), min(127, codes[1])) == bounds(op, out):
                return name
        return None

    def clamped(self, op: Op, value: int) -> int:
        """A value of the op's output dtype, clamped as the op says by nodes of their own."""
        out = self.tensor(op.outputs[0])
        if out.dtype != "int8":
            return self.clip(value, *_clamp(op), hint=out.name)
        low, high = bounds(op, out)
        return self.clip(value, low if low > -128 else None, high if high < 127 else None, hint=out.name)

    def clip(self, value: int, low: Bound, high: Bound, hint: str = "") -> int:
        """Between two bounds, either of them open: reals for floats, codes for int8."""
        held = self.held[value]
        if held.dtype == "float32" and (low, high) in _FUSED and (low, high) != (None, None):
            return self.node(_FUSED[low, high], value, hint=hint)
        like = replace(held, data=None) if held.dtype == "int8" else None
        for kind, bound in (("MAXIMUM", low), ("MINIMUM", high)):
            if bound is not None:
                value = self.node(kind, value, self.constant([bound], held.dtype, "bound", like=like), hint=hint)
        return value

    def refuse(self, op: Op, what: str, cure: str) -> UnsupportedOp:
        """The error of this room, to be raised."""
        return UnsupportedOp(f"'{op.name}' ({op.kind}): {what}, which target 'litert' can't express; {cure}")


def _clamp(op: Op) -> tuple[Bound, Bound]:
    low, high = op.attributes.get("clamp") or (None, None)
    return low, high


def padded(graph: Graph, value: int, padding: Sequence[Sequence[int]], fill: float | None = None) -> int:
    """More of it around it, per axis (the batch's is axis 0); ``fill``: a real or a code, None: zero."""
    held = graph.held[value]
    if not np.any(padding):
        return value
    shape = [n + before + after for n, (before, after) in zip(held.shape, padding, strict=True)]
    pairs = graph.constant(padding, "int32", "padding")
    if fill is None or fill == held.zero_point:
        return graph.node("PAD", value, pairs, shape=shape)
    like = replace(held, data=None) if held.dtype == "int8" else None
    return graph.node("PADV2", value, pairs, graph.constant([fill], held.dtype, "fill", like=like), shape=shape)


def cut(graph: Graph, value: int, begin: Sequence[int], size: Sequence[int], step: Sequence[int] | None = None, hint: str = "") -> int:
    """``size`` elements per axis from ``begin`` on, every ``step``-th."""
    held = graph.held[value]
    step = step or [1] * len(size)
    if tuple(size) == held.shape:
        return value
    end = [b + (n - 1) * s + 1 for b, n, s in zip(begin, size, step, strict=True)]
    ends = [graph.constant(v, "int32", "ends") for v in (begin, end, step)]
    return graph.node("STRIDED_SLICE", value, *ends, shape=size, hint=hint)
