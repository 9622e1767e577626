"""Every line of the benchmark in order."""

from benchmarks.harness import main
from benchmarks.quantize import binary, efficientnet

if __name__ == "__main__":
    main("quantize", {"1": binary.rows, "4": efficientnet.rows}, timings=["4"])
