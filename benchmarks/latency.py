"""Latency of LeNet-5, ResNet-20 and MobileNetV1-0.25, float and int8, in C (portable) and onnxruntime, measured in turn in one run.

The int8 networks are calibrated and not trained: their accuracy is no subject here. The weights are fresh: time does not depend on them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.harness import Row, main
from karui import zoo
from karui.compress.quantize.int8 import Quantize
from karui.data import Data
from karui.export import c as c_target
from karui.export import onnx as onnx_target
from karui.finetune.phases import Phase, run_phases
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.pixels import Pixels
from karui.program.program import Program
from karui.run import host, measure
from karui.run import onnxruntime as ort
from karui.verify.cost import random_inputs
from karui.zoo.catalogue import entry

NETWORKS = ("lenet5", "resnet20", "mobilenet_v1_025")


def rows(quick: bool) -> Iterator[Row]:
    """A row per network, form and runner, and the ratios to onnxruntime float."""
    with TemporaryDirectory() as scratch:
        for name in NETWORKS:
            calls: dict[tuple[str, str], Callable[[], object]] = {}
            sizes: dict[tuple[str, str], int] = {}
            for form, program in programs(name).items():
                folder, sample = Path(scratch) / name / form, random_inputs(program, 1)
                library = host.build(c_target.write(program, folder / "c"))
                file = onnx_target.write(program, folder / "onnx").main
                calls["C", form], sizes["C", form] = library.call(sample), library.sections.flash
                calls["onnxruntime", form], sizes["onnxruntime", form] = ort.load(file).call(sample), file.stat().st_size
            timings = measure.interleaved(calls, seconds=1.0 if quick else 4.0)
            base = timings["onnxruntime", "float"].median_ms
            for (runner, form), timing in timings.items():
                case = f"6 {name}, {form}, {runner}"
                yield Row(case=case, figure="latency, one thread", value=timing.median_ms, unit="ms", spread=timing.p90 - timing.p10)
                yield Row(case=case, figure="latency / onnxruntime float", value=timing.median_ms / base, peer="onnxruntime float")
                yield Row(case=case, figure="bytes", value=sizes[runner, form], unit="B")


def programs(name: str) -> dict[str, Program]:
    """The network as a float and as an int8 program that take pixels."""
    found = entry(name)
    torch.manual_seed(0)
    example = torch.rand(64, *found.input) * 2 - 1
    network = capture(zoo.build(name).eval(), example[:2], name=name)
    part = (example, torch.zeros(len(example), dtype=torch.int64))
    data = Data.of(train=part, validation=part, test=part)
    integer = run_phases(network, data, [Phase(techniques=(Quantize(samples=64),))]).network
    pixels = Pixels(mean=(0.5,) * found.input[0], std=(0.5,) * found.input[0])
    return {"float": lower(network, pixels=pixels), "int8": lower(integer, pixels=pixels)}


if __name__ == "__main__":
    main("latency", rows, timings=True)
