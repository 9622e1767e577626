"""Every line of the benchmark in order."""

from benchmarks.c_engine import arm, artefacts, binary, blocks, cortex_m, fuzz, large, networks
from benchmarks.harness import main

LINES = {
    "1": networks.rows,
    "2": binary.rows,
    "3": blocks.rows,
    "4": artefacts.rows,
    "5": cortex_m.rows,
    "6": arm.rows,
    "7": fuzz.rows,
    "8": large.rows,
}

if __name__ == "__main__":
    main("c_engine", LINES, timings=["1", "2", "3", "8"])
