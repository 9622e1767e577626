"""Training and evaluation: which ops of a graph carry a mode, and how it is switched.

A captured graph has no modules whose flag could be set: batch-norm, dropout and their kin carry their mode as an argument. The graph is
captured in training mode, or in evaluation and then armed; ``switch`` to evaluation edits those arguments and remembers their training
values on the node, so switching back restores them exactly. What a node remembers is replaced, never changed in place: copies of a graph
share it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten

_REMEMBERED = "karui_training_value"
_HELD = "karui_held_value"

# Op → (place of the argument, its value in evaluation). An argument that holds this value already carries no mode.
FLAGS: dict[Any, tuple[int, Any]] = {
    aten.dropout.default: (2, False),
    aten.feature_dropout.default: (2, False),
    aten.alpha_dropout.default: (2, False),
    aten.feature_alpha_dropout.default: (2, False),
    aten.native_dropout.default: (2, False),
    aten.rrelu.default: (3, False),
    aten.scaled_dot_product_attention.default: (4, 0.0),
    aten.gru.input: (6, False),
    aten.lstm.input: (6, False),
    aten.rnn_tanh.input: (6, False),
    aten.rnn_relu.input: (6, False),
}

# These normalise by the batch even in evaluation if they have no running statistics (argument 3), so they carry a mode only with them.
STATISTICS: dict[Any, tuple[int, Any]] = {
    aten.batch_norm.default: (5, False),
    aten.instance_norm.default: (5, False),
}

# Stochastic depth draws a Bernoulli mask and divides it by its probability: in evaluation both become one.
DRAWS = (aten.bernoulli.p,)
DIVISIONS = (aten.div.Tensor, aten.div.Scalar)


def switch(graph: Graph, training: bool) -> None:
    """Edit the arguments that carry a mode; the caller recompiles."""
    for node in graph.nodes:
        if training:
            for place, value in node.meta.pop(_REMEMBERED, {}).items():
                node.update_arg(place, value)
        elif node.target in FLAGS:
            _set(node, *FLAGS[node.target])
        elif node.target in STATISTICS and node.args[3] is not None:
            _set(node, *STATISTICS[node.target])
        elif node.target in DRAWS:
            probability = node.args[1]
            _set(node, 1, 1.0)
            for user in list(node.users):
                if user.target in DIVISIONS and user.args[0] is node and user.args[1] == probability:
                    _set(user, 1, 1.0)


def arm(graph: Graph) -> None:
    """Give a graph that was captured in evaluation its ops' values for training; attention's dropout, which left no trace, stays off."""
    for node in graph.nodes:
        place = STATISTICS[node.target][0] if node.target in STATISTICS and node.args[3] is not None else None
        place = FLAGS[node.target][0] if node.target in FLAGS and FLAGS[node.target][1] is False else place
        if place is not None and len(node.args) > place:
            node.update_arg(place, True)


def hold(nodes: Iterable[Node], held: bool, training: bool) -> None:
    """Let normalisations with running statistics use them, unchanged, in training too; or let them learn again. The caller recompiles.

    nodes: of one graph; others among them are left as they are. training: the mode that the graph is in.
    """
    for node in nodes:
        if node.target not in STATISTICS or node.args[3] is None:
            continue
        place, value = STATISTICS[node.target]
        remembered = dict(node.meta.get(_REMEMBERED, {}))
        if held and (learns := remembered.pop(place, node.args[place])) != value:
            node.meta[_HELD] = learns
            node.update_arg(place, value)
        elif not held and _HELD in node.meta:
            learns = node.meta.pop(_HELD)
            if training:
                node.update_arg(place, learns)
            else:
                remembered[place] = learns
        node.meta[_REMEMBERED] = remembered


def _set(node: Node, place: int, value: Any) -> None:
    if len(node.args) > place and node.args[place] != value:
        node.meta[_REMEMBERED] = node.meta.get(_REMEMBERED, {}) | {place: node.args[place]}
        node.update_arg(place, value)
