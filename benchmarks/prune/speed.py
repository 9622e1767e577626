"""Line 3: how long pruning itself takes, and what it saves in C and in onnxruntime."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.harness import Row, at_most
from karui import zoo
from karui.analyse.cost import measure as cost
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune, Pruning
from karui.data import Data
from karui.export import c as c_target
from karui.export import onnx as onnx_target
from karui.finetune.attach import attach_all
from karui.finetune.phases import Phase, run_phases
from karui.graph.coupling import coupling
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.run import host, measure
from karui.run import onnxruntime as ort
from karui.verify.cost import random_inputs
from karui.zoo.resnet import resnet50

REPEATS = 5


def rows(quick: bool) -> Iterator[Row]:
    """Every figure of the line."""
    yield from mask_update()
    if not quick:
        yield from groups()
    yield from faster(1.0 if quick else 4.0)


def seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median wall time of a call."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return median(found)


def mask_update() -> Iterator[Row]:
    """25 million weights ranked together by magnitude, and their masks written."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(2500, 2500, bias=False) for _ in range(4)))
    network = capture(module.eval(), torch.zeros(2, 2500), name="wide")
    part = (torch.zeros(8, 2500), torch.zeros(8, dtype=torch.int64))
    data = Data.of(train=part, validation=part, test=part)
    (attached,) = attach_all(network, [Prune(sparsity=0.9, schedule="one_shot")], data, teacher=network, steps=0, seed=0)
    assert isinstance(attached, Pruning)
    levels = iter(0.90 + 0.01 * i for i in range(1, 9))
    weights = sum(p.numel() for p in network.parameters().values())
    yield Row(case="3 mask update", figure="weights", value=weights)
    yield at_most("3 mask update", "one global cut", seconds(lambda: attached.cut(next(levels))), 1.0, "s")


def groups() -> Iterator[Row]:
    """The groups of channels of ResNet-50, in turn with torch-pruning."""
    import torch_pruning as tp

    module, example = resnet50().eval(), torch.zeros(1, 3, 224, 224)
    network = capture(module, torch.zeros(2, 3, 224, 224), name="resnet50")

    def theirs() -> list[object]:
        graph = tp.DependencyGraph().build_dependency(module, example)
        return list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))

    ours = seconds(lambda: coupling(network))
    peer = seconds(theirs)
    yield Row(case="3 coupling of resnet50", figure="groups", value=len(coupling(network).groups), peer=f"torch-pruning: {len(theirs())}")
    yield at_most("3 coupling of resnet50", "karui", ours, 2.0, "s")
    yield Row(case="3 coupling of resnet50", figure="torch-pruning", value=peer, unit="s")
    yield Row(case="3 coupling of resnet50", figure="karui / torch-pruning", value=ours / peer, peer="torch-pruning")


def faster(duration: float) -> Iterator[Row]:
    """ResNet-20 with half of its MACs, against itself, in turn in one run."""
    dense = capture(zoo.build("resnet20_cifar10").eval(), torch.zeros(2, 3, 32, 32), name="resnet20")
    part = (torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64))
    data = Data.of(train=part, validation=part, test=part)
    pruned = run_phases(dense, data, [Phase(techniques=(PruneChannels(macs=0.5, round_to=8),))]).network
    yield Row(case="3 resnet20 pruned", figure="MACs left", value=cost(pruned).macs / cost(dense).macs)
    with TemporaryDirectory() as scratch:
        calls = _calls({"dense": dense, "pruned": pruned}, Path(scratch))
        timings = measure.interleaved(calls, seconds=duration)
    for runner in ("C", "onnxruntime"):
        before, after = timings[runner, "dense"], timings[runner, "pruned"]
        for form, timing in (("dense", before), ("pruned", after)):
            yield Row(
                case=f"3 resnet20 {form}, {runner}",
                figure="latency, one thread",
                value=timing.median_ms,
                unit="ms",
                spread=timing.p90 - timing.p10,
            )
        ratio = after.median_ms / before.median_ms
        goal = "< 1, the slowest tenth below the dense one's fastest"
        yield Row(
            case=f"3 resnet20 pruned, {runner}",
            figure="latency / dense",
            value=ratio,
            peer=f"dense, {runner}",
            goal=goal,
            ok=after.p90 < before.p10,
        )


def _calls(networks: dict[str, Network], folder: Path) -> dict[tuple[str, str], Callable[[], object]]:
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for form, network in networks.items():
        program = lower(network)
        sample = random_inputs(program, 1)
        calls["C", form] = host.build(c_target.write(program, folder / form / "c")).call(sample)
        calls["onnxruntime", form] = ort.load(onnx_target.write(program, folder / form / "onnx").main).call(sample)
    return calls
