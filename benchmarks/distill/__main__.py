"""Every line of the benchmark in order. Trainings that ``runs/benchmarks`` holds aren't done again."""

from benchmarks.distill import compose, exits, methods, mnist, overhead, refusals
from benchmarks.distill.kept import KEPT
from benchmarks.harness import main

LINES = {
    "1": KEPT.unless_quick(mnist.rows, "1"),
    "2": KEPT.unless_quick(methods.rows("2", methods.cifar, goals=True), "2"),
    "2b": KEPT.unless_quick(methods.rows("2b", methods.mnist), "2b"),
    "3": KEPT.unless_quick(compose.rows, "3"),
    "4": KEPT.unless_quick(exits.rows, "4"),
    "4t": KEPT.unless_quick(exits.timed, "4t"),
    "5": overhead.rows,
    "6": refusals.rows,
}

if __name__ == "__main__":
    main("distill", LINES, timings=["4t", "5"])
