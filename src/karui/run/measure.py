"""How long a call takes, and whether the machine is quiet enough to say so."""

import os
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from karui.errors import ToolError
from karui.run.elf import Sections, sections

__all__ = ["Sections", "Timing", "interleaved", "latency", "require_quiet", "sections", "timing"]

SECONDS = 0.5  # of measuring, for each call
WARM_UP = 0.05
SHORTEST = 50e-6  # a shorter call is repeated within one measurement, so that reading the clock doesn't count
BUSY = 0.15  # share of the cores that others may use
JITTER = 1.3  # slowest tenth ÷ fastest tenth of equal work

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one call: median, and the 10th and 90th percentile, of ``runs`` measurements."""

    median_ms: float
    p10: float
    p90: float
    runs: int


def latency(call: Call, *, seconds: float = SECONDS) -> Timing:
    """Time a call again and again for about ``seconds`` (five times at least), after warming up."""
    return interleaved({"": call}, seconds=seconds)[""]


def interleaved(calls: Mapping[Key, Call], *, seconds: float = SECONDS) -> dict[Key, Timing]:
    """Time several calls in turn, so that a slower or faster minute of the machine touches all of them alike."""
    repeats = {key: _warmed(call) for key, call in calls.items()}
    found: dict[Key, list[float]] = {key: [] for key in calls}
    end = time.perf_counter() + seconds * len(calls)
    turn, order = list(calls.items()), random.Random(0)
    while time.perf_counter() < end or any(len(times) < 5 for times in found.values()):
        for key, call in turn:
            found[key].append(_once(call, repeats[key]))
        order.shuffle(turn)  # what one leaves in the caches shall not always be the same one's gain or loss
    return {key: timing(times) for key, times in found.items()}


def _warmed(call: Call) -> int:
    """Warm up; returns how many calls make one measurement."""
    times: list[float] = []
    end = time.perf_counter() + WARM_UP
    while not times or time.perf_counter() < end:
        times.append(_once(call, 1))
    return max(1, int(np.ceil(SHORTEST / max(min(times), 1e-9))))


def _once(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def timing(times: Sequence[float]) -> Timing:
    """What single measurements, in seconds, come to."""
    p10, median, p90 = (float(v) * 1e3 for v in np.percentile(times, [10, 50, 90]))
    return Timing(median_ms=median, p10=p10, p90=p90, runs=len(times))


# ── Is the machine quiet? ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def require_quiet(*, seconds: float = 0.5) -> None:
    """Raise ToolError when others keep this machine busy: a benchmark's figures would say more about them.

    Two looks: the share of the cores that run while this process sleeps, and how evenly equal work goes.
    """
    share = busy_share(seconds)
    if share > BUSY:
        raise ToolError(f"the machine is busy: others use {share:.0%} of its cores; stop them and measure again, or skip the timings")
    spread = jitter()
    if spread > JITTER:
        raise ToolError(f"the machine is uneven: equal work takes up to {spread:.2f} times as long; stop other programs and measure again")


def busy_share(seconds: float = 0.5) -> float:
    """The share of all cores that is in use while this process sleeps, 0 … 1; from /proc/stat, else from the load average."""
    before = _ticks()
    if before is None:
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    time.sleep(seconds)
    after = _ticks()
    assert after is not None
    total = after[1] - before[1]
    return (after[0] - before[0]) / total if total else 0.0


def _ticks() -> tuple[int, int] | None:
    """(busy, all) clock ticks of all cores since the start."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    numbers = [int(n) for n in path.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    total = sum(numbers)
    return total - numbers[3] - numbers[4], total


def jitter(rounds: int = 60) -> float:
    """Slowest tenth ÷ fastest tenth of equal pieces of work of about a millisecond."""
    work = np.arange(100_000, dtype=np.float64)

    def piece() -> None:
        for _ in range(8):
            np.sqrt(work).sum()

    piece()
    times = [_once(piece, 1) for _ in range(rounds)]
    return float(np.percentile(times, 90) / np.percentile(times, 10))
