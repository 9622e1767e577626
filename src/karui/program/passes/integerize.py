"""Move ops between a dequantize and a quantize into integers.

Lowering writes every activation quantizer as quantize → dequantize, and every op in floats. Here an op whose inputs all come from a
dequantize and whose only reader is a quantize becomes an integer op; moves (reshape, max-pool …) slide the dequantize past themselves; a
function of one tensor between the two becomes a table of 256 entries, made with the interpreter's own arithmetic, so it is exact.
An op without an integer form stays in floats between explicit quantize and dequantize ops.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from karui.program.arithmetic import code_range, dequantize, quantization, quantize
from karui.program.passes.editor import Editor
from karui.program.passes.fold import safe
from karui.program.passes.fuse import bounds
from karui.program.program import Affine, AffineValues, Array, FloatValues, Op, SignValues, Tensor, TernaryValues, Weight
from karui.program.unary import apply as apply_unary

_COMPUTE = ("conv1d", "conv2d", "linear", "add", "mul", "mean", "avg_pool1d", "avg_pool2d")
_MOVE = ("max_pool1d", "max_pool2d", "reshape", "transpose", "slice", "upsample_nearest2d")
_FUNCTION = ("unary", "clamp", "affine")
_MOST_TABLES = 8  # channels that may have a table of their own: pixels, not feature maps


def integerize(editor: Editor) -> None:
    """Rewrite until no op can move; the order of the ops makes one sweep enough, but for chains that become adjacent."""
    rules: tuple[Callable[[Editor, Op], bool], ...] = (_requantize, _compute, _move, _relu, _concat, _pad, _table)
    changed = True
    while changed:
        changed = False
        for op in list(editor.ops):
            if any(o is op for o in editor.ops):
                changed |= any(rule(editor, op) for rule in rules)


def _codes_of(editor: Editor, tensor: str) -> Tensor | None:
    """The int8 tensor that ``tensor`` is the dequantized form of."""
    op = editor.producer(tensor)
    return editor.tensors[op.inputs[0]] if op is not None and op.kind == "dequantize" else None


def _quantized(editor: Editor, tensor: str) -> Op | None:
    """The quantize op that is the only reader of ``tensor``."""
    reader = editor.only_reader(tensor)
    return reader if reader is not None and reader.kind == "quantize" else None


def affine_of(tensor: Tensor) -> Affine:
    """The affine quantization that an int8 tensor of this pass always has."""
    assert isinstance(tensor.quant, Affine)
    return tensor.quant


def to_codes(real: Array | float, tensor: Tensor) -> Array:
    """Reals (as float32) to the codes of ``tensor``, as its quantize op makes them."""
    return quantize(np.asarray(real, np.float32), *quantization(tensor), *code_range(tensor))


def clamp_codes(clamp: list[float | None] | None, tensor: Tensor) -> list[int]:
    """A clamp in reals as one in codes of ``tensor``."""
    low, high = code_range(tensor)
    first, last = bounds(clamp)
    return [
        low if first is None else int(to_codes(first, tensor)),
        high if last is None else int(to_codes(last, tensor)),
    ]


def _compute(editor: Editor, op: Op) -> bool:
    if op.kind not in _COMPUTE or editor.tensors[op.outputs[0]].dtype != "float32":
        return False
    codes = [_codes_of(editor, name) for name in op.inputs]
    after = _quantized(editor, op.outputs[0])
    if after is None or any(c is None for c in codes):
        return False
    weights = dict(op.weights)
    if "weight" in weights:
        integer = as_integer(editor.weights[weights["weight"]])
        if integer is None:
            return False
        editor.weights[integer.name] = integer
    out = editor.tensors[after.outputs[0]]
    attributes = {**op.attributes, "clamp": clamp_codes(op.attributes.get("clamp"), out)}
    editor.remove(after)
    inputs = tuple(c.name for c in codes if c is not None)
    editor.replace(op, replace(op, inputs=inputs, outputs=(out.name,), attributes=attributes))
    return True


def as_integer(weight: Weight) -> Weight | None:
    """The weight if its values are integer codes (constant channels made harmless), else None."""
    v = weight.values
    if isinstance(v, AffineValues) and not v.group:
        scale = np.broadcast_to(np.asarray(v.scale, np.float64), (weight.shape[0],))
        codes = v.codes if v.zero_point.any() else np.where(weight.mask, v.codes, 0)
        codes, scale = safe(codes, scale)
        zero_point = np.broadcast_to(v.zero_point, scale.shape).astype(np.int32)
        return replace(weight, values=replace(v, codes=codes, scale=scale, zero_point=zero_point))
    if isinstance(v, FloatValues):
        return None
    if isinstance(v, AffineValues | SignValues | TernaryValues):
        return weight
    return weight if v.codebook.dtype == np.int8 else None


def _move(editor: Editor, op: Op) -> bool:
    """dequantize → move becomes move → dequantize."""
    if op.kind not in _MOVE or editor.tensors[op.outputs[0]].dtype != "float32":
        return False
    codes = _codes_of(editor, op.inputs[0])
    if codes is None:
        return False
    _slide(editor, op, (codes.name,), codes, dict(op.attributes))
    return True


def _slide(editor: Editor, op: Op, inputs: tuple[str, ...], like: Tensor, attributes: dict[str, object]) -> None:
    """Run ``op`` on codes into a new int8 tensor quantized as ``like``, dequantized behind into the op's old output."""
    out = editor.tensors[op.outputs[0]]
    moved = editor.new_tensor(replace(out, dtype=like.dtype, quant=like.quant), "_q")
    integer = editor.replace(op, replace(op, inputs=inputs, outputs=(moved.name,), attributes=attributes))
    editor.insert_after(integer, Op(kind="dequantize", name=op.name, inputs=(moved.name,), outputs=op.outputs))


def _relu(editor: Editor, op: Op) -> bool:
    """A clamp whose bounds are codes exactly (ReLU at the zero point) runs on codes where no quantize follows."""
    if op.kind != "clamp" or editor.tensors[op.outputs[0]].dtype != "float32":
        return False
    codes = _codes_of(editor, op.inputs[0])
    if codes is None or op.attributes["clamp"] != [0.0, None] or _quantized(editor, op.outputs[0]) is not None:
        return False
    _slide(editor, op, (codes.name,), codes, {"clamp": clamp_codes([0.0, None], codes)})
    return True


def _concat(editor: Editor, op: Op) -> bool:
    """concat → quantize: each part gets its codes in the output's scale first; concat of equal scales just slides."""
    if op.kind != "concat" or editor.tensors[op.outputs[0]].dtype != "float32":
        return False
    codes = [_codes_of(editor, name) for name in op.inputs]
    if any(c is None for c in codes):
        return False
    after = _quantized(editor, op.outputs[0])
    if after is None:
        if len({c.quant for c in codes if c is not None}) == 1 and codes[0] is not None:
            _slide(editor, op, tuple(c.name for c in codes if c is not None), codes[0], dict(op.attributes))
            return True
        return False
    out = editor.tensors[after.outputs[0]]
    parts: list[str] = []
    for code in codes:
        assert code is not None
        if code.quant != out.quant:
            code = _lookup(editor, op, code, out, lambda real: real, before=True)
        parts.append(code.name)
    editor.remove(after)
    editor.replace(op, replace(op, inputs=tuple(parts), outputs=(out.name,)))
    return True


def _pad(editor: Editor, op: Op) -> bool:
    if op.kind != "pad" or editor.tensors[op.outputs[0]].dtype != "float32":
        return False
    codes = _codes_of(editor, op.inputs[0])
    if codes is None or op.attributes["value"] != 0:
        return False
    _slide(editor, op, (codes.name,), codes, {**op.attributes, "value": affine_of(codes).zero_point})
    return True


def _requantize(editor: Editor, op: Op) -> bool:
    """quantize of a dequantize: the same codes, or a table."""
    if op.kind != "quantize":
        return False
    codes = _codes_of(editor, op.inputs[0])
    if codes is None:
        return False
    out = editor.tensors[op.outputs[0]]
    if codes.quant == out.quant and not editor.is_visible(out.name):
        editor.move_readers(out.name, codes.name)
    else:
        _lookup(editor, op, codes, out, lambda real: real, into=out)
    editor.remove(op)
    return True


def _table(editor: Editor, op: Op) -> bool:
    """(dequantize, or uint8 pixels) → function → quantize: one table look-up."""
    if op.kind not in _FUNCTION or editor.tensors[op.outputs[0]].dtype != "float32":
        return False
    after = _quantized(editor, op.outputs[0])
    source = _codes_of(editor, op.inputs[0])
    if source is None and editor.tensors[op.inputs[0]].dtype == "uint8":
        source = editor.tensors[op.inputs[0]]
    if after is None or source is None:
        return False
    if op.kind == "affine" and source.shape[-1] > _MOST_TABLES:
        return False
    out = editor.tensors[after.outputs[0]]
    _lookup(editor, op, source, out, lambda real: _evaluate(editor, op, real), into=out)
    editor.remove(after)
    editor.remove(op)
    return True


def _evaluate(editor: Editor, op: Op, real: Array) -> Array:
    """The op on ``real`` (float32 [256]); an affine gives one row per channel."""
    if op.kind == "unary":
        return apply_unary(op.attributes["function"], real, op.attributes.get("alpha"))
    if op.kind == "affine":
        scale, bias = (editor.weights[op.weights[role]].real()[:, None] for role in ("scale", "bias"))
        real = real[None] * scale + bias
    low, high = bounds(op.attributes.get("clamp"))
    return np.clip(real, low, high) if low is not None or high is not None else real


def _lookup(
    editor: Editor,
    op: Op,
    source: Tensor,
    target: Tensor,
    function: Callable[[Array], Array],
    *,
    into: Tensor | None = None,
    before: bool = False,
) -> Tensor:
    """Insert ``lookup`` from ``source`` to a tensor quantized as ``target``: into ``into``, or into a new one, before ``op``."""
    if source.dtype == "uint8":
        real = np.arange(256, dtype=np.float32)
    else:
        real = dequantize(np.arange(-128, 128), *quantization(source))
    table = to_codes(function(real), target)
    if table.ndim == 2 and (table == table[0]).all():
        table = table[0]
    out = into or editor.new_tensor(replace(source, dtype="int8", quant=target.quant), "_r")
    values = AffineValues(bits=8, codes=table, scale=np.float32(target.quant.scale), zero_point=np.int32(0))  # type: ignore[union-attr, arg-type]
    name = editor.new_weight(Weight(name=f"{out.name}.table", shape=table.shape, values=values))
    lookup = Op(kind="lookup", name=op.name, inputs=(source.name,), outputs=(out.name,), weights={"table": name})
    at = editor.index(op)
    editor.ops.insert(at if before else at + 1, lookup)
    return out
