import math

import numpy as np
import pytest
import torch
from torch import nn

from karui.errors import UnsupportedOp
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program import interpreter
from karui.program.check import check
from karui.program.program import Program
from tests.graph.test_exits import Leaves, leaving
from tests.lower.quantized import quantized


def kinds(program: Program) -> list[str]:
    return [f"{op.kind} {op.name}" for op in program.ops]


def test_the_first_exits_scores_come_first_and_the_rest_last() -> None:
    program = lower(leaving())
    check(program)
    first, then, rest = ["linear exit1"], ["linear one", "linear exit2"], ["linear two", "linear three"]
    assert kinds(program) == [*first, *then, *rest, "exit_if exit_if", "exit_if exit_if"]


@pytest.mark.parametrize(("first", "second"), [(0.4, 0.2), (0.1, 0.5), (10.0, 10.0), (0.0, 0.0)])
def test_it_answers_as_the_network_does(first: float, second: float) -> None:
    network, x = leaving(first=first, second=second), torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(x)[0].numpy()
    np.testing.assert_allclose(interpreter.run(lower(network), [x.numpy()])[0], expected, atol=1e-5)


def test_an_exit_that_nobody_takes_is_left_out() -> None:
    assert kinds(lower(leaving(first=math.inf))) == ["linear one", "linear exit2", "linear two", "linear three", "exit_if exit_if"]
    assert kinds(lower(leaving(first=math.inf, second=math.inf))) == ["linear one", "linear two", "linear three"]
    assert kinds(lower(leaving(first=-math.inf))) == ["linear exit1"]


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match="'exit_if' uses an exit whose threshold is no number"):
        lower(leaving(first=math.nan))


def test_one_score_is_no_choice() -> None:
    class One(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.karui.exit_if(x[:, :3, 0], x[:, :3, 1], torch.tensor(0.5))

    program = lower(capture(One(), torch.zeros(2, 4, 2), name="one").eval())
    assert "exit_if" in [op.kind for op in program.ops]

    class Rows(One):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.karui.exit_if(x * 2, x * 3, torch.tensor([[[0.5]]]))

    with pytest.raises(UnsupportedOp, match=r"an exit of scores \[4, 2\]"):
        lower(capture(Rows(), torch.zeros(2, 4, 2), name="rows").eval())


def test_layers_are_integers_and_the_choice_is_made_in_floats() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 6)
    network = quantized(Leaves(), x)
    program = lower(network)
    check(program)
    by_name = {op.name: op for op in program.ops if op.kind == "linear"}
    assert {program.tensor(op.outputs[0]).dtype for op in by_name.values()} == {"int8"} and len(by_name) == 5
    exits = [op for op in program.ops if op.kind == "exit_if"]
    assert len(exits) == 2 and all(program.tensor(op.outputs[0]).dtype == "float32" for op in exits)
    with torch.no_grad():
        expected = network(x)[0].numpy()
    found = interpreter.run(program, [x.numpy()])[0]
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95
