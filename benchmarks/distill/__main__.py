"""Every line of the benchmark in order. Trainings that ``runs/benchmarks`` holds aren't done again."""

from benchmarks.distill import mnist
from benchmarks.distill.kept import KEPT
from benchmarks.harness import main

LINES = {
    "1": KEPT.unless_quick(mnist.rows, "1"),
}

if __name__ == "__main__":
    main("distill", LINES, timings=[])
