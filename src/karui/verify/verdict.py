"""Does a network keep its budget? A line per limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from karui.budget import Budget, Cost


@dataclass(frozen=True, kw_only=True)
class Line:
    """One limit: what it is, what was found, what was allowed, and whether it is kept (None: it was not measured)."""

    limit: str
    value: float | None
    allowed: float
    ok: bool | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All limits that a budget sets. ``ok`` only if each was measured and is kept."""

    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Every limit is kept."""
        return all(line.ok for line in self.lines)

    def broken(self) -> Sequence[Line]:
        """The limits that are not kept."""
        return [line for line in self.lines if not line.ok]


def judge(budget: Budget, cost: Cost, *, before: float, after: float | None, higher_is_better: bool = True) -> Verdict:
    """Hold a network's score and cost against ``budget``; the scores are in the metric's unit, ``after`` None where it wasn't trained."""
    drop = None if after is None else (before - after) * (1 if higher_is_better else -1)
    lines = [Line(limit="drop", value=drop, allowed=budget.drop, ok=None if drop is None else drop <= budget.drop)]
    for limit in ("bytes", "peak_ram", "latency_ms"):
        allowed, value = getattr(budget, limit), getattr(cost, limit)
        if allowed is not None:
            lines.append(Line(limit=limit, value=value, allowed=allowed, ok=None if value is None else value <= allowed))
    return Verdict(lines=tuple(lines))
