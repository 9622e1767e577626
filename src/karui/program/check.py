"""Check that a Program is well formed: what a file says, or what a pass made, before anybody trusts it.

A well-formed Program has only known kinds with their operands and attributes, shapes that follow from one another (``shapes.py``), every
tensor written once and before it is read, and weights whose arrays agree with their shape, support and bits (``check_weight.py``).
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from karui.names import LONGEST, is_label, is_name
from karui.program.check_weight import LARGEST, check_weight
from karui.program.kinds import KINDS, OPTIONAL, Is
from karui.program.program import Affine, CodebookValues, FloatValues, Op, Program, Tensor, Weight
from karui.program.shapes import output_shapes

_DTYPES = ("float32", "int8", "uint8", "int32")
_LAYOUTS = {"nhwc": 3, "nlc": 2, "plain": None}  # layout → axes
_KEEPS_QUANT = ("max_pool2d", "max_pool1d", "reshape", "transpose", "slice", "pad", "concat", "upsample_nearest2d")
_ENTERS = {"quantize": ("float32",), "lookup": ("int8", "uint8")}  # the ops that make int8 of something else
_ODD_INPUTS = {"affine": ("float32", "uint8"), "embedding": ("int32",), "dequantize": ("int8",)}  # float outputs of other dtypes


def check(program: Program) -> None:
    """Raise ValueError, naming the op, tensor or weight, where the Program is not well formed."""
    _text(program.name, "the program's name")
    for name, weight in program.weights.items():
        _need(name == weight.name, f"weight '{name}' is called '{weight.name}'")
        _text(name, "a weight's name")
        check_weight(weight)
    for name, tensor in program.tensors.items():
        _need(name == tensor.name, f"tensor '{name}' is called '{tensor.name}'")
        _check_tensor(tensor)
    ready = _check_ends(program)
    for op in program.ops:
        _text(op.name, "an op's name")
        _text(op.kind, "an op's kind")
        try:
            _check_op(program, op, ready)
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{op.name}' ({op.kind}): {error}") from None
        ready.update(op.outputs)
    for tensor_name in [output.tensor for output in program.outputs] + [name for name, _ in program.states]:
        _need(tensor_name in ready, f"output '{tensor_name}' is never written")


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _text(text: Any, what: str) -> None:
    _need(is_name(text), f"{what} must be 1 to {LONGEST} printable characters, not {str(text)[:40]!r}")


def _check_tensor(tensor: Tensor) -> None:
    _text(tensor.name, "a tensor's name")
    what = f"tensor '{tensor.name}'"
    _need(tensor.dtype in _DTYPES, f"{what}: dtype '{tensor.dtype}' is none of {', '.join(_DTYPES)}")
    _need(tensor.layout in _LAYOUTS, f"{what}: layout '{tensor.layout}' is none of {', '.join(_LAYOUTS)}")
    _need(len(tensor.shape) <= 8 and all(type(n) is int and n >= 1 for n in tensor.shape), f"{what}: shape {list(tensor.shape)}")
    _need(tensor.count <= LARGEST, f"{what}: {tensor.count} elements, at most {LARGEST} are allowed")
    axes = _LAYOUTS[tensor.layout]
    _need(axes is None or axes == len(tensor.shape), f"{what}: layout '{tensor.layout}' with shape {list(tensor.shape)}")
    quant = tensor.quant
    if quant is not None:
        _need(tensor.dtype == "int8", f"{what}: {tensor.dtype} has no scale")
        _need(isfinite(quant.scale) and quant.scale > 0, f"{what}: scale {quant.scale} must be above 0 and finite")
    if isinstance(quant, Affine):
        _need(type(quant.bits) is int and 1 <= quant.bits <= 8, f"{what}: bits {quant.bits}, expected 1 to 8")
        low, high = -(1 << (quant.bits - 1)), (1 << (quant.bits - 1)) - 1
        good = type(quant.zero_point) is int and low <= quant.zero_point <= high
        _need(good, f"{what}: zero point {quant.zero_point}, expected {low} to {high}")


def _check_ends(program: Program) -> set[str]:
    """Check inputs, outputs and states; return the tensors that are there before the first op."""
    _need(len(program.outputs) > 0, "the program has no output")
    for what, ends in (("input", program.inputs), ("output", program.outputs)):
        names = [end.name for end in ends]
        _need(len(set(names)) == len(names), f"two {what}s have one name: {', '.join(names)}")
        for end in ends:
            _text(end.name, f"an {what}'s name")
            _need(end.tensor in program.tensors, f"{what} '{end.name}': there is no tensor '{end.tensor}'")
    for output in program.outputs:
        _need(all(map(is_label, output.labels)), f"output '{output.name}': a label that isn't printable")
    for entry in program.inputs:
        if entry.pixels is not None:
            tensor = program.tensor(entry.tensor)
            _need(tensor.dtype == "uint8", f"input '{entry.name}' takes pixels: its tensor must be uint8, not {tensor.dtype}")
            channels = {len(entry.pixels.mean), len(entry.pixels.std)}
            _need(channels <= {1, tensor.shape[-1] if tensor.shape else 1}, f"input '{entry.name}': means and stds of {channels} channels")
            _need(all(s != 0 for s in entry.pixels.std), f"input '{entry.name}': a std of 0")
    for written, read in program.states:
        for name in (written, read):
            _need(name in program.tensors, f"state: there is no tensor '{name}'")
        a, b = program.tensor(written), program.tensor(read)
        _need((a.shape, a.dtype, a.quant) == (b.shape, b.dtype, b.quant), f"state '{written}' → '{read}': the tensors differ")
    taken = [entry.tensor for entry in program.inputs]
    _need(len(set(taken)) == len(taken), "two inputs share one tensor")
    return set(taken) | {read for _, read in program.states}


def _check_op(program: Program, op: Op, ready: set[str]) -> None:
    _need(op.kind in KINDS, "the kind is unknown; the file may come from a newer karui")
    kind = KINDS[op.kind]
    least, most = kind.inputs
    _need(least <= len(op.inputs) <= most, f"{len(op.inputs)} inputs, expected {least if least == most else f'{least} to {most}'}")
    _need(len(op.outputs) == kind.outputs, f"{len(op.outputs)} outputs, expected {kind.outputs}")
    for name in op.inputs:
        _need(name in program.tensors, f"there is no tensor '{name}'")
        _need(name in ready, f"'{name}' is read before it is written")
    for name in op.outputs:
        _need(name in program.tensors, f"there is no tensor '{name}'")
    fresh = set(op.outputs)
    _need(len(fresh) == len(op.outputs) and not fresh & ready, f"an output is written twice: {', '.join(op.outputs)}")
    for role in kind.roles:
        _need(role in op.weights, f"its {role} is missing")
    for role, name in op.weights.items():
        _need(role in kind.roles + kind.optional, f"it takes no weight '{role}'")
        _need(name in program.weights, f"there is no weight '{name}'")
    _check_attributes(op.attributes, kind.attributes)
    declared = [program.tensor(name).shape for name in op.outputs]
    weights = {role: program.weights[name].shape for role, name in op.weights.items()}
    shapes = output_shapes(op, [program.tensor(name).shape for name in op.inputs], weights, declared)
    for shape, tensor in zip(shapes, declared, strict=True):
        _need(tuple(shape) == tuple(tensor), f"its output has shape {list(tensor)}, but {list(shape)} follows from its input")
    _check_numbers(program, op)


def _check_numbers(program: Program, op: Op) -> None:
    """Floats and integers meet only where they may."""
    inputs, outputs = ([program.tensor(name) for name in names] for names in (op.inputs, op.outputs))
    if outputs[0].dtype == "int8":
        _need(KINDS[op.kind].integer, "it has no integer form, but its output is int8")
        for tensor in inputs:
            allowed = _ENTERS.get(op.kind, ("int8",))
            _need(tensor.dtype in allowed, f"its output is int8, but its input '{tensor.name}' is {tensor.dtype}")
        known = [t for t in (*inputs, *outputs) if t.dtype == "int8" and t.quant is None]
        _need(not known, f"'{known[0].name if known else ''}' is int8 without a scale")
        if op.kind in _KEEPS_QUANT:
            same = all(t.quant == outputs[0].quant for t in inputs)
            _need(same, "it must keep scale and zero point, but input and output differ")
        weight = program.operand(op, "weight")
        if weight is not None:
            _need(_has_codes(weight), f"its output is int8, but '{weight.name}' holds floats")
    else:
        allowed = _ODD_INPUTS.get(op.kind, (outputs[0].dtype,))
        for tensor in inputs:
            _need(tensor.dtype in allowed, f"its output is {outputs[0].dtype}, but its input '{tensor.name}' is {tensor.dtype}")
    for role in ("bias", "bias_ih", "bias_hh"):
        bias = program.operand(op, role)
        _need(bias is None or isinstance(bias.values, FloatValues), f"its {role} must hold floats")
    if (clamp := op.attributes.get("clamp")) is not None and outputs[0].dtype == "int8":
        _need(all(c is None or (type(c) is int and -128 <= c <= 127) for c in clamp), f"clamp {clamp} must be codes of int8")


def _has_codes(weight: Weight) -> bool:
    values = weight.values
    return not (isinstance(values, FloatValues) or (isinstance(values, CodebookValues) and values.codebook.dtype != "int8"))


# ── attributes: what kinds.py names, as rules ───────────────────────────────────────────────────────────────────────────────


def _integer(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= 1 << 30


def _number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _integers(length: int | None, least: int = 0) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list | tuple) and length in (None, len(v)) and all(_integer(i, least) for i in v)


def _clamp(value: Any) -> bool:
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(v is None or _number(v) for v in value)):
        return False
    return None in value or value[0] <= value[1]


def _pairs(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_integers(2)(pair) for pair in value)


RULES: Mapping[Is, Callable[[Any], bool]] = {
    Is.CLAMP: lambda v: v is None or _clamp(v),
    Is.YX: _integers(2, 1),
    Is.YX_FROM_ZERO: _integers(2),
    Is.EDGES: _integers(4),
    Is.ENDS: _integers(2),
    Is.PADDING: _pairs,
    Is.INT: _integer,
    Is.COUNT: lambda v: _integer(v, 1),
    Is.INTS: _integers(None),
    Is.BOOL: lambda v: type(v) is bool,
    Is.FLOAT: _number,
    Is.FLOAT_OR_NULL: lambda v: v is None or _number(v),
    Is.NUMBER: _number,
    Is.REDUCTION: lambda v: v in ("sum", "max", "min"),
    Is.FUNCTION: lambda v: isinstance(v, str) and v.isidentifier() and len(v) <= 64,
}


def _check_attributes(given: Mapping[str, Any], expected: Mapping[str, Is]) -> None:
    for name, value in given.items():
        _need(name in expected, f"it has no attribute '{name}'")
        _need(RULES[expected[name]](value), f"{name} = {str(value)[:60]}, expected {expected[name]}")
    for name, meaning in expected.items():
        _need(name in given or meaning in OPTIONAL, f"its attribute '{name}' is missing ({meaning})")
