"""Line 1, the temperatures: what students of 30 and of 300 units per layer learn best at. Told on validation: it is where one chooses.

Hinton, Vinyals and Dean 2015, §3: with 300 units or more in both layers all temperatures above 8 gave alike results; with 30, those of 2.5
to 4 worked better than higher and lower ones.
"""

from collections.abc import Iterator, Mapping
from statistics import mean

from benchmarks.distill.kept import KEPT
from benchmarks.distill.mlp import Taught, distilled, errors
from benchmarks.harness import Row, at_most
from benchmarks.trainings import SEEDS, Errors
from karui.data import Data
from karui.graph.network import Network

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 20.0)
STUDENTS = {30: SEEDS, 300: SEEDS[:1]}  # units per layer, and the seeds that there is time for
LOW = (2.0, 4.0)  # of these, those about the paper's range of 2.5 to 4
ALPHA = 1.0  # the teacher's answers alone, as its temperature is what is asked about
ALIKE = 0.1  # points; five pictures of 5,000

Curve = Mapping[float, Errors]  # temperature → errors on validation


def rows(data: Data) -> Iterator[Row]:
    """Both curves, and whether they have the shape that the paper found."""
    curves: dict[int, Curve] = {}
    for units, seeds in STUDENTS.items():
        curves[units] = {t: Errors(each=tuple(_error(data, seed, t, units) for seed in seeds)) for t in TEMPERATURES}
        for temperature, found in curves[units].items():
            case = f"1 mnist, {units} units, T {temperature:g}"
            yield Row(case=case, figure="validation error", value=found.mean, unit="%", seeds=len(seeds), spread=found.spread)
    yield from shape(curves[30], curves[300])
    best = min(TEMPERATURES, key=lambda t: curves[30][t].mean)
    KEPT.keep("mlp-30-distilled", _student(data, 0, best, 30))


def shape(narrow: Curve, wide: Curve) -> Iterator[Row]:
    """The paper's two sentences, as goals."""
    for other in (1.0, 8.0, 20.0):
        gaps = Errors(each=tuple(mean(few) - many for *few, many in zip(*(narrow[t].each for t in (*LOW, other)))))
        figure, seeds = f"validation error, T 2 and 4 - T {other:g}", len(gaps.each)
        yield at_most("1 mnist, 30 units", figure, gaps.mean, 0.0, "points", peer="Hinton et al. 2015", seeds=seeds, spread=gaps.spread)
    gap, seeds = abs(wide[8.0].mean - wide[20.0].mean), len(wide[8.0].each)
    yield at_most(
        "1 mnist, 300 units", "validation error, T 8 and T 20 apart", gap, ALIKE, "points", peer="Hinton et al. 2015", seeds=seeds
    )


def _error(data: Data, seed: int, temperature: float, units: int) -> float:
    return 100 * errors(_student(data, seed, temperature, units), data.validation) / len(data.validation)


def _student(data: Data, seed: int, temperature: float, units: int) -> Network:
    return distilled(data, seed, Taught(alpha=ALPHA, temperature=temperature), (units, units), folder=f"{units}/")
