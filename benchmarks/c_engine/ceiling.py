"""Line 1: how near the 3×3 convolutions of a network come to what the processor can do at most, measured in the same run."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.c_engine.subjects import shape
from benchmarks.harness import Row, at_least
from karui.export import c as c_target
from karui.program.program import Op, Program
from karui.run import calibrate
from karui.run.layers import layer_times
from karui.verify.cost import random_inputs

NETWORK, SECONDS = "resnet18", 4.0
CHANNELS, TAPS = 64, 3  # of the layers that are looked at: at least, and of a side


def rows(quick: bool) -> Iterator[Row]:
    """Each layer on each machine whose instructions are here; then the least share."""
    program = shape(NETWORK).integer()
    for machine in calibrate.machines():
        ceiling = calibrate.ceilings_of(machine)["int8"]
        case = f"1 {NETWORK}, C, {machine}"
        yield Row(case=case, figure="ceiling of int8 products", value=ceiling, unit="MAC/ns")
        with TemporaryDirectory() as scratch:
            artefact = c_target.write(program, Path(scratch), machine=machine)
            times = layer_times(artefact, random_inputs(program, 1), seconds=1.0 if quick else SECONDS)
        found = {
            op.name: float(_macs(program, op) / ns / ceiling) for op, ns in zip(program.ops, times, strict=True) if _large(program, op)
        }
        for layer, share in found.items():
            yield at_least(f"{case}, {layer}", "MAC/ns / ceiling", share, 0.6)


def _large(program: Program, op: Op) -> bool:
    """A 3×3 convolution of many channels."""
    if op.kind != "conv2d":
        return False
    outputs, high, wide, inputs = program.weights[op.weights["weight"]].shape
    return high == wide == TAPS and min(outputs, inputs) >= CHANNELS


def _macs(program: Program, op: Op) -> int:
    return prod(program.tensor(op.outputs[0]).shape[:-1]) * prod(program.weights[op.weights["weight"]].shape)
