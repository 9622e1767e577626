"""Program: a lowered network as plain data.

Shapes have no batch axis: one sample is what a device sees. Images are ``(H, W, C)``, sequences ``(L, C)``; everything else is as
the network wrote it. The kinds of op, their operands and their attributes are the table in ``kinds.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from karui.pixels import Pixels

DType = Literal["float32", "int8", "uint8", "int32"]
Layout = Literal["nhwc", "nlc", "plain"]
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Affine:
    """How the integers of an activation stand for reals: ``real = scale · (code − zero_point)``, one scale for the whole tensor."""

    bits: int = 8
    scale: float  # a float32 value
    zero_point: int


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One-bit activations: ``real = ±scale``; codes are −1 and +1."""

    scale: float


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A value that flows between ops. ``layout`` says what the axes mean; ``quant`` is None for floats and plain integers."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = "float32"
    quant: Affine | Sign | None = None
    layout: Layout = "plain"

    @property
    def count(self) -> int:
        """Elements of one sample."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of one sample in memory."""
        return self.count * (1 if self.dtype in ("int8", "uint8") else 4)


# ── Weights: which are stored (support) × how each is written (values) ──────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """Every weight is stored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Element:
    """Single weights are stored where ``mask`` (bool, the weight's shape) is True."""

    mask: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Blocks of ``rows`` output channels × ``columns`` inputs are stored where ``mask`` (bool, the weight's shape) is True.

    The weight is seen as a matrix ``[O, K]`` with K = all other axes in the Program's order, so columns run along input channels.
    """

    rows: int
    columns: int
    mask: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class NofM:
    """In each run of ``m`` weights along the last axis at most ``n`` are stored; ``mask`` is bool, the weight's shape."""

    n: int
    m: int
    mask: Array


Support = Dense | Element | Block | NofM


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatValues:
    """Plain numbers. ``data``: float32 in the weight's shape, zero where unsupported."""

    data: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class AffineValues:
    """``real = scale · (code − zero_point)``.

    codes: int8 in the weight's shape (``bits`` says how many are used; unsupported = zero_point).
    scale, zero_point: float32 and int32; ``[O]`` (per output channel), ``[]`` (per tensor) or ``[O, G]`` with ``group`` inputs each.
    """

    bits: int
    codes: Array
    scale: Array
    zero_point: Array
    group: int = 0  # inputs per group along K; 0: no groups


@dataclass(frozen=True, kw_only=True, eq=False)
class SignValues:
    """``real = scale[o] · code`` with codes −1 and +1 (int8; 0 only where unsupported)."""

    codes: Array
    scale: Array  # float32 [O] or []


@dataclass(frozen=True, kw_only=True, eq=False)
class TernaryValues:
    """``real = positive[o]`` for code +1, ``−negative[o]`` for code −1, 0 for code 0. Such a zero is a value, not support."""

    codes: Array
    positive: Array  # float32 [O] or []
    negative: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class CodebookValues:
    """``real = scale[o] · (codebook[index])``; the codebook is float32, or int8 where the op runs in integers."""

    index: Array  # uint8 in the weight's shape; unsupported = 0
    codebook: Array  # [entries], float32 or int8
    scale: Array  # float32 [O] or []


Values = FloatValues | AffineValues | SignValues | TernaryValues | CodebookValues


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """A constant of the program, in the op's own axis order (``kinds.py``); output channels come first."""

    name: str
    shape: tuple[int, ...]
    support: Support = field(default_factory=Dense)
    values: Values

    @property
    def mask(self) -> Array:
        """Which weights are stored: bool in the weight's shape."""
        return np.ones(self.shape, bool) if isinstance(self.support, Dense) else self.support.mask

    @property
    def stored(self) -> int:
        """How many weights are stored."""
        return prod(self.shape) if isinstance(self.support, Dense) else int(self.support.mask.sum())

    def per_channel(self, parameter: Array) -> Array:
        """A scale of shape ``[O]``, ``[]`` or ``[O, G]`` spread so that it multiplies the weight's shape."""
        return per_channel(parameter, self.shape, getattr(self.values, "group", 0))

    def codes(self) -> Array:
        """What an integer op multiplies with, int32 in the weight's shape, zero where unsupported.

        The real weight is ``multiplier() · codes()``, but for ternary weights of two scales and for grouped scales.
        """
        v = self.values
        if isinstance(v, AffineValues):
            codes = v.codes.astype(np.int32) - self.per_channel(v.zero_point).astype(np.int32)
        elif isinstance(v, SignValues | TernaryValues):
            codes = v.codes.astype(np.int32)
        elif isinstance(v, CodebookValues) and v.codebook.dtype == np.int8:
            codes = v.codebook[v.index].astype(np.int32)
        else:
            raise TypeError(f"'{self.name}' holds floats: it has no integer codes")
        return np.where(self.mask, codes, 0)

    def multiplier(self) -> Array:
        """The scale of each output channel: float32 ``[O]`` (broadcast from a per-tensor one)."""
        v = self.values
        scale = v.positive if isinstance(v, TernaryValues) else np.float32(1) if isinstance(v, FloatValues) else v.scale
        return np.broadcast_to(np.asarray(scale, np.float32), (self.shape[0],))

    def real(self) -> Array:
        """The real numbers that this weight stands for: float32 in its shape."""
        v = self.values
        if isinstance(v, FloatValues):
            return np.where(self.mask, v.data, np.float32(0))
        if isinstance(v, TernaryValues):
            scale = np.where(v.codes > 0, self.per_channel(v.positive), self.per_channel(v.negative))
            return np.where(self.mask, v.codes * scale, np.float32(0)).astype(np.float32)
        if isinstance(v, CodebookValues):
            return np.where(self.mask, v.codebook[v.index].astype(np.float32) * self.per_channel(v.scale), np.float32(0)).astype(np.float32)
        return (self.codes() * self.per_channel(np.asarray(v.scale))).astype(np.float32)


def per_channel(parameter: Array, shape: tuple[int, ...], group: int = 0) -> Array:
    """A scale or zero point of shape ``[O]``, ``[]`` or (of ``group`` inputs each) ``[O, G]``, so that it broadcasts against a weight."""
    if group and parameter.ndim == 2:
        return np.repeat(parameter, group, axis=1)[:, : prod(shape[1:])].reshape(shape)
    return parameter.reshape(parameter.shape + (1,) * (len(shape) - parameter.ndim))


@dataclass(frozen=True, kw_only=True)
class Op:
    """One step. ``weights`` maps a role of the kind (``weight``, ``bias``, ``table`` …) to a Weight's name; attributes are JSON values."""

    kind: str
    name: str  # the layer's path in the user's network, for messages and the report
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Input:
    """A named input; ``pixels`` is set where the program takes uint8 and normalises inside."""

    name: str
    tensor: str
    pixels: Pixels | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """A named output; ``labels`` are the classes' names, if it is a classification."""

    name: str
    tensor: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A whole network: ops in an order in which they can run."""

    name: str
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, Weight]
    ops: tuple[Op, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    states: tuple[tuple[str, str], ...] = ()  # (output tensor, input tensor): carried to the next call
    metadata: Mapping[str, str] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name."""
        return self.tensors[name]

    def operand(self, op: Op, role: str) -> Weight | None:
        """The weight in this role of the op, if it has one."""
        name = op.weights.get(role)
        return None if name is None else self.weights[name]
