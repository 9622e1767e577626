"""Every line of the benchmark in order."""

from collections.abc import Callable, Iterator

from benchmarks.harness import Row, main
from benchmarks.quantize import binary, cost, deep, efficientnet, few_bits, properties, zoo_nets
from benchmarks.quantize.kept import KEPT


def unless_quick(full: Callable[[bool], Iterator[Row]], line: str) -> Callable[[bool], Iterator[Row]]:
    """A line that takes long: quick, only what it kept is measured again."""
    return lambda quick: KEPT.rows(line) if quick else full(quick)


LINES = {
    "1": unless_quick(binary.rows, "1"),
    "2": unless_quick(few_bits.rows, "2"),
    "3": unless_quick(deep.rows, "3"),
    "4": unless_quick(efficientnet.rows, "4"),
    "5": unless_quick(zoo_nets.rows, "5"),
    "6": unless_quick(cost.rows, "6"),
    "7": properties.rows,
}

if __name__ == "__main__":
    main("quantize", LINES, timings=["4", "6"])
