"""The rule for recurrent layers: one LSTM over a whole sequence."""

from collections.abc import Mapping, Sequence

import torch

from karui.graph.doors.drawing import SIZES, Live
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import Held, Scene, plain_order

aten = torch.ops.aten

_GATES, _PEEPHOLES, _BIASES, _REST = range(1, 5), range(9, 12), range(12, 16), (16, 17, *range(20, 24))
_TANH = 4


def _lstm(s: Scene, op: Operator) -> Held:
    """Torch's LSTM of one layer; both write the gates in the order input, forget, cell, output."""
    _check(s, op)
    first = not op.option("TimeMajor", False)
    x = s.plain(s.held(op, 0))
    if x.rank != 3 or not isinstance(x.value, Live) or x.batch != (0 if first else 1):
        s.refuse("an input whose batch is not where it should be", "feed it [batch, steps, features]")
    layer = s.drawing.layer
    weights = [_joined(s, op, places, f"{layer}.{name}") for places, name in ((_GATES, "weight_ih_l0"), (range(5, 9), "weight_hh_l0"))]
    width = weights[1].shape[1]
    biases = [_joined(s, op, _BIASES, f"{layer}.bias_ih_l0")]
    biases.append(s.drawing.parameter(s.drawing.known(torch.zeros(4 * width)), f"{layer}.bias_hh_l0"))
    start = s.drawing.held(s.drawing.known(torch.zeros(1, 1, width), f"{layer}.start"))
    state = s.drawing.spread(start, *((1, size, width) for size in SIZES))
    made = s.drawing.call(aten.lstm.input, x.value, [state, state], [*weights, *biases], True, 1, 0.0, False, False, first)
    return Held(value=made[0], order=plain_order(3))


def _check(s: Scene, op: Operator) -> None:
    if any(s.has(op, i) for i in (*_PEEPHOLES, *_REST)):
        s.refuse("an LSTM with peepholes, a projection or norms", "use a plain LSTM")
    if op.option("FusedActivationFunction", 0) != _TANH or op.option("CellClip", 0.0) > 0 or not s.has(op, 1):
        s.refuse("an LSTM with clipping, joined gates or another function than tanh", "use a plain LSTM")
    if s.tensor(op, 0).quant is not None:
        s.refuse("an LSTM of codes", "convert it in floats; karui quantizes its weights")


def _joined(s: Scene, op: Operator, places: Sequence[int], name: str) -> Live:
    """The four gates' constants as one parameter."""
    parts = [s.known(op, i) for i in places]
    found = [p.two for p in parts if p is not None]
    if len(found) != 4 or any(p.shape != found[0].shape for p in found):
        s.refuse("gates that are computed, or of several shapes", "make their weights constants of the file")
    return s.drawing.parameter(s.drawing.known(torch.cat([p.float() for p in found])), name)


RULES: Mapping[str, Rule] = {"UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm}
