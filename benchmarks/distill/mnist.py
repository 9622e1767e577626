"""Line 1: Hinton's experiments on MNIST: what a big network's answers teach a small one, and of a digit that it never saw.

Hinton, Vinyals and Dean 2015, §3; the errors it tells are of 10,000: big 67, small 146, small and taught 74. Settings are chosen on
validation: alpha by one seed's errors there, as a training takes minutes, the first of those that are alike; the bias of the digit left
out seed by seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import numpy as np

from benchmarks.distill import sweep
from benchmarks.distill.mlp import Taught, alone, answers, big, distilled, errors
from benchmarks.harness import Row, at_least, skipped
from benchmarks.trainings import SEEDS
from karui import datasets
from karui.data import ArrayPart, Data, Part
from karui.errors import DataError
from karui.graph.network import Network

TRIED = tuple(Taught(alpha=alpha) for alpha in (1.0, 0.5))
CHOSEN_BY = SEEDS[:1]  # the seeds that choose among those
UNTOLD = Taught(alpha=1.0)  # labels would say of everything that it is no 3
OMITTED = 3  # the digit that the transfer set lacks
RAISES = tuple(round(0.1 * step, 1) for step in range(101))  # of its bias


def rows(quick: bool) -> Iterator[Row]:
    """The three networks, the digit left out, the temperatures."""
    try:
        data = datasets.load("mnist", augment=False)
    except DataError as reason:
        yield skipped("1 mnist", str(reason))
        return
    yield from recovery(data)
    yield from omitted(data)
    yield from sweep.rows(data)


def recovery(data: Data) -> Iterator[Row]:
    """How much of the way from the small network's errors to the big one's its answers take."""
    case, validation = "1 mnist", data.validation
    tried = {taught: [errors(distilled(data, seed, taught), validation) for seed in CHOSEN_BY] for taught in TRIED}
    yield _row(f"{case}, big net", "validation errors of 5,000", [errors(big(seed), validation) for seed in SEEDS])
    yield _row(f"{case}, small net", "validation errors of 5,000", [errors(alone(data, seed), validation) for seed in SEEDS])
    for taught, each in tried.items():
        yield _row(f"{case}, distilled small net, {taught.label}", "validation errors of 5,000", each)
    chosen = min(tried, key=lambda taught: mean(tried[taught]))
    of_big = [errors(big(seed), data.test) for seed in SEEDS]
    of_small = [errors(alone(data, seed), data.test) for seed in SEEDS]
    found = [errors(distilled(data, seed, chosen), data.test) for seed in SEEDS]
    yield _row(f"{case}, big net", "test errors of 10,000", of_big, peer="Hinton et al. 2015: 67")
    yield _row(f"{case}, small net", "test errors of 10,000", of_small, peer="Hinton et al. 2015: 146")
    yield _row(f"{case}, distilled small net, {chosen.label}", "test errors of 10,000", found, peer="Hinton et al. 2015: 74")
    gap = mean(of_small) - mean(of_big)
    shares = [(small - taught) / gap for small, taught in zip(of_small, found)]
    yield at_least(
        f"{case}, distilled small net",
        "share of the gap recovered",
        mean(shares),
        0.9,
        peer="Hinton et al. 2015: 0.91",
        seeds=len(SEEDS),
        spread=stdev(shares),
    )


# ── a digit left out ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """What is wrong, and how many of the omitted digit are right, with its bias raised."""

    errors: int
    right: float  # of the omitted digit, in per cent


def omitted(data: Data) -> Iterator[Row]:
    """The student never sees a 3: what its teacher's answers to other digits tell of it."""
    case, without = f"1 mnist, no {OMITTED} in the transfer set", lacking(data)
    made = [distilled(without, seed, UNTOLD, folder=f"no-{OMITTED}/") for seed in SEEDS]
    raises = [best_raise(n, data.validation) for n in made]
    before = [corrected(n, data.test, 0.0) for n in made]
    after = [corrected(n, data.test, raised) for n, raised in zip(made, raises)]
    label = f"{case}, {UNTOLD.label}"
    on_validation = [corrected(n, data.validation, raised).errors for n, raised in zip(made, raises)]
    yield _row(label, "validation errors of 5,000, corrected", on_validation)
    yield _row(label, "test errors of 10,000", [each.errors for each in before], peer="Hinton et al. 2015: 206")
    yield _row(label, "3s right", [each.right for each in before], unit="%", peer="Hinton et al. 2015: 86.8 %")
    yield _row(label, "bias of the 3 raised by", raises, peer="Hinton et al. 2015: 3.5")
    yield _row(label, "test errors of 10,000, corrected", [each.errors for each in after], peer="Hinton et al. 2015: 109")
    right = [each.right for each in after]
    yield at_least(label, "3s right, corrected", mean(right), 98.6, "%", peer="Hinton et al. 2015", seeds=len(SEEDS), spread=stdev(right))


def lacking(data: Data) -> Data:
    """The same data with no omitted digit among what is trained on."""
    part = data.train
    assert isinstance(part, ArrayPart)  # MNIST is in memory
    return replace(data, train=part.subset((part.targets != OMITTED).nonzero().flatten()))


def best_raise(network: Network, part: Part) -> float:
    """What the omitted digit's bias has to be raised by for the least errors on the part; the middle one of several that are alike."""
    scores, classes = answers(network, part)
    wrong = np.array([_wrong(scores, classes, raised).sum() for raised in RAISES])
    best = np.flatnonzero(wrong == wrong.min())
    return RAISES[int(best[len(best) // 2])]


def corrected(network: Network, part: Part, raised: float) -> Corrected:
    """The network's errors with the bias raised."""
    scores, classes = answers(network, part)
    wrong = _wrong(scores, classes, raised)
    return Corrected(errors=int(wrong.sum()), right=100 * float(1 - wrong[classes == OMITTED].mean()))


def _wrong(scores: np.ndarray, classes: np.ndarray, raised: float) -> np.ndarray:
    """Which answers are wrong. The last layer adds its bias to the score, so raising one is raising the other."""
    more = np.zeros(scores.shape[1], scores.dtype)
    more[OMITTED] = raised
    return np.asarray((scores + more).argmax(1) != classes)


def _row(case: str, figure: str, each: Sequence[float], unit: str = "", peer: str | None = None) -> Row:
    spread = stdev(each) if len(each) > 1 else None
    return Row(case=case, figure=figure, value=mean(each), unit=unit, peer=peer, seeds=len(each), spread=spread)
