"""The rule for early exits."""

import math
from collections.abc import Mapping
from typing import Any

from karui.graph.exits import EXIT_IF
from karui.lower.builder import Builder, Value
from karui.lower.rule import Arguments, Rule


def _exit_if(builder: Builder, a: Arguments) -> Value:
    """One op; an exit that nobody takes is left out with its branch, and so is the rest of the network behind one that everybody takes."""
    early, late = builder.plain(a.value("early")), builder.plain(a.value("late"))
    given = a.constant("threshold")
    assert given is not None
    threshold = float(given.reshape(()))
    if math.isnan(threshold):
        builder.refuse("an exit whose threshold is no number", "set it to a margin, or to infinity for an exit that nobody takes")
    if math.isinf(threshold):
        return late if threshold > 0 else early
    if len(late.shape) != 1 or late.shape[0] < 2:
        builder.refuse(f"an exit of scores {list(late.shape)}", "let it give one score for each of two classes or more")
    return builder.emit("exit_if", [early, late], a.name, late.shape, attributes={"threshold": threshold})


RULES: Mapping[Any, Rule] = {EXIT_IF: _exit_if}
