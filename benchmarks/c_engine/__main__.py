"""Every line of the benchmark in order; 0 is the table of kernels."""

from collections.abc import Iterator

from benchmarks.c_engine import arm, artefacts, binary, blocks, cortex_m, fuzz, kernels, large, networks, signs_elsewhere
from benchmarks.harness import Row, main


def of_one_bit(quick: bool) -> Iterator[Row]:
    """Line 2: beside this machine's ceilings, our int8 and OpenVINO; then beside larq."""
    yield from binary.rows(quick)
    yield from signs_elsewhere.rows(quick)


LINES = {
    "0": kernels.rows,
    "1": networks.rows,
    "2": of_one_bit,
    "3": blocks.rows,
    "4": artefacts.rows,
    "5": cortex_m.rows,
    "6": arm.rows,
    "7": fuzz.rows,
    "8": large.rows,
}

if __name__ == "__main__":
    main("c_engine", LINES, timings=["0", "1", "2", "3", "8"])
