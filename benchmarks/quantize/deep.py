"""Line 3: deep compression on MNIST: prune, share, code; the file that is left, and the C program that runs it.

The dense networks are those of ``benchmarks.prune``, line 1; their controls have the same phases of training as what is compressed. How
many weights stay, and how many bits an index has, is chosen on validation, over three seeds: the smallest file whose error there is no more
than 0.05 points above the dense control's; if none is, that of the least error. Being taught by the dense network was tried (half of the
loss): on validation LeNet-300-100 lost by it, compressed or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import Row, at_least, at_most, skipped
from benchmarks.prune.mnist import EPOCHS, RETRAIN, dense
from benchmarks.quantize.kept import KEPT
from benchmarks.trainings import SEEDS, Errors, error, only, trained
from karui import datasets
from karui.compress.prune.weights import Prune
from karui.compress.quantize.palette import Palette
from karui.data import Data
from karui.errors import DataError
from karui.export import c as c_target
from karui.finetune.evaluate import score
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.network import Network
from karui.lower import lower
from karui.program import codec
from karui.program.coding.bits import packed_size, width_of
from karui.program.coding.index import encode_index
from karui.program.program import CodebookValues, Dense, Program
from karui.run import host
from karui.search.scores import program_scores

FACTORS = {"lenet300": (12, 16, 20, 25), "lenet5": (12, 20, 30)}  # weights / those that stay
WIDTHS = ((8, 5), (4, 4), (3, 3))  # bits of an index: of convolutions, of linear layers; the first is the paper's
GOALS = {"lenet300": 40, "lenet5": 39}
SHARE = Training(epochs=4, batch_size=128, optimizer="adamw", lr=2e-4, weight_decay=0.0, schedule="cosine", channels_last=True)
ROOM = 0.05


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way of compressing: how many weights stay, and the bits of an index."""

    factor: int
    bits: tuple[int, int]

    @property
    def label(self) -> str:
        """For tables and folders."""
        return f"{self.factor}x-{self.bits[0]}-{self.bits[1]}"


def rows(quick: bool) -> Iterator[Row]:
    """The quick network first."""
    try:
        data = datasets.load("mnist", augment=False)
    except DataError as reason:
        yield skipped("3 mnist", str(reason))
        return
    for name in FACTORS:
        yield from compressed(name, data)


def compressed(name: str, data: Data) -> Iterator[Row]:
    """Every way on validation, then the chosen one on the test set, and what each stage brings."""
    case, starts = f"3 mnist, {name}", [dense(name, data, seed) for seed in SEEDS]
    controls = [control(name, n, data, s) for s, n in enumerate(starts)]
    limit = mean(_invalid(n, data) for n in controls) + ROOM
    tried: dict[Choice, tuple[bool, float]] = {}
    for factor in FACTORS[name]:
        sparse = [pruned(name, factor, n, data, s) for s, n in enumerate(starts)]
        for bits in WIDTHS:
            choice = Choice(factor=factor, bits=bits)
            made = [shared(name, choice, n, data, s) for s, n in enumerate(sparse)]
            invalid, size = mean(_invalid(n, data) for n in made), mean(len(codec.encode(lower(n))) for n in made)
            yield Row(
                case=f"{case}, {choice.label}", figure="validation error", value=invalid, unit="%", goal=f"≤ {limit:.3f}", seeds=len(SEEDS)
            )
            tried[choice] = (False, size) if invalid <= limit else (True, invalid)
    chosen = min(tried, key=lambda choice: tried[choice])
    paper = Choice(factor=12, bits=WIDTHS[0])
    dense_error = mean(error(n, data) for n in controls)
    yield Row(case=f"{case}, dense control", figure="test error", value=dense_error, unit="%", seeds=len(SEEDS))
    for choice in dict.fromkeys((paper, chosen)):
        sparse = [pruned(name, choice.factor, n, data, s) for s, n in enumerate(starts)]
        made = [shared(name, choice, n, data, s) for s, n in enumerate(sparse)]
        yield from _stages(f"{case}, {choice.label}", starts[0], sparse[0], made[0])
        errors = Errors(each=tuple(error(n, data) for n in made))
        best = choice == chosen
        size, whole = mean(len(codec.encode(lower(n))) for n in made), 4 * _numbers(starts[0])
        label = f"{case}, {choice.label}" + (", chosen" if best else ", the paper's bits")
        yield at_least(label, "float32 weights / file", whole / size, GOALS[name], "x", peer="Han et al. 2016", seeds=len(SEEDS))
        yield at_most(label, "test error - control's", errors.mean - dense_error, ROOM, "points", seeds=len(SEEDS), spread=errors.spread)
        yield from _in_c(label, made[0], data)
        if best:
            KEPT.keep(f"{name}-deep", made[0])
            yield Row(case=label, figure="stretch: 100x", value=whole / size, unit="x", goal="≥ 100 (stretch)", seeds=len(SEEDS))


def control(name: str, network: Network, data: Data, seed: int) -> Network:
    """The dense network after both phases' training."""
    return trained(network, data, [_retrain(name), only(SHARE)], f"{_at(name, seed)}/control", seed=seed)


def pruned(name: str, factor: int, network: Network, data: Data, seed: int) -> Network:
    """Pruned while it is trained."""
    phase = replace(_retrain(name), techniques=(Prune(sparsity=1 - 1 / factor, schedule="cubic"),))
    return trained(network, data, [phase], f"{_at(name, seed)}/{factor}x", seed=seed)


def shared(name: str, choice: Choice, network: Network, data: Data, seed: int) -> Network:
    """What pruning left, shared."""
    wide, narrow = choice.bits
    techniques = (Palette(bits=narrow, include=("fc*",)),)
    if any(parameter.startswith("conv") for parameter in network.parameters()):
        techniques = (Palette(bits=wide, include=("conv*",)), *techniques)
    phase = Phase(techniques=techniques, training=SHARE)
    return trained(network, data, [phase], f"{_at(name, seed)}/{choice.label}", seed=seed)


def _retrain(name: str) -> Phase:
    return only(replace(RETRAIN, epochs=EPOCHS[name][0]))


def _stages(case: str, start: Network, pruned: Network, shared: Network) -> Iterator[Row]:
    """What is left after each stage of the paper's table 1; headers are counted."""
    whole, program = 4 * _numbers(start), lower(shared)
    steps = {"prune": len(codec.encode(lower(pruned))), "prune + share": without_huffman(program), "all": len(codec.encode(program))}
    yield Row(case=f"{case}, dense", figure="float32 weights", value=whole, unit="B")
    for stage, size in steps.items():
        yield Row(case=f"{case}, {stage}", figure="bytes of the file", value=size, unit="B")
        yield Row(case=f"{case}, {stage}", figure="float32 weights / file", value=whole / size, unit="x")


def without_huffman(program: Program) -> int:
    """Bytes of the file if indices and gaps were packed: gaps of 4 bits, indices of the width that their codebook asks for."""
    size = len(codec.encode(program))
    for weight in program.weights.values():
        if isinstance(weight.values, CodebookValues) and not isinstance(weight.support, Dense):
            mask = weight.mask.reshape(weight.shape[0], -1)
            packed = packed_size(weight.stored, width_of(len(weight.values.codebook))) + len(encode_index(mask, "gaps4")[1])
            tables = 4 * (len(weight.values.codebook) + np.size(weight.values.scale))
            size += packed + tables - codec.weight_bytes(weight)
    return size


def _in_c(case: str, network: Network, data: Data) -> Iterator[Row]:
    """The file is read again, written as C, compiled, and asked about the whole test set."""
    with TemporaryDirectory() as scratch:
        file = f"{scratch}/network.karui"
        codec.save(lower(network), file)
        program = codec.load(file)
        library = host.load(c_target.write(program, Path(scratch)))
        found = program_scores(library.run, program, data.test, data.metric)
        size = library.bytes
    yield Row(case=f"{case}, C of seed 0", figure="read-only bytes of its object", value=size, unit="B")
    yield Row(case=f"{case}, C of seed 0", figure="test error", value=100 - float(found.mean()) * data.metric.scale, unit="%")
    yield at_most(f"{case}, C of seed 0", "test error - the network's", _gap(found, network, data), 0.02, "points")


def _gap(found: np.ndarray, network: Network, data: Data) -> float:
    return abs(100 - float(found.mean()) * data.metric.scale - error(network, data))


def _invalid(network: Network, data: Data) -> float:
    return 100 - score(network, data.validation, data.metric)


def _numbers(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters().values())


def _at(name: str, seed: int) -> str:
    return f"deep/{name}-{seed}"
