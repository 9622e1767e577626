"""Every line of the benchmark in order."""

from benchmarks.harness import main
from benchmarks.quantize import binary, cost, deep, efficientnet, equalize, few_bits, properties, zoo_nets
from benchmarks.quantize.kept import KEPT

LINES = {
    "1": KEPT.unless_quick(binary.on_mnist, "1"),
    "1b": KEPT.unless_quick(binary.on_cifar, "1b"),
    "2": KEPT.unless_quick(few_bits.rows, "2"),
    "3": KEPT.unless_quick(deep.rows, "3"),
    "4": KEPT.unless_quick(efficientnet.rows, "4"),
    "4b": KEPT.unless_quick(efficientnet.narrow, "4b"),
    "5": KEPT.unless_quick(zoo_nets.rows, "5"),
    "5b": KEPT.unless_quick(equalize.rows, "5b"),
    "5c": KEPT.unless_quick(zoo_nets.over_seeds, "5c"),
    "6": KEPT.unless_quick(cost.rows, "6"),
    "7": properties.rows,
}

if __name__ == "__main__":
    main("quantize", LINES, timings=["4", "4b", "6"])
