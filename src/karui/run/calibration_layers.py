"""The layers that ``karui calibrate`` times: every kernel of integer layers on a few sizes, and every way of storing weights on two."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from karui.program.program import (
    Affine,
    AffineValues,
    Array,
    Block,
    CodebookValues,
    Dense,
    Element,
    Input,
    NofM,
    Op,
    Output,
    Program,
    SignValues,
    Support,
    Tensor,
    TernaryValues,
    Values,
    Weight,
)

Size = tuple[int, int, int, int]  # pixels of a side, inputs, outputs, taps of a side
FULL: tuple[Size, ...] = (
    (14, 64, 64, 3),
    (14, 128, 128, 1),
    (28, 32, 64, 1),
    (7, 256, 256, 1),
    (28, 16, 16, 3),
    (32, 3, 16, 3),
    (7, 64, 160, 1),
)
ONE: tuple[Size, ...] = ((1, 256, 256, 1), (1, 1024, 128, 1), (1, 64, 64, 1))
TWO: tuple[Size, ...] = ((1, 256, 128, 1), (7, 128, 128, 1))
DEPTH: tuple[Size, ...] = ((14, 128, 128, 3), (28, 32, 32, 3), (14, 64, 64, 5))
VALUES = ("sign", "ternary", "4-bit", "palette", "skewed palette")
FEW = ("sign", "ternary", "3-bit", "4-bit", "palette")
SUPPORTS = ("half", "tenth", "1:4")
SCALE = 0.004


@dataclass
class _Layers:
    """A Program in the making: layers side by side, each with its own input and output. kernels: output → what is to compute it."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    kernels: dict[str, str] = field(default_factory=dict)

    def add(self, size: Size, kernel: str, values: str = "int8", support: str = "dense") -> None:
        """One more."""
        side, inputs, outputs, taps = size
        name, depth = f"l{len(self.ops)}", kernel == "depth"
        shape = (outputs, taps, taps, 1 if depth else inputs)
        rng = np.random.default_rng(len(self.ops))
        kept = _support(support, shape, rng)
        weight = Weight(name=f"{name}.w", shape=shape, support=kept, values=_values(values, shape, kept, rng))
        edge = [taps // 2] * 4
        attributes = {"stride": [1, 1], "padding": edge, "dilation": [1, 1], "groups": inputs if depth else 1}
        ends = {"x": (side, side, inputs), "y": (side, side, outputs)}
        for end, each in ends.items():
            quant = Affine(scale=0.05 if end == "x" else 1.0, zero_point=-128)
            self.tensors[f"{name}.{end}"] = Tensor(name=f"{name}.{end}", shape=each, dtype="int8", quant=quant, layout="nhwc")
        self.weights[weight.name] = weight
        op = Op(
            kind="conv2d", name=name, inputs=(f"{name}.x",), outputs=(f"{name}.y",), weights={"weight": weight.name}, attributes=attributes
        )
        self.ops.append(op)
        self.kernels[f"{name}.y"] = kernel


def layers() -> tuple[Program, dict[str, str]]:
    """All of them side by side, and which kernel is to compute the output of each."""
    made = _Layers()
    for size, kernel, values, support in _wanted():
        made.add(size, kernel, values, support)
    program = Program(
        name="calibration",
        tensors=made.tensors,
        weights=made.weights,
        ops=tuple(made.ops),
        inputs=tuple(Input(name=op.inputs[0], tensor=op.inputs[0]) for op in made.ops),
        outputs=tuple(Output(name=op.outputs[0], tensor=op.outputs[0]) for op in made.ops),
    )
    return program, made.kernels


def _wanted() -> Iterator[tuple[Size, str, str, str]]:
    for kernel in ("panels", "rows"):
        for size in FULL[: None if kernel == "panels" else 3] + ONE:
            yield size, kernel, "int8", "dense"
    for size in DEPTH:
        yield size, "depth", "int8", "dense"
    for size in FULL[:2] + TWO:
        for share in ("blocks of half", "blocks of a tenth"):
            yield size, "listed", "int8", share
    for size in TWO:
        for kernel in ("panels", "rows"):
            for values in VALUES:
                yield size, kernel, values, "dense"
            for support in SUPPORTS:
                yield size, kernel, "int8", support
            yield size, kernel, "skewed palette", "half"
        for support in SUPPORTS:
            yield size, "lists", "int8", support
        for values in FEW:
            yield size, "few", values, "dense"


def _support(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Support:
    if kind == "dense":
        return Dense()
    if kind.startswith("blocks"):
        rows, inputs = shape[0], int(np.prod(shape[1:]))
        blocks = rng.random((-(-rows // 16), -(-inputs // 4))) < (0.5 if kind.endswith("half") else 0.1)
        mask = np.repeat(np.repeat(blocks, 16, 0), 4, 1)[:rows, :inputs].reshape(shape)
        return Block(rows=16, columns=4, mask=mask)
    if kind == "1:4":
        order = rng.random((*shape[:-1], shape[-1] // 4, 4)).argsort(-1)
        return NofM(n=1, m=4, mask=(order < 1).reshape(shape))
    return Element(mask=rng.random(shape) < (0.5 if kind == "half" else 0.1))


def _values(kind: str, shape: tuple[int, ...], support: Support, rng: np.random.Generator) -> Values:
    mask = np.ones(shape, bool) if isinstance(support, Dense) else support.mask
    scale, none = np.full(shape[0], SCALE, np.float32), np.zeros(shape[0], np.int32)

    def kept(codes: Array) -> Array:
        return np.where(mask, codes, 0).astype(codes.dtype)

    if kind == "sign":
        return SignValues(codes=kept((2 * rng.integers(0, 2, shape) - 1).astype(np.int8)), scale=scale)
    if kind == "ternary":
        return TernaryValues(codes=kept(rng.integers(-1, 2, shape).astype(np.int8)), positive=scale, negative=scale)
    if kind.endswith("palette"):  # a skewed one is shorter as Huffman codes
        book = np.sort(rng.choice(np.arange(-127, 128), 16, replace=False)).astype(np.int8)
        index = np.minimum(rng.geometric(0.4, shape) - 1, 15) if kind.startswith("skewed") else rng.integers(0, 16, shape)
        return CodebookValues(index=kept(index.astype(np.uint8)), codebook=book, scale=scale)
    bits = int(kind[0]) if kind.endswith("-bit") else 8
    most = 2 ** (bits - 1) - 1
    codes = rng.integers(-most, most + 1, shape).astype(np.int8)
    return AffineValues(bits=bits, codes=kept(np.where(codes == 0, 1, codes).astype(np.int8)), scale=scale, zero_point=none)
