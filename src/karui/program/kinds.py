"""The kinds of op: operands, weight roles, attributes, and which have an integer form.

Shapes leave the batch axis out; axes count from 0 = the first axis after the batch. Weights put output channels first. ``clamp`` is
``[low, high]`` or None: real bounds (null = none) on a float output, codes on an int8 output (a fused ReLU starts at the zero point).
An op runs in integers where its output is int8 and it is marked ``integer``; ``lookup`` and ``quantize`` make int8, ``dequantize`` ends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Is(StrEnum):
    """What an attribute is, in the words of messages; ``check.py`` has the rule of each."""

    CLAMP = "[low, high] or null"
    YX = "[y, x]"
    YX_FROM_ZERO = "[y, x] from 0"
    EDGES = "[top, left, bottom, right]"
    ENDS = "[left, right]"
    PADDING = "[[before, after] per axis]"
    INT = "int"
    COUNT = "int from 1"
    INTS = "list"
    BOOL = "bool"
    FLOAT = "float"
    FLOAT_OR_NULL = "float or null"
    NUMBER = "float or code"
    REDUCTION = "sum, max or min"
    FUNCTION = "a name in unary.py"


OPTIONAL = (Is.CLAMP, Is.FLOAT_OR_NULL)  # left out is null


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of op. ``inputs``: least and greatest number of tensors; ``attributes``: name → what it is."""

    inputs: tuple[int, int] = (1, 1)
    roles: tuple[str, ...] = ()  # weights it must have
    optional: tuple[str, ...] = ()  # weights it may have
    attributes: Mapping[str, Is] = field(default_factory=dict)
    outputs: int = 1
    integer: bool = False
    note: str = ""


_CLAMP = {"clamp": Is.CLAMP}
_CONV2D = {"stride": Is.YX, "padding": Is.EDGES, "dilation": Is.YX, "groups": Is.COUNT, **_CLAMP}
_CONV1D = {"stride": Is.COUNT, "padding": Is.ENDS, "dilation": Is.COUNT, "groups": Is.COUNT, **_CLAMP}
_POOL2D = {"kernel": Is.YX, "stride": Is.YX, "padding": Is.EDGES}
_POOL1D = {"kernel": Is.COUNT, "stride": Is.COUNT, "padding": Is.ENDS}

KINDS: Mapping[str, Kind] = {
    # multiply and accumulate; int8 outputs use the arithmetic of docs/adr (bias is float32, per output channel, never quantized)
    "conv2d": Kind(roles=("weight",), optional=("bias",), attributes=_CONV2D, integer=True, note="x [H,W,C], weight [O,kh,kw,C/groups]"),
    "conv1d": Kind(roles=("weight",), optional=("bias",), attributes=_CONV1D, integer=True, note="x [L,C], weight [O,k,C/groups]"),
    "conv_transpose2d": Kind(
        roles=("weight",),
        optional=("bias",),
        attributes={**_CONV2D, "output_padding": Is.YX_FROM_ZERO},
        note="x [H,W,C], weight [O,kh,kw,C/groups]; padding crops the result, as in the network",
    ),
    "linear": Kind(roles=("weight",), optional=("bias",), attributes=_CLAMP, integer=True, note="x [...,K], weight [O,K]"),
    "matmul": Kind(inputs=(2, 2), attributes={"transpose_b": Is.BOOL, "scale": Is.FLOAT}, note="scale · a [...,M,K] @ b [...,K,N]"),
    # element by element, with NumPy's broadcasting
    "add": Kind(inputs=(2, 2), attributes=_CLAMP, integer=True),
    "sub": Kind(inputs=(2, 2), attributes=_CLAMP),
    "mul": Kind(inputs=(2, 2), attributes=_CLAMP, integer=True),
    "div": Kind(inputs=(2, 2), attributes=_CLAMP),
    "affine": Kind(roles=("scale", "bias"), attributes=_CLAMP, note="x · scale[c] + bias[c] over the last axis; x may be uint8 pixels"),
    "clamp": Kind(attributes=_CLAMP, integer=True),
    "unary": Kind(attributes={"function": Is.FUNCTION, "alpha": Is.FLOAT_OR_NULL}),
    "lookup": Kind(roles=("table",), integer=True, note="int8/uint8 → int8; table [256] or [C,256], indexed by code − lowest code"),
    # reductions and pools
    "mean": Kind(attributes={"axes": Is.INTS, "keepdims": Is.BOOL, **_CLAMP}, integer=True),
    "reduce": Kind(attributes={"function": Is.REDUCTION, "axes": Is.INTS, "keepdims": Is.BOOL}),
    "avg_pool2d": Kind(attributes={**_POOL2D, "count_include_pad": Is.BOOL, **_CLAMP}, integer=True),
    "avg_pool1d": Kind(attributes={**_POOL1D, "count_include_pad": Is.BOOL, **_CLAMP}, integer=True),
    "max_pool2d": Kind(attributes=_POOL2D, integer=True, note="int8 keeps scale and zero point"),
    "max_pool1d": Kind(attributes=_POOL1D, integer=True, note="int8 keeps scale and zero point"),
    "softmax": Kind(attributes={"axis": Is.INT}),
    "exit_if": Kind(
        inputs=(2, 2),
        attributes={"threshold": Is.FLOAT},
        note="scores [C]: the first where its greatest less its second is at least the threshold, else the other",
    ),
    "layer_norm": Kind(optional=("scale", "bias"), attributes={"dims": Is.COUNT, "eps": Is.FLOAT}, note="over the last ``dims`` axes"),
    "group_norm": Kind(optional=("scale", "bias"), attributes={"groups": Is.COUNT, "eps": Is.FLOAT}, note="channels last"),
    # moving data; int8 keeps scale and zero point
    "concat": Kind(inputs=(1, 64), attributes={"axis": Is.INT}, integer=True),
    "reshape": Kind(integer=True, note="the shape is the output tensor's"),
    "transpose": Kind(attributes={"perm": Is.INTS}, integer=True),
    "slice": Kind(attributes={"axis": Is.INT, "start": Is.INT, "stop": Is.INT, "step": Is.COUNT}, integer=True),
    "pad": Kind(attributes={"padding": Is.PADDING, "value": Is.NUMBER}, integer=True),
    "upsample_nearest2d": Kind(attributes={"scale": Is.YX}, integer=True),
    "upsample_bilinear2d": Kind(attributes={"size": Is.YX, "align_corners": Is.BOOL}),
    "constant": Kind(inputs=(0, 0), roles=("value",), integer=True, note="a weight as a tensor"),
    "embedding": Kind(roles=("weight",), note="int32 codes [L] → [L, D]"),
    # recurrence over the first axis; gates in torch's order
    "gru": Kind(
        roles=("weight_ih", "weight_hh"),
        optional=("bias_ih", "bias_hh"),
        attributes={"reverse": Is.BOOL},
        outputs=2,
        note="x [L,I] → [L,H], [H]",
    ),
    "lstm": Kind(
        roles=("weight_ih", "weight_hh"),
        optional=("bias_ih", "bias_hh"),
        attributes={"reverse": Is.BOOL},
        outputs=3,
        note="→ [L,H], h [H], c [H]",
    ),
    # between floats and integers
    "quantize": Kind(integer=True, note="float → int8 by the output's scale and zero point, round half to even"),
    "dequantize": Kind(note="int8 → float32"),
}
