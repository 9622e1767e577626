"""The small quantized networks of the full run."""

from benchmarks.kept import Kept

WAYS = {f"resnet8-{way}": "2" for way in ("1w1a", "1w2a", "ternary")}
KEPT = Kept(benchmark="quantize", lines=WAYS | {"lenet300-deep": "3", "lenet5-deep": "3"}, data={"2": "cifar-10", "3": "mnist"})
