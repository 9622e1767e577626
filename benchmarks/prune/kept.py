"""The small pruned networks of the full run."""

from benchmarks.kept import Kept

KEPT = Kept(
    benchmark="prune",
    lines={"lenet300-56x": "1", "lenet5-108x": "1", "resnet20-sparse-90": "2a"},
    data={"1": "mnist", "2a": "cifar-10"},
)
