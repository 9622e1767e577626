"""The Program behind ``every-v1.karui``: each support with each way of writing values, an image network, labels, pixels and a state.

All numbers come from sums of integers, so that the Program is the same under every release of NumPy.
"""

from dataclasses import replace

import numpy as np

from karui.pixels import Pixels
from karui.program.program import (
    Affine,
    AffineValues,
    Array,
    Block,
    CodebookValues,
    Dense,
    Element,
    FloatValues,
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

SHAPE = (8, 2, 3, 4)


def wave(shape: tuple[int, ...], low: int, high: int, step: int) -> Array:
    """Integers low … high − 1 in a fixed disorder."""
    return (low + np.arange(np.prod(shape)) * step // 3 % (high - low)).reshape(shape)


def supports() -> dict[str, Support]:
    element = wave(SHAPE, 0, 10, 7) < 3
    blocks = (np.arange(4 * 6).reshape(4, 6) % 5 < 2).repeat(2, 0).repeat(4, 1).reshape(SHAPE)
    two_of_four = np.broadcast_to(np.array([True, False, False, True]), SHAPE).copy()
    return {
        "dense": Dense(),
        "element": Element(mask=element),
        "block": Block(rows=2, columns=4, mask=blocks),
        "nm": NofM(n=2, m=4, mask=two_of_four),
    }


def values(mask: Array) -> dict[str, Values]:
    scale = (np.arange(1, 9) / 64).astype(np.float32)
    one = np.asarray(0.125, np.float32)
    zero = np.zeros(8, np.int32)
    shifted = np.arange(-4, 4, dtype=np.int32)
    sign = (wave(SHAPE, 0, 2, 5) * 2 - 1).astype(np.int8)
    spread = shifted.reshape(8, 1, 1, 1).astype(np.int8)
    groups = (wave((8, 4), 1, 9, 5) / 32).astype(np.float32)
    return {
        "float": FloatValues(data=np.where(mask, wave(SHAPE, -50, 50, 11) / 8, 0).astype(np.float32)),
        "int8": AffineValues(bits=8, codes=np.where(mask, wave(SHAPE, -127, 128, 31), 0).astype(np.int8), scale=scale, zero_point=zero),
        "int4": AffineValues(bits=4, codes=np.where(mask, wave(SHAPE, -8, 8, 5), spread).astype(np.int8), scale=scale, zero_point=shifted),
        "int3": AffineValues(
            bits=3,
            codes=np.where(mask, wave(SHAPE, -4, 4, 5), 0).astype(np.int8),
            scale=groups,
            zero_point=np.zeros((8, 4), np.int32),
            group=6,
        ),
        "sign": SignValues(codes=np.where(mask, sign, 0).astype(np.int8), scale=one),
        "ternary": TernaryValues(codes=np.where(mask, wave(SHAPE, -1, 2, 4), 0).astype(np.int8), positive=scale, negative=one),
        "codebook": CodebookValues(
            index=np.where(mask, wave(SHAPE, 0, 5, 4), 0).astype(np.uint8),
            codebook=np.array([-3, -1, 0, 1, 2.5], np.float32),
            scale=scale,
        ),
        "palette": CodebookValues(
            index=np.where(mask, wave(SHAPE, 0, 3, 4), 0).astype(np.uint8), codebook=np.array([-100, 3, 90], np.int8), scale=one
        ),
    }


def every() -> Program:
    """The Program."""
    weights = {}
    for support_name, support in supports().items():
        mask = np.ones(SHAPE, bool) if isinstance(support, Dense) else support.mask
        for value_name, value in values(mask).items():
            name = f"{support_name}.{value_name}"
            weights[name] = Weight(name=name, shape=SHAPE, support=support, values=value)
    constants = {name: Tensor(name=name, shape=SHAPE) for name in weights}
    table = AffineValues(
        bits=8, codes=np.arange(-128, 128).astype(np.int8), scale=np.asarray(0.5, np.float32), zero_point=np.asarray(-3, np.int32)
    )
    weights["table"] = Weight(name="table", shape=(256,), values=table)
    weights["bias"] = Weight(name="bias", shape=(8,), values=FloatValues(data=np.arange(8, dtype=np.float32) / 4))
    image = Tensor(name="image", shape=(4, 5, 4), dtype="uint8", layout="nhwc")
    codes = Tensor(name="codes", shape=(4, 5, 4), dtype="int8", layout="nhwc", quant=Affine(scale=0.5, zero_point=-3))
    conv = Tensor(name="conv", shape=(3, 3, 8), dtype="int8", layout="nhwc", quant=Affine(scale=0.25, zero_point=-128))
    attributes = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1], "groups": 1, "clamp": [-128, 100]}
    layer = Op(
        kind="conv2d",
        name="conv",
        inputs=("codes",),
        outputs=("conv",),
        weights={"weight": "nm.int8", "bias": "bias"},
        attributes=attributes,
    )
    return Program(
        name="every",
        tensors={**constants, "image": image, "codes": codes, "conv": conv, "before": replace(conv, name="before")},
        weights=weights,
        ops=(
            *(Op(kind="constant", name=name, inputs=(), outputs=(name,), weights={"value": name}) for name in constants),
            Op(kind="lookup", name="normalise", inputs=("image",), outputs=("codes",), weights={"table": "table"}),
            layer,
        ),
        inputs=(Input(name="image", tensor="image", pixels=Pixels(mean=(0.5, 0.25, 0.125, 0.0), std=(0.5, 1.0, 2.0, 4.0))),),
        outputs=(Output(name="conv", tensor="conv", labels=("a", "b b", "ü")), *(Output(name=n, tensor=n) for n in constants)),
        states=(("conv", "before"),),
        metadata={"made by": "a test"},
    )
