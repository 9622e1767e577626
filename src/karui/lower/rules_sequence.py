"""Rules for sequences: recurrence, matrix products, softmax, scaled dot-product attention."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from karui.lower.builder import Builder, Constant, Value
from karui.lower.rule import Arguments, Rule
from karui.lower.rules_shape import graph_axis

ATEN = torch.ops.aten


def _matmul(builder: Builder, a: Arguments) -> Value:
    names = [argument.name for argument in a.node.target._schema.arguments[:2]]  # type: ignore[union-attr]
    left, right = (a.get(name) for name in names)
    if isinstance(right, Constant) and right.data.dim() in (1, 2) and isinstance(left, Value):
        return _spelled_out(builder, left, right.data, a.name)
    rank = len(next(v for v in (left, right) if isinstance(v, Value)).shape)
    operands = [builder.constant(v, f"{a.name}_operand", rank) if isinstance(v, Constant) else v for v in (left, right)]
    return product(builder, operands[0], operands[1], a.name)


def _spelled_out(builder: Builder, x: Value, matrix: torch.Tensor, name: str, bias: dict[str, str] | None = None) -> Value:
    """A linear layer: the last axis times a matrix ``[inputs, outputs]``, or times a vector."""
    if x.axes()[-1] != (len(x.shape) - 1,):
        builder.refuse("a matrix product along the batch axis", "keep the features the last axis")
    x, columns = builder.plain(x), matrix.reshape(len(matrix), -1)
    weights = {"weight": builder.floats(f"{name}.weight", columns.t().contiguous()), **(bias or {})}
    shape = (*x.shape[:-1], columns.shape[1])
    out = builder.emit("linear", [x], name, shape, like=x, weights=weights, attributes={"clamp": None})
    return out if matrix.dim() == 2 else builder.emit("reshape", [out], f"{name}_vector", x.shape[:-1], like=x)


def _addmm(builder: Builder, a: Arguments) -> Value:
    bias, matrix = a.constant("self"), a.constant("mat2")
    assert bias is not None and matrix is not None
    if bias.dim() != 1 or len(bias) != matrix.shape[1] or a.node.kwargs:
        builder.refuse("addmm with factors or a bias that isn't a vector", "use torch.nn.functional.linear")
    return _spelled_out(builder, a.anywhere("mat1"), matrix, a.name, {"bias": builder.floats(f"{a.name}.bias", bias)})


def product(builder: Builder, left: Value, right: Value, name: str, scale: float = 1.0) -> Value:
    """``scale · left @ right``; a right operand that lies transposed is used as it lies."""
    if (left.batch, left.left, left.right) != (right.batch, right.left, right.right) or any(-1 in axis for axis in left.axes()[-2:]):
        builder.refuse("a matrix product along the batch axis, or of two batches that stand differently", "keep the batch in front")
    left = builder.plain(left)
    rank = len(right.shape)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    transpose = right.order == swapped
    right = right if transpose else builder.plain(right)
    leading = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = (*leading, left.shape[-2], right.shape[-1])
    return builder.emit("matmul", [left, right], name, shape, like=left, attributes={"transpose_b": transpose, "scale": scale})


def _einsum(builder: Builder, a: Arguments) -> Value:
    """A sum of products of two operands, as one matrix product over the axes that only one of them keeps."""
    equation, (left, right) = str(a.get("equation")).replace(" ", ""), _two(builder, a)
    labels, out = equation.partition("->")[0].split(","), equation.partition("->")[2]
    if isinstance(left, Constant):
        (left, right), labels = (right, left), labels[::-1]
    at, out, batch = _letters(builder, left, labels[0], out)
    bt, sizes = labels[1], dict(zip(at, left.shape, strict=True))
    if isinstance(right, Value):
        if (right.batch, right.left, right.right) != (left.batch, left.left, left.right) or labels[0][batch] != labels[1][batch]:
            builder.refuse(
                f"einsum '{equation}' of samples with each other", "name the batch by one letter, in one place, in both operands"
            )
        bt, _, _ = _letters(builder, right, bt, "")
        sizes |= dict(zip(bt, right.shape, strict=True))
    else:
        sizes |= dict(zip(bt, right.data.shape, strict=True))
    shared = [c for c in at if c in bt and c in out]
    if isinstance(right, Constant) and shared:
        builder.refuse(f"einsum '{equation}'", "multiply by a parameter with torch.mul")
    kept, summed, free = [c for c in at if c not in bt], [c for c in at if c in bt and c not in out], [c for c in bt if c not in at]
    made = [*shared, *kept, *free]
    if set(made) != set(out) - {_BATCH}:
        builder.refuse(f"einsum '{equation}'", "sum over an axis of one operand with torch.sum")
    rows, inner, columns = (math.prod(sizes[c] for c in group) for group in (kept, summed, free))
    ahead = [sizes[c] for c in shared]
    x = _joined(builder, left, at, [*shared, *kept, *summed], (*ahead, rows, inner), f"{a.name}_left")
    if isinstance(right, Value):
        y = product(builder, x, _joined(builder, right, bt, [*shared, *summed, *free], (*ahead, inner, columns), f"{a.name}_right"), a.name)
    else:
        matrix = right.data.permute([bt.index(c) for c in (*free, *summed)]).reshape(columns, inner)
        weight = builder.floats(f"{a.name}.weight", matrix.contiguous())
        y = builder.emit("linear", [builder.plain(x)], a.name, (rows, columns), weights={"weight": weight}, attributes={"clamp": None})
    shape = tuple(sizes[c] for c in made)
    y = y if y.shape == shape else builder.reshaped(y, f"{a.name}_axes", shape)
    moved = [made.index(c) for c in out if c != _BATCH]
    order = tuple(moved.index(axis) for axis in y.order)
    place = out.index(_BATCH)
    return replace(y, shape=tuple(shape[m] for m in moved), order=order, batch=place, left=left.left, right=left.right)


_BATCH, _BEFORE, _BEHIND = "*", "<", ">"  # letters for the batch, and for the axes that share its axis


def _two(builder: Builder, a: Arguments) -> tuple[Any, Any]:
    """The operands of an einsum that can be one matrix product."""
    equation, operands = str(a.get("equation")).replace(" ", ""), a.get("tensors")
    labels = equation.partition("->")[0].split(",")
    single = all(len(set(each)) == len(each) for each in (*labels, equation.partition("->")[2]))
    if len(operands) != 2 or "." in equation or "->" not in equation or not single:
        builder.refuse(
            f"einsum '{a.get('equation')}'", "write it for two operands, with letters only and an output, each letter once in each"
        )
    return operands[0], operands[1]


def _letters(builder: Builder, x: Value, labels: str, out: str) -> tuple[str, str, int]:
    """The letters of the axes of ``x.shape``, the output's with the batch spelled out, and the place of the batch's letter."""
    place = x.batch - x.left
    before, behind = _BEFORE * x.left, _BEHIND * x.right
    if out and labels[place] not in out:
        builder.refuse("einsum over the batch", "samples must not depend on each other")
    spelled = out.replace(labels[place], f"{before}{_BATCH}{behind}")
    return f"{labels[:place]}{before}{behind}{labels[place + 1 :]}", spelled, place


def _joined(builder: Builder, x: Value, labels: str, wanted: list[str], shape: tuple[int, ...], name: str) -> Value:
    """``x`` with its axes in another order, some of them joined."""
    moved = [labels.index(c) for c in wanted]
    order = tuple(moved.index(axis) for axis in x.order)
    x = Value(name=x.name, shape=tuple(x.shape[m] for m in moved), order=order)
    return x if x.shape == shape else builder.reshaped(x, name, shape)


def _softmax(builder: Builder, a: Arguments) -> Value:
    x = a.anywhere("self")
    axis = graph_axis(builder, int(a.get("dim")), x)
    return builder.emit("softmax", [x], a.name, x.shape, x.order, like=x, attributes={"axis": x.axis(axis)})


def _attention(builder: Builder, a: Arguments) -> Value:
    """softmax(q kᵀ / √d + mask) v (Vaswani et al. 2017, equation 1)."""
    q, k, v = (a.value(name) for name in ("query", "key", "value"))
    scale = a.get("scale") or 1 / math.sqrt(q.shape[-1])
    length, past = q.shape[-2], k.shape[-2]
    keys = Value(name=k.name, shape=(*k.shape[:-2], k.shape[-1], past), order=_adjoint(k.order))
    scores_shape = (*q.shape[:-1], past)
    if k.shape[:-2] != q.shape[:-2]:
        builder.refuse("attention with fewer key heads than query heads", "repeat the keys")
    scores = product(builder, q, keys, f"{a.name}_scores", scale)
    mask = a.get("attn_mask")
    if a.get("is_causal"):
        mask = Constant(data=torch.ones(length, past, dtype=torch.bool).tril())
    if mask is not None:
        if not isinstance(mask, Constant):
            builder.refuse("attention with a computed mask", "use a constant mask, or none")
        data = mask.data
        if data.dtype == torch.bool:
            data = torch.zeros(data.shape).masked_fill(~data, -1e9)  # finite, so that a program needs no infinities
        bias = builder.constant(Constant(data=data), f"{a.name}_mask", len(scores_shape))
        scores = builder.emit("add", [scores, bias], f"{a.name}_masked", scores_shape, attributes={"clamp": None})
    weights = builder.emit("softmax", [scores], f"{a.name}_weights", scores_shape, attributes={"axis": len(scores_shape) - 1})
    return product(builder, weights, v, a.name)


def _recurrent(builder: Builder, a: Arguments, kind: str) -> tuple[Any, ...]:
    """A stack of (bidirectional) layers as one op a layer and direction; the initial state must be zero."""
    given = a.anywhere("input")
    if len(given.shape) != 2 or (given.batch, given.left, given.right) != (0 if a.get("batch_first") else 1, 0, 0):
        builder.refuse(
            f"a {kind} that runs along the batch", "build it with batch_first=True, or permute its input to (steps, batch, features)"
        )
    states = a.get("hx")
    for state in states if isinstance(states, list | tuple) else [states]:
        if not isinstance(state, Constant) or bool(state.data.any()):
            builder.refuse(f"a {kind} with an initial state of its own", "start it from zero")
    x = replace(builder.plain(given), batch=0)
    directions = 2 if a.get("bidirectional") else 1
    params = [p.target for p in a.raw("params")]
    each = 4 if a.get("has_biases") else 2
    hidden: list[Value] = []
    cells: list[Value] = []
    for layer in range(int(a.get("num_layers"))):
        sides = []
        for direction in range(directions):
            at = (layer * directions + direction) * each
            roles = dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), params[at : at + each], strict=False))
            weights = {role: builder.floats(str(p), builder.network.get(str(p))) for role, p in roles.items()}
            outs = _recurrence(builder, kind, x, f"{a.name}_{layer}_{direction}", weights, bool(direction))
            sides.append(outs[0])
            hidden.append(outs[1])
            cells += outs[2:]
        x = sides[0]
        if directions == 2:
            length, width = x.shape
            x = builder.emit("concat", sides, f"{a.name}_{layer}_both", (length, 2 * width), attributes={"axis": 1})
    stacks = [_stacked(builder, states, f"{a.name}_{name}") for name, states in (("h", hidden), ("c", cells)) if states]
    return (given.like(x.name, x.shape, x.order), *stacks)


def _stacked(builder: Builder, states: list[Value], name: str) -> Value:
    """The last states of all layers and directions as the network has them: ``[layers · directions, batch, width]``."""
    (width,) = states[0].shape
    rows = [builder.emit("reshape", [state], f"{name}_{i}", (1, width)) for i, state in enumerate(states)]
    out = rows[0] if len(rows) == 1 else builder.emit("concat", rows, name, (len(rows), width), attributes={"axis": 0})
    return replace(out, batch=1)


def _recurrence(builder: Builder, kind: str, x: Value, name: str, weights: dict[str, str], reverse: bool) -> list[Value]:
    width = builder.weights[weights["weight_hh"]].shape[1]
    out = builder.emit(kind, [x], name, (x.shape[0], width), weights=weights, attributes={"reverse": reverse})
    states = [builder.tensor(f"{name}_{state}", (width,), (0,)) for state in ("h", "c")[: 1 if kind == "gru" else 2]]
    op = builder.ops[-1]
    builder.ops[-1] = type(op)(
        kind=op.kind,
        name=op.name,
        inputs=op.inputs,
        outputs=(*op.outputs, *(s.name for s in states)),
        weights=op.weights,
        attributes=op.attributes,
    )
    return [out, *states]


def _adjoint(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order after the network's last two axes have changed names."""
    last = len(order) - 1
    names = {last: last - 1, last - 1: last}
    return tuple(names.get(axis, axis) for axis in order)


RULES: Mapping[Any, Rule] = {
    ATEN.gru.input: lambda b, a: _recurrent(b, a, "gru"),
    ATEN.lstm.input: lambda b, a: _recurrent(b, a, "lstm"),
    ATEN.einsum.default: _einsum,
    ATEN.matmul.default: _matmul,
    ATEN.mm.default: _matmul,
    ATEN.bmm.default: _matmul,
    ATEN.addmm.default: _addmm,
    ATEN.softmax.int: _softmax,
    ATEN._softmax.default: _softmax,
    ATEN.scaled_dot_product_attention.default: _attention,
}
