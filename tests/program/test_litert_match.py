"""The arithmetics ``litert_ref`` and ``xnnpack`` against the real LiteRT kernels: not one value may differ."""

from dataclasses import replace

import numpy as np
import pytest

from karui.program.interpreter import Arithmetic, run
from karui.program.program import Affine, Array, Input, Program
from tests.program.builders import NHWC, PLAIN, Builder, depthwise, lenet, residual, sample

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (karui[litert])")

from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: E402

from tests.program.tflite_writer import write  # noqa: E402

KERNELS: list[tuple[Arithmetic, OpResolverType]] = [("litert_ref", OpResolverType.BUILTIN_REF), ("xnnpack", OpResolverType.BUILTIN)]
both = pytest.mark.parametrize(("arithmetic", "resolver"), KERNELS, ids=["litert_ref", "xnnpack"])


def litert(program: Program, inputs: list[Array], resolver: OpResolverType) -> Array:
    """The first output of the real interpreter."""
    model = write(program, len(inputs[0]))
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    result: Array = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def int8_core(program: Program) -> Program:
    """The program without its quantize and dequantize ops."""
    ops = tuple(op for op in program.ops if op.kind not in ("quantize", "dequantize"))
    renamed = {op.outputs[0] if op.kind == "quantize" else op.inputs[0]: op for op in program.ops if op.kind in ("quantize", "dequantize")}
    inputs = tuple(Input(name=name, tensor=name) for name, op in renamed.items() if op.kind == "quantize")
    ends = {op.outputs[0]: name for name, op in renamed.items() if op.kind == "dequantize"}
    outputs = tuple(replace(output, tensor=ends.get(output.tensor, output.tensor)) for output in program.outputs)
    return replace(program, ops=ops, inputs=inputs, outputs=outputs)


def check(program: Program, batch: int, arithmetic: Arithmetic, resolver: OpResolverType) -> None:
    program = int8_core(program)
    inputs = sample(program, batch, seed=11)
    ours, theirs = run(program, inputs, arithmetic=arithmetic)[0], litert(program, inputs, resolver)
    assert ours.std() > 5, "a constant output proves nothing"
    differing = int((ours != theirs).sum())
    assert differing == 0, f"{differing} of {ours.size} values differ, by up to {np.abs(ours.astype(int) - theirs).max()}"


@both
@pytest.mark.parametrize("groups", [1, 8], ids=["conv", "depthwise"])
@pytest.mark.parametrize("relu", [False, True])
def test_conv2d(arithmetic: Arithmetic, resolver: OpResolverType, groups: int, relu: bool) -> None:
    b = Builder("conv", integer=True, seed=groups)
    x = b.conv2d(b.input((14, 14, 8), NHWC), 16, 3, name="conv", stride=2, pad=1, groups=groups, relu=relu)
    check(b.finish(x), 24, arithmetic, resolver)


@both
def test_linear(arithmetic: Arithmetic, resolver: OpResolverType) -> None:
    b = Builder("linear", integer=True)
    check(b.finish(b.linear(b.input((200,), PLAIN), 64, name="fc")), 500, arithmetic, resolver)


@both
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_two_operands(arithmetic: Arithmetic, resolver: OpResolverType, kind: str, seed: int) -> None:
    b = Builder(kind, integer=True, seed=seed)
    x, y = b.input((16, 16, 4), NHWC, name="x"), b.input((16, 16, 4), NHWC, name="y")
    b.tensors[y] = replace(b.tensors[y], quant=Affine(scale=float(np.float32(0.013 * (seed + 1))), zero_point=7 * seed - 10))
    z = b.tensor("z", (16, 16, 4), NHWC, square=2.0)
    b.op(kind, kind, (x, y), z, clamp=None)
    check(b.finish(z), 64, arithmetic, resolver)


@both
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("side", [4, 7])
def test_mean(arithmetic: Arithmetic, resolver: OpResolverType, keepdims: bool, side: int) -> None:
    b = Builder("mean", integer=True, seed=side)
    x = b.input((side, side, 16), NHWC)
    y = b.tensor("y", (1, 1, 16) if keepdims else (16,), NHWC if keepdims else PLAIN, square=0.02)
    b.op("mean", "mean", (x,), y, axes=[0, 1], keepdims=keepdims, clamp=None)
    check(b.finish(y), 256, arithmetic, resolver)


@both
@pytest.mark.parametrize("kind", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("pad", [0, 1])
def test_pool(arithmetic: Arithmetic, resolver: OpResolverType, kind: str, pad: int) -> None:
    b = Builder("pool", integer=True, seed=pad)
    x = b.input((9, 9, 8), NHWC)
    size = 9 if pad else 4
    y = b.tensor("y", (size, size, 8), NHWC, like=x)
    extra = {} if kind == "max_pool2d" else {"count_include_pad": False, "clamp": None}
    b.op(kind, "pool", (x,), y, kernel=[3, 3] if pad else [2, 2], stride=[1, 1] if pad else [2, 2], padding=[pad] * 4, **extra)
    check(b.finish(y), 64, arithmetic, resolver)


@both
@pytest.mark.parametrize("network", [lenet, residual, depthwise], ids=["lenet", "residual", "depthwise"])
def test_whole_networks(arithmetic: Arithmetic, resolver: OpResolverType, network: object) -> None:
    check(network(integer=True), 200, arithmetic, resolver)  # type: ignore[operator]
