"""Rules for sequences: recurrent layers, attention, sums of products."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from karui.graph.doors.drawing import Drawing, Known, Live, Value
from karui.graph.doors.onnx_node import Node, Rule, layer_name

aten = torch.ops.aten
# torch's gates in terms of ONNX's: r z n of z r h, and i f g o of i o f c
_GATES = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
_ACTIVATIONS = {"GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
_ROLES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _recurrent(d: Drawing, n: Node) -> tuple[Value, ...]:
    """GRU, LSTM: all directions as one op; the outputs as ONNX has them: ``[steps, directions, batch, width]``, and the last states."""
    way = n.text("direction", "forward")
    directions = 2 if way == "bidirectional" else 1
    _check(n, way, directions)
    x, first = n.value(0), bool(n.whole("layout"))
    if not isinstance(x, Live) or x.batch != (0 if first else 1):
        n.refuse("an input whose batch is not where it should be", "feed it [steps, batch, features]")
    d.layer = layer_name(d.layer, n.kind, "")
    params = _params(d, n, directions)
    states = [_state(d, n, x, place, directions) for place in ((5,) if n.kind == "GRU" else (5, 6))]
    if first:
        states = [d.call(aten.transpose.int, s, 0, 1) if isinstance(s, Live) and n.get(5) is not None else s for s in states]
    steps = 1 if first else 0
    y = d.call(aten.flip.default, x, [steps]) if way == "reverse" else x
    rest = (params, n.get(3) is not None, 1, 0.0, False, directions == 2, first)
    made = d.call(aten.gru.input, y, states[0], *rest) if n.kind == "GRU" else d.call(aten.lstm.input, y, states, *rest)
    sequence, *last = made
    if n.wanted[0]:
        sequence = d.call(aten.flip.default, sequence, [steps]) if way == "reverse" else sequence
        sequence = _by_direction(d, sequence, directions, first)
    if first:
        last = [d.call(aten.transpose.int, each, 0, 1) for each in last]
    return (sequence, *last)


def _check(n: Node, way: str, directions: int) -> None:
    """What torch's layers can't do."""
    if way not in ("forward", "reverse", "bidirectional"):
        n.refuse(f"direction {way[:20]}", "use forward, reverse or bidirectional")
    given = n.attributes.get("activations") or _ACTIVATIONS[n.kind] * directions
    if [str(each).lower() for each in given] != _ACTIVATIONS[n.kind] * directions or "clip" in n.attributes or n.whole("input_forget"):
        n.refuse(f"activations {given}, a clip or coupled gates", "use sigmoid and tanh, without a clip")
    if n.kind == "GRU" and not n.whole("linear_before_reset"):
        n.refuse(
            "linear_before_reset = 0", "use linear_before_reset = 1, which torch and karui's targets compute (Keras: reset_after=True)"
        )
    peepholes = n.constant(7) if n.kind == "LSTM" else None
    if peepholes is not None and bool(peepholes.any()):
        n.refuse("peepholes", "use an LSTM without them")
    lengths = n.constant(4)
    if lengths is not None and bool((lengths != n.value(0).two.shape[1 if n.whole("layout") else 0]).any()):
        n.refuse("lengths of its sequences", "leave sequence_lens out")


def _params(d: Drawing, n: Node, directions: int) -> list[Live]:
    """In torch's order, gates and all; one parameter for each direction and role."""
    held = [n.known(i) for i in (1, 2)]
    if held[0] is None or held[1] is None:
        n.refuse("no weights", "check the file")
    bias = n.known(3)
    found = []
    for direction in range(directions):
        for role, (source, part) in zip(_ROLES, ((held[0], None), (held[1], None), (bias, 0), (bias, 1)), strict=True):
            if source is not None:
                name = f"{d.layer}.{role}_l0{'_reverse' if direction else ''}"
                plain = Known(two=source.two, three=source.three)  # the file's name for all gates and directions says too little
                found.append(d.parameter(plain, name, _gates(n.kind, direction, part), f"{n.kind}{direction}{part}"))
    return found


def _gates(kind: str, direction: int, half: int | None) -> Callable[[Tensor], Tensor]:
    order = _GATES[kind]

    def change(w: Tensor) -> Tensor:
        w = w[direction]
        w = w if half is None else w.reshape(2, -1)[half]
        rows = w.reshape(len(order), -1, *w.shape[1:])
        return rows[list(order)].reshape(w.shape).clone()

    return change


def _state(d: Drawing, n: Node, x: Live, place: int, directions: int) -> Value:
    """The state it starts from: zeros where the file has none, copied for each sample."""
    given = n.get(place)
    if isinstance(given, Live):
        return given
    width = n.value(2).two.shape[2]
    once = torch.zeros(directions, 1, width) if given is None else d.one_sample(given).two
    once = once.transpose(0, 1).contiguous() if given is not None and n.whole("layout") else once
    held = d.held(d.known(once, given.name if given is not None else f"{d.layer}.start"))
    sizes = [(directions, t.shape[x.batch or 0], width) for t in (x.two, x.three)]
    return d.spread(held, *sizes)


def _by_direction(d: Drawing, y: Value, directions: int, first: bool) -> Value:
    """``[steps, batch, directions · width]`` → ``[steps, directions, batch, width]``, or with the batch in front."""
    if directions == 1:
        return d.call(aten.unsqueeze.default, y, 2 if first else 1)
    width = y.two.shape[2] // 2
    apart = d.reshape(y, *([*t.shape[:2], 2, width] for t in (y.two, y.three)))
    return apart if first else d.call(aten.permute.default, apart, [0, 2, 1, 3])


# ── attention and sums of products ──────────────────────────────────────────────────────────────────────────────────────────────────


def _attention(d: Drawing, n: Node) -> Value:
    """softmax(q kᵀ · scale + mask) v over heads."""
    if any(n.wanted[1:]) or n.get(4) is not None or n.real("softcap", 0.0):
        n.refuse("a cache, a softcap or a second output", "plain attention has a rule")
    q, k, v = (n.value(i) for i in range(3))
    flat = q.two.dim() == 3
    heads, others = n.whole("q_num_heads"), n.whole("kv_num_heads")
    if flat:
        if heads < 1 or heads != others:
            n.refuse(f"{heads} heads of queries and {others} of keys", "use as many of both")
        q, k, v = (_heads(d, each, heads) for each in (q, k, v))
    for each in (q, k, v):
        n.inner(each, -1)
        n.inner(each, -2)
    scale = n.real("scale", 0.0) or None
    mask, causal = n.get(3), bool(n.whole("is_causal"))
    y = d.call(aten.scaled_dot_product_attention.default, q, k, v, mask, 0.0, causal, **({"scale": scale} if scale else {}))
    if not flat:
        return y
    y = d.call(aten.permute.default, y, [0, 2, 1, 3])
    return d.reshape(y, *([*t.shape[:2], t.shape[2] * t.shape[3]] for t in (y.two, y.three)))


def _heads(d: Drawing, x: Value, heads: int) -> Value:
    parts = d.reshape(x, *([*t.shape[:2], heads, t.shape[2] // heads] for t in (x.two, x.three)))
    return d.call(aten.permute.default, parts, [0, 2, 1, 3])


def _einsum(d: Drawing, n: Node) -> Value:
    values: list[Any] = n.values()
    _check_letters(n, values)
    live = any(isinstance(v, Live) for v in values)
    layer = layer_name(d.layer, n.kind, "")
    values = [d.parameter(v, f"{layer}.weight") if live and isinstance(v, Known) and v.two.dim() > 1 else v for v in values]
    return d.call(aten.einsum.default, n.text("equation"), values)


def _check_letters(n: Node, values: Sequence[Any]) -> None:
    """The batch has to be one letter, in all live operands and in the output."""
    terms, arrow, out = n.text("equation").replace(" ", "").partition("->")
    letters = {term[v.batch] for v, term in zip(values, terms.split(","), strict=True) if isinstance(v, Live) and v.batch is not None}
    if "." in terms or not arrow or len(letters) > 1 or not letters <= set(out):
        n.refuse(f"the equation '{n.text('equation')[:60]}'", "name all axes by letters, the batch by one that the output has")


RULES: Mapping[str, Rule] = {
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Attention": _attention,
    "Einsum": _einsum,
}
