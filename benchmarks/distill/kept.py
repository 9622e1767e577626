"""The small distilled networks of the full run."""

from benchmarks.kept import Kept

KEPT = Kept(
    benchmark="distill",
    lines={"mlp-30-distilled": "1"},
    data={"1": "mnist"},
)
