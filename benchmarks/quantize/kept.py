"""The small quantized networks of the full run."""

from benchmarks.kept import Kept

KEPT = Kept(benchmark="quantize", lines={"lenet300-deep": "3", "lenet5-deep": "3"}, data={"3": "mnist"})
