"""gru and lstm in LiteRT: one step after the other, because what it has of its own gives no last state."""

from functools import partial
from typing import NamedTuple

import numpy as np

from karui.export.litert_graph import Graph, Held
from karui.export.litert_layers import real_weight
from karui.program.program import Op

STEPS = 256  # what a file with a node per step and gate is bearable for


class _State(NamedTuple):
    h: int
    c: int


def recurrent(graph: Graph, op: Op) -> None:
    """Both kinds; every step is written down."""
    length, _ = graph.tensor(op.inputs[0]).shape
    if length > STEPS:
        raise graph.refuse(op, f"{length} steps", f"cut the sequence to {STEPS}, or choose another target")
    gates = 3 if op.kind == "gru" else 4
    hidden = graph.tensor(op.outputs[0]).shape[1]
    weight, offset = real_weight(graph, op, "weight_ih"), _bias(graph, op, "bias_ih", gates * hidden)
    given = graph.node(
        "FULLY_CONNECTED", graph.real(op.inputs[0]), weight, offset, shape=(1, length, gates * hidden), dtype="float32", keepNumDims=True
    )
    one = Held(name=f"{op.name}.step", shape=(1, gates * hidden), dtype="float32")
    inputs = graph.nodes_outputs("UNPACK", [given], [one] * length, num=length, axis=1)
    again = partial(_again, graph, op, real_weight(graph, op, "weight_hh"), _bias(graph, op, "bias_hh", gates * hidden))
    zero = graph.constant(np.zeros((1, hidden)), "float32", "zero")
    state, step = _State(zero, zero), _gru if op.kind == "gru" else _lstm
    seen: list[int] = []
    for value in reversed(inputs) if op.attributes["reverse"] else inputs:
        state = step(graph, value, again(state.h, first=not seen), state)
        seen.append(state.h)
    if op.attributes["reverse"]:
        seen.reverse()
    graph.set(op.outputs[0], graph.node("PACK", *seen, shape=(1, length, hidden), hint=op.outputs[0], valuesCount=length, axis=1))
    for name, last in zip(op.outputs[1:], state):  # gru has no c
        graph.set(name, last)


def _bias(graph: Graph, op: Op, role: str, size: int) -> int:
    held = graph.program.operand(op, role)
    return graph.constant(np.zeros(size) if held is None else held.real().reshape(-1), "float32", f"{op.name}.{role}")


def _again(graph: Graph, op: Op, weight: int, offset: int, h: int, *, first: bool) -> int:
    """What the last state adds to the gates [1, gates · H]; before the first step that is the bias alone."""
    shape = (1, *graph.shape(offset))
    return graph.reshape(offset, shape) if first else graph.node("FULLY_CONNECTED", h, weight, offset, shape=shape)


def _split(graph: Graph, value: int, parts: int) -> tuple[int, ...]:
    held = graph.held[value]
    made = [Held(name=f"{held.name}.gate", shape=(1, held.shape[1] // parts), dtype="float32")] * parts
    return graph.nodes_outputs("SPLIT", [graph.constant(1, "int32", "axis"), value], made, numSplits=parts)


def _gru(graph: Graph, x: int, u: int, state: _State) -> _State:
    """h = (1 − z)·n + z·h = n + z·(h − n)."""
    (xr, xz, xn), (hr, hz, hn) = _split(graph, x, 3), _split(graph, u, 3)
    r, z = (graph.node("LOGISTIC", graph.node("ADD", a, b)) for a, b in ((xr, hr), (xz, hz)))
    n = graph.node("TANH", graph.node("ADD", xn, graph.node("MUL", r, hn)))
    h = graph.node("ADD", n, graph.node("MUL", z, graph.node("SUB", state.h, n)))
    return _State(h, state.c)


def _lstm(graph: Graph, x: int, u: int, state: _State) -> _State:
    """c = f·c + i·g and h = o·tanh(c)."""
    i, f, g, o = _split(graph, graph.node("ADD", x, u), 4)
    i, f, o = (graph.node("LOGISTIC", gate) for gate in (i, f, o))
    kept = graph.node("MUL", f, state.c)
    c = graph.node("ADD", kept, graph.node("MUL", i, graph.node("TANH", g)))
    return _State(graph.node("MUL", o, graph.node("TANH", c)), c)
