"""Line 6: time and peak memory of each post-training method, each in a process of its own, beside onnxruntime's and
NNCF's static quantization.

EfficientNet-Lite0 with 50 photos, and a ResNet-50 of random weights with 16 pictures of noise. ``python -m benchmarks.quantize.cost SUBJECT
METHOD`` measures one and prints seconds and megabytes.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.harness import Row, skipped
from benchmarks.subjects import Subject, efficientnet_subject
from karui.compress.quantize.adaround import adaround
from karui.compress.quantize.int8 import Quantize
from karui.data import Data, Part
from karui.errors import DataError, ToolError
from karui.finetune.phases import Phase, run_phases
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.zoo.resnet import resnet50

METHODS: dict[str, dict[str, Any] | None] = {
    "nothing": None,  # what loading the network and its data takes
    "minmax": {},
    "least error": {"observer": "mse", "weight_range": "mse"},
    "bias correction": {"bias_correction": True},
    "GPTQ, int4": {"bits": 4, "rounding": "gptq"},
    "AdaRound, int4": {"bits": 4, "rounding": "adaround"},
    "AdaRound, int4, 100 steps of 1,000": {"bits": 4, "rounding": partial(adaround, steps=100)},
}
LEFT = {"efficientnet_lite0": "AdaRound, int4, 100 steps of 1,000", "resnet50": "AdaRound, int4"}  # the whole of it takes half an hour
PEERS: dict[str, Callable[[Network, Part, Path], object]] = {"onnxruntime static": peers.static, "NNCF static": peers.nncf_static}
SUBJECTS = ("efficientnet_lite0", "resnet50")
SECONDS = 3600


def rows(quick: bool) -> Iterator[Row]:
    """Every method on both networks."""
    for subject in SUBJECTS:
        for method in (each for each in (*METHODS, *PEERS) if each != LEFT[subject]):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.quantize.cost", subject, method]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["it failed"])[-1]
                yield skipped(f"6 {subject}, {method}", reason[:200])
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            yield Row(case=f"6 {subject}, {method}", figure="time", value=found["seconds"], unit="s")
            yield Row(case=f"6 {subject}, {method}", figure="peak memory of the process", value=found["megabytes"], unit="MB")


def subject_of(name: str) -> Subject:
    """A network and few samples."""
    if name == "efficientnet_lite0":
        found = efficientnet_subject()
        few = found.data.calibration.subset(slice(0, 50), name="50 photos")  # type: ignore[attr-defined]
        return replace(found, data=replace(found.data, calibration=few))
    torch.manual_seed(0)
    noise = (torch.randn(16, 3, 224, 224), torch.zeros(16, dtype=torch.int64))
    network = capture(resnet50().eval(), torch.zeros(2, 3, 224, 224), name="resnet50")
    return Subject(name=name, network=network, data=Data.of(train=noise, validation=noise, test=noise))


def main(name: str, method: str) -> None:
    """One method on one network."""
    subject = subject_of(name)
    start = time.perf_counter()
    if method in PEERS:
        with tempfile.TemporaryDirectory() as scratch:
            PEERS[method](subject.network, subject.data.calibration, Path(scratch))
    elif (settings := METHODS[method]) is not None:
        run_phases(subject.network, subject.data, [Phase(techniques=(Quantize(samples=50, **settings),))])
    spent = time.perf_counter() - start
    print(json.dumps({"seconds": spent, "megabytes": peak_memory() / 2**20}))


def peak_memory() -> int:
    """Bytes that this process held at most. Linux's own count: getrusage's begins with what the parent held when it forked."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (DataError, ToolError) as error:
        sys.exit(str(error))
