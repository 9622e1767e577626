"""Line 5: how long the way of EfficientNet-Lite0 takes, from a module to each target's file, and how much memory."""

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Row, at_most, skipped
from karui.errors import DataError

TARGETS = ("c", "onnx", "litert")
SECONDS, FOLD = 20, 3
PAGE = resource.getpagesize()


def rows(quick: bool) -> Iterator[Row]:
    """Each target in a process of its own."""
    if quick:
        yield skipped("5", "timings are of the full run, on a machine that does nothing else")
        return
    for target in TARGETS:
        done = subprocess.run([sys.executable, "-m", "benchmarks.doors.effort", target], capture_output=True, text=True, check=False)
        if done.returncode:
            yield skipped(f"5 {target}", (done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        case = f"5 EfficientNet-Lite0, {target}"
        for step in ("capture", "lower", "export"):
            yield Row(case=case, figure=step, value=found[step], unit="s")
        yield at_most(case, "capture, lower, export", found["capture"] + found["lower"] + found["export"], SECONDS, "s")
        yield at_most(case, "memory beyond the module's, in the size of its weights", found["grown"] / found["weights"], FOLD, "x")


class Peak:
    """The greatest resident memory while it is watched, sampled a hundred times a second."""

    def __init__(self) -> None:
        self.start = self.most = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, _resident())


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except OSError as error:
        raise DataError("resident memory is read from /proc/self/statm, which isn't here") from error


def measured(target: str) -> dict[str, float]:
    """Seconds of each step, and bytes that the process grew by; everything that it needs is imported, and the module built, before."""
    import torch

    import karui
    import karui.graph.doors.torch
    from benchmarks.subjects import efficientnet_lite0
    from karui.export.targets import targets
    from karui.lower import lower

    module, write = efficientnet_lite0(), targets()[target]
    example = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        module(example)
    _warm(write)
    found: dict[str, Any] = {"weights": sum(p.numel() * p.element_size() for p in module.parameters())}
    with TemporaryDirectory() as scratch, Peak() as peak:
        start = time.perf_counter()
        network = karui.capture(module, example).eval()
        found["capture"] = time.perf_counter() - start
        start = time.perf_counter()
        program = lower(network)
        found["lower"] = time.perf_counter() - start
        start = time.perf_counter()
        write(program, Path(scratch))
        found["export"] = time.perf_counter() - start
    return found | {"grown": peak.most - peak.start}


def _warm(write: Any) -> None:
    """The same way with a network of a few weights, so that what is imported on the way is there."""
    import torch

    import karui
    from karui.lower import lower

    small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)).eval()
    with TemporaryDirectory() as scratch:
        write(lower(karui.capture(small, torch.zeros(2, 3, 8, 8)).eval()), Path(scratch))


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
