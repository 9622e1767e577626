"""The arithmetics ``litert_ref`` and ``xnnpack`` against the real LiteRT kernels: not one value may differ."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.export.litert import write
from karui.program.interpreter import Arithmetic, run
from karui.program.program import Affine, AffineValues, Input, Program
from karui.run.litert import load
from tests.program.builders import NHWC, PLAIN, Builder, depthwise, lenet, residual, sample

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (karui[litert])")

both = pytest.mark.parametrize("arithmetic", ["litert_ref", "xnnpack"])


def int8_core(program: Program) -> Program:
    """The program without its quantize and dequantize ops."""
    ops = tuple(op for op in program.ops if op.kind not in ("quantize", "dequantize"))
    renamed = {op.outputs[0] if op.kind == "quantize" else op.inputs[0]: op for op in program.ops if op.kind in ("quantize", "dequantize")}
    inputs = tuple(Input(name=name, tensor=name) for name, op in renamed.items() if op.kind == "quantize")
    ends = {op.outputs[0]: name for name, op in renamed.items() if op.kind == "dequantize"}
    outputs = tuple(replace(output, tensor=ends.get(output.tensor, output.tensor)) for output in program.outputs)
    return replace(program, ops=ops, inputs=inputs, outputs=outputs)


def check(program: Program, batch: int, arithmetic: Arithmetic, folder: Path) -> None:
    program = int8_core(program)
    inputs = sample(program, batch, seed=11)
    theirs = load(write(program, folder), reference=arithmetic == "litert_ref").run(inputs)[0]
    ours = run(program, inputs, arithmetic=arithmetic)[0]
    assert ours.std() > 5, "a constant output proves nothing"
    differing = int((ours != theirs).sum())
    assert differing == 0, f"{differing} of {ours.size} values differ, by up to {np.abs(ours.astype(int) - theirs).max()}"


@both
@pytest.mark.parametrize("groups", [1, 8], ids=["conv", "depthwise"])
@pytest.mark.parametrize("relu", [False, True])
def test_conv2d(arithmetic: Arithmetic, tmp_path: Path, groups: int, relu: bool) -> None:
    b = Builder("conv", integer=True, seed=groups)
    x = b.conv2d(b.input((14, 14, 8), NHWC), 16, 3, name="conv", stride=2, pad=1, groups=groups, relu=relu)
    check(b.finish(x), 24, arithmetic, tmp_path)


@both
def test_linear(arithmetic: Arithmetic, tmp_path: Path) -> None:
    b = Builder("linear", integer=True)
    check(b.finish(b.linear(b.input((200,), PLAIN), 64, name="fc")), 500, arithmetic, tmp_path)


@both
@pytest.mark.parametrize("share", [1e-4, 1e-7, 1e-12])
def test_a_bias_beyond_32_bits(arithmetic: Arithmetic, tmp_path: Path, share: float) -> None:
    """Channels that training let die: next to no weights, and a bias."""
    b = Builder("dead", integer=True)
    program = b.finish(b.conv2d(b.input((14, 14, 8), NHWC), 16, 3, name="conv", pad=1))
    weight = program.weights["conv.weight"]
    assert isinstance(weight.values, AffineValues)
    scale = weight.values.scale.copy()
    scale[:3] *= np.float32(share)
    values = replace(weight.values, scale=scale)
    program = replace(program, weights={**program.weights, "conv.weight": replace(weight, values=values)})
    check(program, 24, arithmetic, tmp_path)
    sample_ = sample(program, 2, seed=3)
    there, here = run(program, sample_, arithmetic=arithmetic)[0], run(program, sample_)[0]
    assert np.abs(there.astype(int) - here).max() <= 1


@both
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_two_operands(arithmetic: Arithmetic, tmp_path: Path, kind: str, seed: int) -> None:
    b = Builder(kind, integer=True, seed=seed)
    x, y = b.input((16, 16, 4), NHWC, name="x"), b.input((16, 16, 4), NHWC, name="y")
    b.tensors[y] = replace(b.tensors[y], quant=Affine(scale=float(np.float32(0.013 * (seed + 1))), zero_point=7 * seed - 10))
    z = b.tensor("z", (16, 16, 4), NHWC, square=2.0)
    b.op(kind, kind, (x, y), z, clamp=None)
    check(b.finish(z), 64, arithmetic, tmp_path)


@both
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((4, 4, 16), [0, 1]), ((7, 7, 16), [0, 1]), ((4, 5, 6), [1]), ((4, 5, 6), [2]), ((9, 8), [0]), ((3, 4, 10), [0, 1, 2])],
)
@pytest.mark.parametrize("ties", [False, True])
def test_mean(arithmetic: Arithmetic, tmp_path: Path, keepdims: bool, shape: tuple[int, ...], axes: list[int], ties: bool) -> None:
    """With scales in simple ratios, half of a code is common; the roundings of the three arithmetics show there."""
    b = Builder("mean", integer=True, seed=shape[0])
    x = b.input(shape, PLAIN)
    out = tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)
    y = b.tensor("y", out, PLAIN, square=0.02)
    if ties:
        b.tensors[x] = replace(b.tensors[x], quant=Affine(scale=float(np.float32(0.031)), zero_point=-20))
        b.tensors[y] = replace(b.tensors[y], quant=Affine(scale=float(np.float32(0.0124)), zero_point=5))
    b.op("mean", "mean", (x,), y, axes=axes, keepdims=keepdims, clamp=None)
    check(b.finish(y), 128, arithmetic, tmp_path)


@both
@pytest.mark.parametrize("kind", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("pad", [0, 1])
def test_pool(arithmetic: Arithmetic, tmp_path: Path, kind: str, pad: int) -> None:
    b = Builder("pool", integer=True, seed=pad)
    x = b.input((9, 9, 8), NHWC)
    size = 9 if pad else 4
    y = b.tensor("y", (size, size, 8), NHWC, like=x)
    extra = {} if kind == "max_pool2d" else {"count_include_pad": False, "clamp": None}
    b.op(kind, "pool", (x,), y, kernel=[3, 3] if pad else [2, 2], stride=[1, 1] if pad else [2, 2], padding=[pad] * 4, **extra)
    check(b.finish(y), 64, arithmetic, tmp_path)


@both
@pytest.mark.parametrize("network", [lenet, residual, depthwise], ids=["lenet", "residual", "depthwise"])
def test_whole_networks(arithmetic: Arithmetic, tmp_path: Path, network: object) -> None:
    check(network(integer=True), 200, arithmetic, tmp_path)  # type: ignore[operator]


@both
@pytest.mark.parametrize("counted", [False, True])
def test_average_pools_that_change_the_scale(arithmetic: Arithmetic, tmp_path: Path, counted: bool) -> None:
    b = Builder("pool", integer=True, seed=5)
    x = b.input((9, 8, 8), NHWC)
    y = b.tensor("y", (5, 4, 8) if counted else (4, 4, 8), NHWC, square=0.2)
    pads = [1, 0, 1, 0] if counted else [0, 0, 0, 0]
    b.op("avg_pool2d", "pool", (x,), y, kernel=[3, 2], stride=[2, 2], padding=pads, count_include_pad=counted, clamp=None)
    check(b.finish(y), 64, arithmetic, tmp_path)
