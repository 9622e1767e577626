"""What a report says of layers, and of runners that don't answer as the interpreter does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from karui import evidence
from karui.budget import Cost
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program.interpreter import run
from karui.search.trial import Trial, figure
from karui.testing.subjects import small_inputs, small_programs
from tests.export.test_c_exits import leaving


@pytest.mark.parametrize(
    ("value", "text"), [(90_000, "90,000"), (0.1, "0.1"), (-0.0, "0"), (0.0, "0"), (1e-7, "1e-07"), (-0.23, "-0.23"), (1234.5, "1,234.5")]
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_choice_of_bits_is_told() -> None:
    told = {"bits": {"fc": 4}, "frontier": [[0.5, 0.2], [1.0, 0.0]], "chosen": [0.6, 0.1]}
    trial = Trial(name="a", why="", phases=(), cost=Cost(), facts=({"facts": [{"weights": 3}]}, {"facts": [told, {"teacher": 1}]}))
    found = evidence.frontier(trial)
    assert [(t.share, t.harm) for t in found] == [(0.5, 0.2), (1.0, 0.0), (0.6, 0.1)]
    assert evidence.frontier(None) == evidence.frontier(replace(trial, facts=())) == []


def test_where_samples_leave_is_told_by_the_last_choice() -> None:
    def told(threshold: float | None, share: float) -> dict[str, object]:
        first = {"exit": "exits.0", "threshold": threshold, "share": share, "macs": 10}
        return {"facts": [{"exits": [first], "undecided_macs": 110, "last": 1 - share}]}

    trial = Trial(name="a", why="", phases=(), cost=Cost(), facts=(told(1.0, 0.9), told(2.0, 0.75)))
    assert [(e.name, e.share, e.macs) for e in evidence.exits(trial)] == [("exits.0", 0.75, 10), ("the end", 0.25, 110)]
    assert evidence.exits(replace(trial, facts=(told(None, 0.0),))) == evidence.exits(None) == []


class Both(nn.Module):
    """A recurrent layer that goes both ways, and a linear one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.fc(self.gru(x)[0][:, -1]))


def test_a_layers_weights_are_counted_all_and_once() -> None:
    net = Both()
    stored = evidence.stored_by_layer(lower(capture(net, torch.randn(2, 4, 3))))
    for layer in ("gru", "fc"):
        assert stored[layer].count == stored[layer].stored == sum(p.numel() for p in net.get_submodule(layer).parameters()), layer


def test_a_runner_that_breaks_its_promise_is_told() -> None:
    program = small_programs()["int8"]
    inputs = small_inputs(program)
    expected = run(program, inputs)
    wrong = [y ^ 1 if y.dtype == np.int8 else y * 1.01 for y in expected]
    assert evidence.hold("odd", True, expected, expected, promised=True).ok is True
    found = evidence.hold("odd", True, wrong, expected, promised=True)
    assert found.ok is False and found.differing > 0.9
    assert evidence.hold("odd", True, wrong, expected, promised=False).ok is None


def test_a_program_that_rounds_floats_within_promises_nothing() -> None:
    program = small_programs()["int8"]
    assert program.ops[0].kind == "quantize" and not evidence.rounds_floats(program)
    first = replace(program.ops[0], inputs=(program.ops[3].outputs[0],))
    assert evidence.rounds_floats(replace(program, ops=(*program.ops[1:], first)))
    assert not evidence.rounds_floats(small_programs()["float"])


def test_an_exit_that_looks_at_floats_promises_nothing() -> None:
    assert evidence.rounds_floats(leaving()) and not evidence.rounds_floats(leaving(integer=True))
