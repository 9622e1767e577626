"""Absorb the transpose that a flatten needs into the weight of the linear layer behind it.

A network flattens ``(C, H, W)``; the program holds ``(H, W, C)``. Rather than move the activations at run time, the columns of the linear
weight are put in the order in which the activations lie.
"""

from dataclasses import replace

import numpy as np

from karui.program.passes.editor import Editor
from karui.program.program import (
    AffineValues,
    Array,
    Block,
    CodebookValues,
    Dense,
    Element,
    FloatValues,
    NofM,
    Op,
    SignValues,
    Support,
    TernaryValues,
    Values,
    Weight,
)

_POINTWISE = ("clamp", "quantize", "dequantize", "unary")


def absorb_transposes(editor: Editor) -> None:
    """transpose → reshape to one axis → (element by element) → linear: drop the transpose, permute the linear's columns."""
    for op in list(editor.ops):
        if op.kind != "transpose":
            continue
        flat = editor.only_reader(op.outputs[0])
        if flat is None or flat.kind != "reshape" or len(editor.tensors[flat.outputs[0]].shape) != 1:
            continue
        linears = _linears_behind(editor, flat.outputs[0])
        if not linears or not all(_own_weight(editor, linear) for linear in linears):
            continue
        x = editor.tensors[op.inputs[0]]
        # order[i]: where the i-th value of the flattened transpose lies in the untransposed tensor
        order = np.arange(x.count).reshape(x.shape).transpose(op.attributes["perm"]).ravel()
        columns = np.argsort(order)
        for linear in linears:
            weight = editor.weights[linear.weights["weight"]]
            permuted = permute_columns(weight, columns)
            if permuted is None:
                break
            editor.weights[weight.name] = permuted
        else:
            editor.replace(flat, replace(flat, inputs=op.inputs))
            editor.remove(op)


def _linears_behind(editor: Editor, tensor: str) -> list[Op]:
    """All linear ops that read ``tensor`` through ops element by element; empty where anybody else sees its order."""
    found: list[Op] = []
    if editor.is_visible(tensor):
        return []
    for reader in editor.readers(tensor):
        behind = [reader] if reader.kind == "linear" else _linears_behind(editor, reader.outputs[0]) if reader.kind in _POINTWISE else []
        if not behind:
            return []
        found += behind
    return found


def _own_weight(editor: Editor, linear: Op) -> bool:
    name = linear.weights["weight"]
    weight = editor.weights[name]
    grouped = isinstance(weight.values, AffineValues) and weight.values.group > 0
    return not grouped and sum(name in op.weights.values() for op in editor.ops) == 1


def permute_columns(weight: Weight, columns: Array) -> Weight | None:
    """``weight[:, columns]``; a pattern that the new order breaks becomes single elements."""

    def pick(a: Array) -> Array:
        return np.ascontiguousarray(a[:, columns])

    support: Support = weight.support
    if isinstance(support, Element | Block | NofM):
        support = Element(mask=pick(support.mask))
    assert isinstance(support, Dense | Element)
    v = weight.values
    values: Values
    if isinstance(v, FloatValues):
        values = FloatValues(data=pick(v.data))
    elif isinstance(v, AffineValues):
        values = replace(v, codes=pick(v.codes))
    elif isinstance(v, SignValues | TernaryValues):
        values = replace(v, codes=pick(v.codes))
    else:
        assert isinstance(v, CodebookValues)
        values = replace(v, index=pick(v.index))
    return replace(weight, support=support, values=values)
