"""Fold what is a constant per output channel (batch-norm) into the convolution or linear layer before it.

Under weights written as codes with one scale per output channel only scale, sign and bias change: a channel whose factor is negative gets
its codes negated. So nothing has to be folded while the network trains (docs/adr/0001).
"""

from dataclasses import replace

import numpy as np

from karui.program.passes.editor import Editor
from karui.program.program import (
    AffineValues,
    Array,
    CodebookValues,
    FloatValues,
    SignValues,
    TernaryValues,
    Values,
    Weight,
)

_FOLDABLE = ("conv1d", "conv2d", "conv_transpose2d", "linear")
_SMALLEST = 1e-20  # a scale below this stands for a channel that is constant


def fold_affine(editor: Editor) -> None:
    """conv or linear followed only by ``affine`` become one op, where the weight has no other reader that would see the change."""
    for op in list(editor.ops):
        if op.kind not in _FOLDABLE or op.attributes.get("clamp") not in (None, [None, None]):
            continue
        while (after := editor.only_reader(op.outputs[0])) is not None and after.kind == "affine":
            weight = editor.weights[op.weights["weight"]]
            factor = editor.weights[after.weights["scale"]].real().astype(np.float64)
            offset = editor.weights[after.weights["bias"]].real().astype(np.float64)
            values = scaled(weight, factor)
            if values is None:
                break
            bias = editor.weights[op.weights["bias"]].real().astype(np.float64) if "bias" in op.weights else 0.0
            shared = sum(w == weight.name for o in editor.ops for w in o.weights.values()) > 1
            name = editor.new_weight(replace(weight, values=values)) if shared else weight.name
            editor.weights[name] = replace(weight, name=name, values=values)
            bias_name = editor.new_weight(float_weight(f"{op.name}.bias", bias * factor + offset))
            editor.remove(after)
            op = editor.replace(
                op,
                replace(
                    op,
                    outputs=after.outputs,
                    weights={**op.weights, "weight": name, "bias": bias_name},
                    attributes={**op.attributes, "clamp": after.attributes.get("clamp")},
                ),
            )


def fold_pads(editor: Editor) -> None:
    """A zero padding read only by one convolution becomes that convolution's own."""
    for pad in list(editor.ops):
        if pad.kind != "pad" or pad.attributes["value"] != 0 or editor.tensors[pad.outputs[0]].dtype != "float32":
            continue
        conv = editor.only_reader(pad.outputs[0])
        if conv is None or conv.kind not in ("conv1d", "conv2d"):
            continue
        *space, channels = pad.attributes["padding"]
        if any(channels) or any(v < 0 for pair in space for v in pair):
            continue
        before, after = [p[0] for p in space], [p[1] for p in space]
        padding = [a + b for a, b in zip(conv.attributes["padding"], before + after, strict=True)]
        editor.replace(conv, replace(conv, inputs=pad.inputs, attributes={**conv.attributes, "padding": padding}))
        editor.remove(pad)


def scaled(weight: Weight, factor: Array) -> Values | None:
    """The weight's values with output channel o multiplied by ``factor[o]`` (float64 [O]); None where codes can't express it."""
    v = weight.values
    sign = np.where(factor < 0, -1, 1).astype(np.int8).reshape(-1, *[1] * (len(weight.shape) - 1))
    size = np.abs(factor)
    if isinstance(v, FloatValues):
        return FloatValues(data=(v.data.astype(np.float64) * factor.reshape(sign.shape)).astype(np.float32))
    if isinstance(v, AffineValues):
        if (factor < 0).any() and v.zero_point.any():
            return None
        scale = v.scale.astype(np.float64) * (size[:, None] if v.scale.ndim == 2 else size)
        zero_point = np.broadcast_to(v.zero_point, scale.shape).astype(np.int32)
        codes, scale = safe(v.codes * sign, scale)
        return replace(v, codes=codes, scale=scale, zero_point=zero_point)
    if isinstance(v, SignValues):
        codes, scale = safe(v.codes * sign, v.scale.astype(np.float64) * size)
        return SignValues(codes=codes, scale=scale)
    if isinstance(v, TernaryValues):
        flip = factor < 0
        positive, negative = v.positive * size, v.negative * size
        codes, _ = safe(v.codes * sign, np.maximum(positive, negative))
        return TernaryValues(
            codes=codes,
            positive=np.where(flip, negative, positive).astype(np.float32),
            negative=np.where(flip, positive, negative).astype(np.float32),
        )
    assert isinstance(v, CodebookValues)
    return replace(v, scale=(v.scale.astype(np.float64) * factor).astype(np.float32))


def safe(codes: Array, scale: Array) -> tuple[Array, Array]:
    """Codes and float32 scales in which a channel that is constant has zero codes and a harmless scale.

    A channel with nothing left (all masked, or gamma ≈ 0) would give a multiplier near zero, and a bias beyond any integer.
    """
    flat = np.abs(codes.reshape(len(codes), -1)).max(1) == 0
    tiny = (scale < _SMALLEST) if scale.ndim == 1 else np.zeros(len(codes), bool)
    dead = flat | tiny
    codes = np.where(dead.reshape(-1, *[1] * (codes.ndim - 1)), 0, codes).astype(np.int8)
    if scale.ndim == 1:
        alive = scale[~dead]
        scale = np.where(dead, np.median(alive) if len(alive) else 1.0, scale)
    return codes, scale.astype(np.float32)


def float_weight(name: str, data: Array) -> Weight:
    """A dense float weight of this name."""
    data = np.asarray(data, np.float32)
    return Weight(name=name, shape=data.shape, values=FloatValues(data=data))
