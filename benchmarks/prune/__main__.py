"""Every line of the benchmark in order. Trainings that ``runs/benchmarks/prune`` holds aren't done again."""

from collections.abc import Callable, Iterator

from benchmarks.harness import Row, main
from benchmarks.prune import cifar, layerwise, mnist, refusals, size, speed
from benchmarks.prune.kept import KEPT


def unless_quick(full: Callable[[bool], Iterator[Row]], line: str) -> Callable[[bool], Iterator[Row]]:
    """A line that takes hours: quick, only what it kept is measured again."""
    return lambda quick: KEPT.rows(line) if quick else full(quick)


LINES = {
    "1": unless_quick(mnist.rows, "1"),
    "1b": unless_quick(mnist.figure5, "1b"),
    "2a": unless_quick(cifar.rows(cifar.resnet20), "2a"),
    "2b": unless_quick(cifar.rows(cifar.table), "2b"),
    "3": speed.rows,
    "4": unless_quick(layerwise.rows, "4"),
    "5": size.rows,
    "6": refusals.rows,
}

if __name__ == "__main__":
    main("prune", LINES, timings=["3"])
