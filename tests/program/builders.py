"""Small Programs written by hand, in float and in int8, for the tests of every room that takes a Program.

Values are random but reproducible, and kept near unit variance, so that int8 tensors use their range and don't saturate.
"""

from math import prod, sqrt
from typing import Any

import numpy as np

from karui.pixels import Pixels
from karui.program.program import (
    Affine,
    AffineValues,
    Array,
    Dense,
    Element,
    FloatValues,
    Input,
    Layout,
    Op,
    Output,
    Program,
    Support,
    Tensor,
    Values,
    Weight,
)

NHWC: Layout = "nhwc"
NLC: Layout = "nlc"
PLAIN: Layout = "plain"


def bias_weight(name: str, data: Array) -> Weight:
    """A float32 weight, as every bias is."""
    return Weight(name=name, shape=data.shape, values=FloatValues(data=np.asarray(data, np.float32)))


def int8_values(real: Array, *, bits: int = 8, mask: Array | None = None) -> AffineValues:
    """Symmetric, per output channel: ``real`` [O, …] rounded to codes −127…127 (or fewer bits)."""
    top = 2 ** (bits - 1) - 1
    scale = (np.abs(real).reshape(len(real), -1).max(1) / top).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    codes = np.clip(np.rint(real / scale.reshape((-1,) + (1,) * (real.ndim - 1))), -top, top).astype(np.int8)
    if mask is not None:
        codes = np.where(mask, codes, 0).astype(np.int8)
    return AffineValues(bits=bits, codes=codes, scale=scale, zero_point=np.zeros(len(real), np.int32))


class Builder:
    """Adds one op after another; every method takes and returns names of tensors. ``integer`` makes int8 tensors and weights."""

    def __init__(self, name: str, *, integer: bool = False, seed: int = 0, sparsity: float = 0.0, bits: int = 8) -> None:
        self.name, self.integer, self.sparsity, self.bits = name, integer, sparsity, bits
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.weights: dict[str, Weight] = {}
        self.ops: list[Op] = []
        self.inputs: list[Input] = []
        self.square: dict[str, float] = {}  # expected square of each tensor's values, to keep variances near 1

    # ── tensors ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tensor(self, name: str, shape: tuple[int, ...], layout: Layout, *, square: float = 1.0, relu: bool = False, like: str = "") -> str:
        """A float32 or int8 tensor; ``like``: keep that tensor's scale and zero point."""
        quant = None
        if self.integer:
            source = self.tensors[like].quant if like else None
            top = float(np.float32(4.0 * sqrt(square)))
            fresh = (
                Affine(scale=float(np.float32(top / 255)), zero_point=-128)
                if relu
                else Affine(scale=float(np.float32(top / 127)), zero_point=int(self.rng.integers(-5, 6)))
            )
            quant = source or fresh
        self.tensors[name] = Tensor(name=name, shape=shape, dtype="int8" if self.integer else "float32", quant=quant, layout=layout)
        self.square[name] = square
        return name

    def input(self, shape: tuple[int, ...], layout: Layout, *, name: str = "input", pixels: Pixels | None = None) -> str:
        """Float32 in (then a quantize op, if integer), or uint8 pixels normalised by a lookup or an affine op."""
        if pixels is not None:
            self.tensors[name] = Tensor(name=name, shape=shape, dtype="uint8", layout=layout)
            self.inputs.append(Input(name=name, tensor=name, pixels=pixels))
            return self._normalise(name, pixels)
        self.tensors[name] = Tensor(name=name, shape=shape, layout=layout)
        self.square[name] = 1.0
        self.inputs.append(Input(name=name, tensor=name))
        if not self.integer:
            return name
        y = self.tensor(f"{name}_q", shape, layout)
        return self.op("quantize", f"{name}.quantize", (name,), y)

    def _normalise(self, name: str, pixels: Pixels) -> str:
        shape, layout = self.tensors[name].shape, self.tensors[name].layout
        factor, offset = pixels.affine()
        y = self.tensor(f"{name}_n", shape, layout)
        if not self.integer:
            self.weights[f"{name}.scale"] = bias_weight(f"{name}.scale", factor)
            self.weights[f"{name}.bias"] = bias_weight(f"{name}.bias", offset)
            return self.op("affine", f"{name}.normalise", (name,), y, {"scale": f"{name}.scale", "bias": f"{name}.bias"}, clamp=None)
        quant = self.tensors[y].quant
        assert isinstance(quant, Affine)
        real = np.arange(256)[None] * factor[:, None] + offset[:, None]
        codes = np.clip(np.rint(real / quant.scale) + quant.zero_point, -128, 127).astype(np.int8)
        codes = codes[0] if len(codes) == 1 else codes
        values = AffineValues(
            bits=8, codes=codes, scale=np.asarray(quant.scale, np.float32), zero_point=np.asarray(quant.zero_point, np.int32)
        )
        self.weights[f"{name}.table"] = Weight(name=f"{name}.table", shape=codes.shape, values=values)
        return self.op("lookup", f"{name}.normalise", (name,), y, {"table": f"{name}.table"})

    # ── ops ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def op(
        self, kind: str, name: str, inputs: tuple[str, ...], output: str, weights: dict[str, str] | None = None, **attributes: Any
    ) -> str:
        """Append one op and return its output."""
        self.ops.append(Op(kind=kind, name=name, inputs=inputs, outputs=(output,), weights=weights or {}, attributes=attributes))
        return output

    def weight(self, name: str, shape: tuple[int, ...], square: float) -> str:
        """A random weight [O, …] that gives unit variance from inputs of this mean square; sparse and int8 if the builder is."""
        fan_in = prod(shape[1:])
        mask = self.rng.random(shape) >= self.sparsity if self.sparsity else None
        real = self.rng.standard_normal(shape) / sqrt(fan_in * square * (1 - self.sparsity))
        real *= self.rng.uniform(0.7, 1.3, (shape[0],) + (1,) * (len(shape) - 1))
        support: Support = Dense()
        if mask is not None:
            real, support = np.where(mask, real, 0.0), Element(mask=mask)
        values: Values = int8_values(real, bits=self.bits, mask=mask) if self.integer else FloatValues(data=real.astype(np.float32))
        self.weights[name] = Weight(name=name, shape=shape, support=support, values=values)
        return name

    def bias(self, name: str, channels: int) -> str:
        """A random bias, float32 [O]."""
        self.weights[name] = bias_weight(name, 0.3 * self.rng.standard_normal(channels))
        return name

    def clamp(self, y: str, relu: bool, top: float | None = None) -> list[float | int | None] | None:
        """A fused ReLU (``top`` = 6 for ReLU6): real bounds on floats, codes on int8."""
        if not relu:
            return None
        quant = self.tensors[y].quant
        if not isinstance(quant, Affine):
            return [0.0, top]
        return [quant.zero_point, 127 if top is None else min(127, quant.zero_point + round(top / quant.scale))]

    def conv2d(
        self, x: str, channels: int, kernel: int, *, name: str, stride: int = 1, pad: int = 0, groups: int = 1, relu: bool = True
    ) -> str:
        """Square kernel and padding; ``groups`` = channels makes it depthwise."""
        h, w, c = self.tensors[x].shape
        size = tuple((n + 2 * pad - kernel) // stride + 1 for n in (h, w))
        weight = self.weight(f"{name}.weight", (channels, kernel, kernel, c // groups), self.square[x])
        y = self.tensor(f"{name}_y", (*size, channels), NHWC, square=0.5 if relu else 1.0, relu=relu)
        return self.op(
            "conv2d",
            name,
            (x,),
            y,
            {"weight": weight, "bias": self.bias(f"{name}.bias", channels)},
            stride=[stride, stride],
            padding=[pad] * 4,
            dilation=[1, 1],
            groups=groups,
            clamp=self.clamp(y, relu),
        )

    def conv1d(self, x: str, channels: int, kernel: int, *, name: str, stride: int = 1, pad: int = 0, relu: bool = True) -> str:
        """Over [L, C]."""
        length, c = self.tensors[x].shape
        weight = self.weight(f"{name}.weight", (channels, kernel, c), self.square[x])
        y = self.tensor(f"{name}_y", ((length + 2 * pad - kernel) // stride + 1, channels), NLC, square=0.5 if relu else 1.0, relu=relu)
        weights = {"weight": weight, "bias": self.bias(f"{name}.bias", channels)}
        return self.op("conv1d", name, (x,), y, weights, stride=stride, padding=[pad, pad], dilation=1, groups=1, clamp=self.clamp(y, relu))

    def linear(self, x: str, channels: int, *, name: str, relu: bool = False) -> str:
        """Over the last axis."""
        *outer, k = self.tensors[x].shape
        weight = self.weight(f"{name}.weight", (channels, k), self.square[x])
        y = self.tensor(f"{name}_y", (*outer, channels), PLAIN, square=0.5 if relu else 1.0, relu=relu)
        weights = {"weight": weight, "bias": self.bias(f"{name}.bias", channels)}
        return self.op("linear", name, (x,), y, weights, clamp=self.clamp(y, relu))

    def max_pool2d(self, x: str, size: int, *, name: str, stride: int | None = None) -> str:
        """Square window, no padding; keeps scale and zero point."""
        h, w, c = self.tensors[x].shape
        stride = stride or size
        y = self.tensor(f"{name}_y", ((h - size) // stride + 1, (w - size) // stride + 1, c), NHWC, square=self.square[x], like=x)
        return self.op("max_pool2d", name, (x,), y, kernel=[size, size], stride=[stride, stride], padding=[0, 0, 0, 0])

    def add(self, a: str, b: str, *, name: str, relu: bool = True) -> str:
        """Two tensors of one shape."""
        square = (self.square[a] + self.square[b]) * (0.5 if relu else 1.0)
        y = self.tensor(f"{name}_y", self.tensors[a].shape, self.tensors[a].layout, square=square, relu=relu)
        return self.op("add", name, (a, b), y, clamp=self.clamp(y, relu))

    def mean(self, x: str, *, name: str) -> str:
        """Over all axes but the channels."""
        *outer, c = self.tensors[x].shape
        y = self.tensor(f"{name}_y", (c,), PLAIN, square=0.25 * self.square[x])
        return self.op("mean", name, (x,), y, axes=list(range(len(outer))), keepdims=False, clamp=None)

    def flatten(self, x: str, *, name: str = "flatten") -> str:
        """In the Program's own order: for an image that is (H, W, C)."""
        y = self.tensor(f"{name}_y", (self.tensors[x].count,), PLAIN, square=self.square[x], like=x)
        return self.op("reshape", name, (x,), y)

    def dequantize(self, x: str) -> str:
        """Int8 to float32."""
        y = f"{x}_f"
        self.tensors[y] = Tensor(name=y, shape=self.tensors[x].shape, layout=self.tensors[x].layout)
        return self.op("dequantize", f"{x}.dequantize", (x,), y)

    def finish(self, *outputs: str, labels: tuple[str, ...] = ()) -> Program:
        """The Program, with these outputs."""
        return Program(
            name=self.name,
            tensors=self.tensors,
            weights=self.weights,
            ops=tuple(self.ops),
            inputs=tuple(self.inputs),
            outputs=tuple(Output(name=y if len(outputs) > 1 else "output", tensor=y, labels=labels) for y in outputs),
        )


# ── whole networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lenet(
    *,
    integer: bool = False,
    pixels: bool = False,
    sparsity: float = 0.0,
    bits: int = 8,
    width: tuple[int, int, int] = (6, 12, 40),
    size: int = 16,
    seed: int = 0,
) -> Program:
    """Conv 5×5 → pool → conv 5×5 → pool → linear → linear. ``width`` = (20, 50, 500) with ``size`` = 28 is LeNet-5 of 431k weights."""
    b = Builder("lenet", integer=integer, seed=seed, sparsity=sparsity, bits=bits)
    x = b.input((size, size, 1), NHWC, pixels=Pixels(mean=(0.286,), std=(0.353,)) if pixels else None)
    x = b.conv2d(x, width[0], 5, name="conv1")
    x = b.max_pool2d(x, 2, name="pool1")
    x = b.conv2d(x, width[1], 5, name="conv2")
    if size >= 20:
        x = b.max_pool2d(x, 2, name="pool2")
    x = b.flatten(x)
    x = b.linear(x, width[2], name="fc1", relu=True)
    x = b.linear(x, 10, name="fc2")
    return b.finish(x, labels=tuple("0123456789"))


def residual(*, integer: bool = False, pixels: bool = False, sparsity: float = 0.0, seed: int = 1) -> Program:
    """One plain and one strided residual block, a mean, a linear: a small ResNet over 12×12×3."""
    b = Builder("residual", integer=integer, seed=seed, sparsity=sparsity)
    x = b.input((12, 12, 3), NHWC, pixels=Pixels(mean=(0.5, 0.45, 0.4), std=(0.25, 0.24, 0.26)) if pixels else None)
    x = b.conv2d(x, 8, 3, name="stem", pad=1)
    y = b.conv2d(b.conv2d(x, 8, 3, name="b1.conv1", pad=1), 8, 3, name="b1.conv2", pad=1, relu=False)
    x = b.add(y, x, name="b1.add")
    y = b.conv2d(b.conv2d(x, 16, 3, name="b2.conv1", stride=2, pad=1), 16, 3, name="b2.conv2", pad=1, relu=False)
    x = b.add(y, b.conv2d(x, 16, 1, name="b2.shortcut", stride=2, relu=False), name="b2.add")
    x = b.linear(b.mean(x, name="pool"), 10, name="fc")
    return b.finish(b.dequantize(x) if integer else x)


def depthwise(*, integer: bool = False, sparsity: float = 0.0, seed: int = 2) -> Program:
    """Depthwise-separable convolutions over 10×8×1, as in a DS-CNN."""
    b = Builder("depthwise", integer=integer, seed=seed, sparsity=sparsity)
    x = b.conv2d(b.input((10, 8, 1), NHWC), 8, 3, name="stem", stride=2, pad=1)
    for i in range(2):
        x = b.conv2d(x, 8, 3, name=f"dw{i}", pad=1, groups=8)
        x = b.conv2d(x, 8, 1, name=f"pw{i}")
    return b.finish(b.linear(b.mean(x, name="pool"), 6, name="fc"))


def sensor(*, integer: bool = False, sparsity: float = 0.0, seed: int = 3) -> Program:
    """A 1-D CNN over windows of 32 samples × 4 channels."""
    b = Builder("sensor", integer=integer, seed=seed, sparsity=sparsity)
    x = b.conv1d(b.input((32, 4), NLC), 8, 5, name="conv1", stride=2, pad=2)
    x = b.conv1d(x, 12, 3, name="conv2", pad=1)
    x = b.linear(b.flatten(x), 5, name="fc")
    return b.finish(x)


ALL = {"lenet": lenet, "residual": residual, "depthwise": depthwise, "sensor": sensor}


def sample(program: Program, count: int = 4, seed: int = 0) -> list[Array]:
    """Random inputs [N, …] in the Program's own layout and dtypes."""
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    for entry in program.inputs:
        tensor = program.tensor(entry.tensor)
        shape = (count, *tensor.shape)
        floats = tensor.dtype == "float32"
        low, high = (0, 256) if tensor.dtype == "uint8" else (-128, 128)
        arrays.append(rng.standard_normal(shape).astype(np.float32) if floats else rng.integers(low, high, shape).astype(tensor.dtype))
    return arrays
