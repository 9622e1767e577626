"""Every line of the benchmark in order. Trainings that ``runs/benchmarks`` holds aren't done again."""

from benchmarks.harness import main
from benchmarks.prune import cifar, layerwise, mnist, refusals, size, speed
from benchmarks.prune.kept import KEPT

LINES = {
    "1": KEPT.unless_quick(mnist.rows, "1"),
    "1b": KEPT.unless_quick(mnist.figure5, "1b"),
    "2a": KEPT.unless_quick(cifar.rows(cifar.resnet20), "2a"),
    "2b": KEPT.unless_quick(cifar.rows(cifar.table), "2b"),
    "3": speed.rows,
    "4": KEPT.unless_quick(layerwise.rows, "4"),
    "5": size.rows,
    "6": refusals.rows,
}

if __name__ == "__main__":
    main("prune", LINES, timings=["3"])
