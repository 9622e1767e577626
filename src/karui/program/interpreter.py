"""The interpreter: what every kind of op computes, in slow and obvious NumPy. It is the definition of "correct" for every target.

Arrays carry a batch axis first; everything else is as the Program says. An op runs in integers where its output is int8 (``integers.py``),
by one of the three arithmetics of docs/adr/0001, else in float32 (``floating.py``); ``moves.py`` serves both.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, overload

import numpy as np

from karui.errors import DataError, UnsupportedOp
from karui.program import floating, integers, moves
from karui.program.arithmetic import quantization
from karui.program.program import Array, Op, Program

Arithmetic = Literal["karui", "litert_ref", "xnnpack"]

_ELEMENTS = 1 << 19  # of the largest tensor at a time: a batch of any size runs in little memory


@overload
def run(
    program: Program,
    inputs: Sequence[Array],
    *,
    arithmetic: Arithmetic = ...,
    states: Mapping[str, Array] | None = ...,
    keep: Literal[False] = ...,
) -> list[Array]: ...
@overload
def run(
    program: Program,
    inputs: Sequence[Array],
    *,
    arithmetic: Arithmetic = ...,
    states: Mapping[str, Array] | None = ...,
    keep: Literal[True],
) -> dict[str, Array]: ...
def run(
    program: Program,
    inputs: Sequence[Array],
    *,
    arithmetic: Arithmetic = "karui",
    states: Mapping[str, Array] | None = None,
    keep: bool = False,
) -> list[Array] | dict[str, Array]:
    """Runs the program on a batch.

    Args:
        inputs: one array ``[N, *shape]`` per input of the program, in its order and layout, of the tensor's dtype.
        arithmetic: which integer arithmetic; floats don't depend on it.
        states: values ``[N, *shape]`` of state tensors by name; a state that isn't given starts at zero.
        keep: return every tensor by name instead of the list of outputs.

    Raises:
        DataError: inputs that don't fit the program.
        UnsupportedOp: an op that has no rule, or whose numbers break a rule of its kind.
    """
    values = _start(program, inputs, states or {})
    everything = [*values, *(name for op in program.ops for name in op.outputs)]
    names = everything if keep else [output.tensor for output in program.outputs]
    batch = len(inputs[0]) if inputs else 1
    step = max(1, _ELEMENTS // max(tensor.count for tensor in program.tensors.values()))
    parts = [
        _run_part(program, {name: value[n : n + step] for name, value in values.items()}, names, arithmetic, min(step, batch - n))
        for n in range(0, max(batch, 1), step)
    ]
    results = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return dict(zip(names, results, strict=True)) if keep else results


def _run_part(program: Program, values: dict[str, Array], names: Sequence[str], arithmetic: Arithmetic, batch: int) -> list[Array]:
    """A part of the batch through all ops; the tensors called ``names``."""
    for op in program.ops:
        results = run_op(program, op, [values[name] for name in op.inputs], arithmetic=arithmetic, batch=batch)
        values.update(zip(op.outputs, results, strict=True))
    return [values[name] for name in names]


def run_op(program: Program, op: Op, arguments: Sequence[Array], *, arithmetic: Arithmetic = "karui", batch: int = 1) -> list[Array]:
    """Runs one op: arrays ``[N, *shape]`` of its inputs to those of its outputs. ``batch`` counts only for an op without inputs."""
    given, integer = list(arguments), program.tensor(op.outputs[0]).dtype == "int8"
    if op.kind == "constant":
        results: Array | list[Array] = moves.constant(program, op, batch)
    elif op.kind in moves.RULES:
        results = moves.RULES[op.kind](program, op, given)
    elif integer and op.kind in integers.RULES:
        results = integers.RULES[op.kind](program, op, given, arithmetic)
    elif not integer and op.kind in floating.RULES:
        _check_floats(program, op)
        results = floating.RULES[op.kind](program, op, given)
    else:
        raise UnsupportedOp(
            f"'{op.name}' ({op.kind}): the interpreter has no rule for it {'in integers; keep it in float' if integer else ''}"
        )
    return _checked(program, op, results if isinstance(results, list) else [results])


def _start(program: Program, inputs: Sequence[Array], states: Mapping[str, Array]) -> dict[str, Array]:
    """The values that are there before the first op: inputs, then states."""
    if len(inputs) != len(program.inputs):
        raise DataError(f"'{program.name}' takes {len(program.inputs)} inputs, {len(inputs)} were given")
    values = {}
    for declared, array in zip(program.inputs, inputs, strict=True):
        tensor = program.tensor(declared.tensor)
        if array.shape[1:] != tensor.shape or array.dtype != tensor.dtype or len(array) != len(inputs[0]):
            expected = f"{tensor.dtype} [N, {', '.join(map(str, tensor.shape))}], with one N for all inputs"
            raise DataError(f"input '{declared.name}' is {array.dtype} {list(array.shape)}; expected {expected}")
        values[declared.tensor] = array
    for _, name in program.states:
        tensor = program.tensor(name)
        zero = quantization(tensor)[1] if tensor.dtype == "int8" else 0
        values.setdefault(name, states.get(name, np.full((len(inputs[0]) if inputs else 1, *tensor.shape), zero, tensor.dtype)))
    return values


def _check_floats(program: Program, op: Op) -> None:
    """Only ``dequantize`` leaves the integers; pixels (``affine``) and codes (``embedding``) are whole numbers without a scale."""
    if op.kind != "dequantize" and any(program.tensor(name).dtype == "int8" for name in op.inputs):
        raise UnsupportedOp(f"'{op.name}' ({op.kind}) takes int8 but gives {program.tensor(op.outputs[0]).dtype}: put a dequantize between")


def _checked(program: Program, op: Op, results: list[Array]) -> list[Array]:
    for name, array in zip(op.outputs, results, strict=True):
        tensor = program.tensor(name)
        if array.shape[1:] != tensor.shape or array.dtype != tensor.dtype:
            given = f"{array.dtype} {list(array.shape[1:])}"
            raise UnsupportedOp(f"'{op.name}' ({op.kind}) gives {given}, but the program says {tensor.dtype} {list(tensor.shape)}")
    return results
