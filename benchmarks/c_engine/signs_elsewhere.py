"""Line 2, beside larq-compute-engine: single layers of one bit, their bytes, their answers, and how long they take here."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.c_engine.elsewhere import larq
from benchmarks.harness import Row, skipped
from karui.export import c as c_target
from karui.program import codec
from karui.program.program import Affine, Program, Sign, SignValues
from karui.run import calibrate, host, measure
from tests.export.many import inputs_of
from tests.program.single_op import floats, program, tensor, weight

LAYERS = {64: 56, 128: 28, 256: 14, 512: 7}  # channels, and pixels of a side
PEER = "larq-compute-engine 0.16.0"


def rows(quick: bool) -> Iterator[Row]:
    """A 3 × 3 layer of each size, without a border, as that is where the two mean the same."""
    for channels, side in LAYERS.items():
        case, seconds = f"2 3x3, {channels} channels, {side} x {side} pixels, no border", 0.3 if quick else 1.0
        ours, bias = layer(side, channels)
        codes, inputs = ours.weights["weight"].codes(), inputs_of(ours, 1)
        theirs = larq(codes.astype(np.int8), inputs[0], seconds)
        if isinstance(theirs, str):
            yield skipped(f"{case}, larq", theirs)
            continue
        with TemporaryDirectory() as scratch:
            built = host.build(c_target.write(ours, Path(scratch), machine=calibrate.machines()[-1]))
            found, took = built.run(inputs)[0], measure.latency(built.call(inputs), seconds=seconds)
        expected = np.where(theirs["sums"] / 2 + bias > -0.5, 0, -1)  # never even: biases end in a quarter
        differ = int(np.sum(found != expected))
        yield Row(case=case, figure="signs of the outputs that differ", value=differ, goal="0", ok=differ == 0, peer=PEER)
        yield Row(case=case, figure=".karui file", value=len(codec.encode(ours)), unit="B")
        yield Row(case=f"{case}, C", figure="text and read-only data", value=built.bytes, unit="B")
        yield Row(case=f"{case}, larq", figure=".tflite file", value=theirs["bytes"], unit="B", peer=PEER)
        yield Row(case=f"{case}, C", figure="latency", value=took.median_ms, unit="ms")
        yield Row(case=f"{case}, larq", figure="latency", value=theirs["ms"], unit="ms", peer=PEER)
        yield Row(case=case, figure="larq / ours, latency", value=theirs["ms"] / took.median_ms, unit="x", peer=PEER)


def layer(side: int, channels: int) -> tuple[Program, np.ndarray]:
    """Signs in, thresholds behind it, and those thresholds."""
    rng = np.random.default_rng(channels)
    codes = (2 * rng.integers(0, 2, (channels, 3, 3, channels)) - 1).astype(np.int8)
    bias = (rng.integers(-20, 21, channels) + 0.25).astype(np.float32)
    values = SignValues(codes=codes, scale=np.ones(channels, np.float32))
    x, y = tensor("x", (side, side, channels), Sign(scale=0.5)), tensor("y", (side - 2, side - 2, channels), ONE)
    a = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1], "groups": 1, "clamp": None}
    made = program("conv2d", [x], [y], {"weight": values, "bias": floats(bias)}, **a)
    return Program(**{**vars(made), "weights": {**made.weights, "weight": weight("weight", values)}}), bias


ONE = Affine(bits=1, scale=1.0, zero_point=0)  # codes −1 and 0
