"""Every line of the benchmark in order. Trainings that ``runs/benchmarks/prune`` holds aren't done again."""

from collections.abc import Iterator

from benchmarks.harness import Row, main
from benchmarks.prune import cifar, kept, layerwise, mnist, refusals, size, speed


def rows(quick: bool) -> Iterator[Row]:
    """Full: everything. Quick: the kept networks, and what needs no training."""
    if quick:
        yield from kept.rows(quick)
    else:
        yield from mnist.rows(quick)
        yield from cifar.rows(quick)
    yield from speed.rows(quick)
    if not quick:
        yield from layerwise.rows(quick)
    yield from size.rows(quick)
    yield from refusals.rows(quick)


if __name__ == "__main__":
    main("prune", rows, timings=True)
