"""Up the ladder: try the rungs in order, leave out what can't succeed, choose the best that fits."""

from collections.abc import Sequence

from karui.budget import Budget
from karui.errors import BudgetError
from karui.search.ladder import Rung
from karui.search.trial import Setting, Trial, skipped, trial


def climb(rungs: Sequence[Rung], setting: Setting) -> tuple[Trial, ...]:
    """A trial of every rung; once one of a family loses too much accuracy, its harder sisters are left out."""
    lost: dict[str, str] = {}
    trials = []
    for rung in rungs:
        if rung.family in lost:
            trials.append(skipped(rung, f"not tried: the gentler {lost[rung.family]} already loses too much"))
            continue
        result = trial(rung, setting)
        trials.append(result)
        if rung.family and result.drop is not None and result.drop > setting.budget.drop:
            lost[rung.family] = rung.name
    return tuple(trials)


def choose(trials: Sequence[Trial]) -> Trial | None:
    """The one with the fewest bytes of those that fit; of equals, the one that loses least."""
    fitting = [t for t in trials if t.fits]
    return min(fitting, key=lambda t: (t.cost.bytes or 0, t.drop or 0.0), default=None)


def unreachable(trials: Sequence[Trial], budget: Budget) -> BudgetError:
    """The error that says which limit nothing keeps, and what came nearest."""
    limits = {"bytes": budget.bytes, "peak_ram": budget.peak_ram, "latency_ms": budget.latency_ms}
    for name, limit in limits.items():
        values = [(value, t.name) for t in trials if (value := getattr(t.cost, name)) is not None]
        if limit is not None and values and min(values)[0] > limit:
            value, nearest = min(values)
            return BudgetError(f"no candidate keeps {name} ≤ {limit:,.6g}: the nearest is {nearest} with {value:,.6g}; raise that limit")
    judged = [(t.drop, t.name) for t in trials if t.drop is not None]
    if not judged:
        return BudgetError("no candidate could be trained within the limits; raise one of them")
    drop, nearest = min(judged)
    if drop > budget.drop:
        return BudgetError(
            f"no candidate keeps drop ≤ {budget.drop:g}: the nearest is {nearest}, which loses {drop:.2f}; allow more, or train more"
        )
    reasons = "; ".join(f"{t.name}: {t.reason}" for t in trials if t.drop is not None)
    return BudgetError(f"each limit can be kept, but not all of them together ({reasons}); raise one of them")
