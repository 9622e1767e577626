"""The small distilled networks of the full run."""

from benchmarks.kept import Kept

KEPT = Kept(
    benchmark="distill",
    lines={"mlp-30-distilled": "1", "narrow-distilled": "2b", "lenet5-99-distilled": "3", "narrow-int4-distilled": "3"},
    data={"1": "mnist", "2b": "mnist", "3": "mnist"},
)
