"""Line 1, the temperatures: what students of 30 and of 300 units per layer learn best at. Told on validation: it is where one chooses.

Hinton, Vinyals and Dean 2015, §3: with 300 units or more in both layers all temperatures above 8 gave alike results; with 30, those of 2.5
to 4 worked better than higher and lower ones.
"""

from collections.abc import Iterator, Mapping
from statistics import mean, stdev

from benchmarks.distill.kept import KEPT
from benchmarks.distill.mlp import Taught, distilled, errors
from benchmarks.harness import Row, at_most
from benchmarks.trainings import SEEDS
from karui.data import Data

TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 8.0, 20.0)
PAPER = (3.0, 4.0)  # of these, those in the paper's range of 2.5 to 4
ALPHA = 1.0  # the teacher's answers alone, as its temperature is what is asked about
ALIKE = 0.1  # points; five pictures of 5,000

Curve = Mapping[float, list[float]]  # temperature → validation errors in per cent, by seed


def rows(data: Data) -> Iterator[Row]:
    """Both curves, and whether they have the shape that the paper found."""
    curves: dict[int, Curve] = {}
    for units in (30, 300):
        curves[units] = {t: [_error(data, seed, t, units) for seed in SEEDS] for t in TEMPERATURES}
        for temperature, each in curves[units].items():
            case = f"1 mnist, {units} units, T {temperature:g}"
            yield Row(case=case, figure="validation error", value=mean(each), unit="%", seeds=len(each), spread=stdev(each))
    yield from shape(curves[30], curves[300])
    best = min(curves[30], key=lambda t: mean(curves[30][t]))
    KEPT.keep("mlp-30-distilled", distilled(data, 0, _taught(best), (30, 30), folder="30/"))


def shape(narrow: Curve, wide: Curve) -> Iterator[Row]:
    """The paper's two sentences, as goals."""
    for other in (1.0, 8.0, 20.0):
        gaps = [mean(narrow[t][seed] for t in PAPER) - narrow[other][seed] for seed in range(len(narrow[other]))]
        figure = f"validation error, T 3 and 4 - T {other:g}"
        yield at_most(
            "1 mnist, 30 units", figure, mean(gaps), 0.0, "points", peer="Hinton et al. 2015", seeds=len(gaps), spread=stdev(gaps)
        )
    gap = abs(mean(wide[8.0]) - mean(wide[20.0]))
    seeds = len(wide[8.0])
    yield at_most(
        "1 mnist, 300 units", "validation error, T 8 and T 20 apart", gap, ALIKE, "points", peer="Hinton et al. 2015", seeds=seeds
    )


def _error(data: Data, seed: int, temperature: float, units: int) -> float:
    made = distilled(data, seed, _taught(temperature), (units, units), folder=f"{units}/")
    return 100 * errors(made, data.validation) / len(data.validation)


def _taught(temperature: float) -> Taught:
    return Taught(alpha=ALPHA, temperature=temperature)
