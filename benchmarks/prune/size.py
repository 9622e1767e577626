"""Line 5: the bytes of the file against sparsity, for each pattern, beside the entropy of where the zeros lie; and a budget in bytes."""

from collections.abc import Iterator
from math import comb, log2

import numpy as np

from benchmarks.harness import Row, at_most
from karui import datasets, zoo
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.data import Data
from karui.finetune.phases import Phase, run_phases
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec
from karui.program.check_weight import block_mask
from karui.program.coding.weight import index_bytes
from karui.program.program import Block, Dense, NofM, Program, Weight

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
BYTES = (0.5, 0.2, 0.1)
PATTERNS = ("element", "1x4", "4x1", "4x4")


def rows(quick: bool) -> Iterator[Row]:
    """LeNet-5 with int8 weights: the file, its index, and the bound."""
    network, data = zoo.load("lenet5"), datasets.load("fashion-mnist", sample=True)
    for pattern in PATTERNS:
        found = [_sizes(network, data, Prune(sparsity=s, pattern=pattern, schedule="one_shot")) for s in SPARSITIES]
        for sparsity, (file, index, bound) in zip(SPARSITIES, found, strict=True):
            yield from _rows(f"5 lenet5 int8, {pattern}, {sparsity:.0%}", file, index, bound)
        falling = all(a[0] > b[0] for a, b in zip(found, found[1:]))
        yield Row(case=f"5 lenet5 int8, {pattern}", figure="the file shrinks with every step", value=str(falling), goal="True", ok=falling)
    yield from _rows("5 lenet5 int8, 2:4", *_sizes(network, data, Prune(pattern="2:4", schedule="one_shot")))
    for share in BYTES:
        for pattern in PATTERNS:
            program = _program(network, data, Prune(bytes=share, pattern=pattern, schedule="one_shot"))
            weights = [each for each in program.weights.values() if len(each.shape) > 1]
            reached = sum(each.stored + index_bytes(each.support) for each in weights) / sum(each.mask.size for each in weights)
            case = f"5 lenet5 int8, {pattern}, bytes={share}"
            yield at_most(case, "weights and index / dense weights", reached, round(1.02 * share, 3))


def _rows(case: str, file: int, index: int, bound: float) -> Iterator[Row]:
    yield Row(case=case, figure=".karui file", value=file, unit="B")
    yield Row(case=case, figure="of it index", value=index, unit="B")
    yield Row(case=case, figure="index / entropy of the support", value=index / bound, peer=f"{bound:.0f} B, each place by itself")


def _sizes(network: Network, data: Data, prune: Prune) -> tuple[int, int, float]:
    """Bytes of the file, of the index of all its weights, and the entropy of where they are stored."""
    program = _program(network, data, prune)
    sparse = [w for w in program.weights.values() if not isinstance(w.support, Dense)]
    return len(codec.encode(program)), sum(index_bytes(w.support) for w in sparse), sum(map(entropy, sparse))


def _program(network: Network, data: Data, prune: Prune) -> Program:
    return lower(run_phases(network, data, [Phase(techniques=(prune,)), Phase(techniques=(Quantize(samples=256),))]).network)


def entropy(weight: Weight) -> float:
    """Bytes: the units of a weight times the entropy of one of them being stored; of n:m, the choices of each run."""
    support = weight.support
    assert not isinstance(support, Dense)
    if isinstance(support, NofM):
        return support.mask.size / support.m * log2(comb(support.m, support.n)) / 8
    units = block_mask(support.mask, support.rows, support.columns) if isinstance(support, Block) else support.mask
    share = float(np.mean(units))
    return units.size * (-share * log2(share) - (1 - share) * log2(1 - share)) / 8 if 0 < share < 1 else 1.0
