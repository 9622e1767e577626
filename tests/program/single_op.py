"""Programs of one op, for the tests that look at ops one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from karui.program.interpreter import Arithmetic, run
from karui.program.program import Affine, AffineValues, Array, DType, FloatValues, Input, Op, Output, Program, Sign, Tensor, Values, Weight

Quant = Affine | Sign | None

RNG = np.random.default_rng(5)


def normal(*shape: int) -> Array:
    """Random float32 reals."""
    return RNG.standard_normal(shape).astype(np.float32)


def codes(*shape: int) -> Array:
    """Random int8 codes."""
    return RNG.integers(-128, 128, shape).astype(np.int8)


def affine(scale: float, zero_point: int = 0) -> Affine:
    """A quantization whose scale is a float32 value."""
    return Affine(scale=float(np.float32(scale)), zero_point=zero_point)


def floats(data: Array) -> FloatValues:
    """Plain float32 values."""
    return FloatValues(data=np.asarray(data, np.float32))


def int8(codes: Array, scale: float | Sequence[float] | Array) -> AffineValues:
    """Symmetric int8 values, one scale per output channel."""
    codes = np.asarray(codes, np.int8)
    scales = np.broadcast_to(np.asarray(scale, np.float32), codes.shape[:1])
    return AffineValues(bits=8, codes=codes, scale=scales, zero_point=np.zeros(codes.shape[:1], np.int32))


def weight(name: str, values: Values) -> Weight:
    """A dense weight."""
    array = getattr(values, "data", getattr(values, "codes", getattr(values, "index", None)))
    return Weight(name=name, shape=np.shape(array), values=values)


def tensor(name: str, shape: Sequence[int], quant: Quant, dtype: DType | None = None) -> Tensor:
    """Int8 where there is a quantization, else float32, unless told."""
    return Tensor(name=name, shape=tuple(shape), dtype=dtype or ("float32" if quant is None else "int8"), quant=quant)


def program(
    kind: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Mapping[str, Values] | None = None,
    **attributes: Any,
) -> Program:
    """One op between these tensors."""
    op = Op(
        kind=kind,
        name="layer",
        inputs=tuple(t.name for t in inputs),
        outputs=tuple(t.name for t in outputs),
        weights={role: role for role in weights or {}},
        attributes=attributes,
    )
    return Program(
        name="one",
        tensors={t.name: t for t in (*inputs, *outputs)},
        weights={role: weight(role, values) for role, values in (weights or {}).items()},
        ops=(op,),
        inputs=tuple(Input(name=t.name, tensor=t.name) for t in inputs),
        outputs=tuple(Output(name=t.name, tensor=t.name) for t in outputs),
    )


def floating(
    kind: str, arrays: Sequence[Array], shape: Sequence[int], weights: Mapping[str, Array] | None = None, **attributes: Any
) -> Array:
    """The op on float32 arrays [N, …]; ``shape`` is the output's, without batch."""
    given = [np.asarray(a, np.float32) for a in arrays]
    inputs = [tensor(f"x{i}", a.shape[1:], None) for i, a in enumerate(given)]
    values = {role: floats(data) for role, data in (weights or {}).items()}
    return run(program(kind, inputs, [tensor("y", shape, None)], values, **attributes), given)[0]


def integer(
    kind: str,
    arrays: Sequence[Array],
    quants: Sequence[Quant],
    shape: Sequence[int],
    weights: Mapping[str, Values] | None = None,
    *,
    arithmetic: Arithmetic = "karui",
    **attributes: Any,
) -> Array:
    """The op on int8 arrays [N, …]; ``quants`` are those of the inputs and, last, of the output."""
    given = [np.asarray(a, np.int8) for a in arrays]
    inputs = [tensor(f"x{i}", a.shape[1:], q) for i, (a, q) in enumerate(zip(given, quants, strict=False))]
    one = program(kind, inputs, [tensor("y", shape, quants[-1])], weights, **attributes)
    return run(one, given, arithmetic=arithmetic)[0]
