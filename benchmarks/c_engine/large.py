"""Line 8: ResNet-50, 25 million parameters, fresh weights: what it takes to export it to C and to compile that as its Makefile does."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.c_engine.subjects import shape
from benchmarks.harness import Row, at_most, skipped
from karui.errors import ToolError
from karui.lower import lower
from karui.program import codec

EXPORT, MEMORY, COMPILE = 60, 4e9, 120  # s, bytes, s
STOP = 900  # s, after which nobody waits
MACHINES = {"float": ("portable",), "int8": ("portable", "x86-64-v4")}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Of a command and all that it starts: seconds, and the resident memory of the largest process."""

    seconds: float
    peak: int


def rows(quick: bool) -> Iterator[Row]:
    """Both forms of weights; the one that is chosen by itself has the goals."""
    if quick:
        yield skipped("8", "timings are of the full run, on a machine that does nothing else")
        return
    subject = shape("resnet50")
    with TemporaryDirectory() as scratch:
        for numbers, machines in MACHINES.items():
            program = lower(subject.network) if numbers == "float" else subject.integer()
            file = Path(scratch) / f"{numbers}.karui"
            codec.save(program, file)
            yield Row(case=f"8 ResNet-50, {numbers}", figure=".karui file", value=file.stat().st_size, unit="B")
            del program
            for machine in machines:
                yield from of(file, f"8 ResNet-50, {numbers}, C, {machine}", machine, Path(scratch) / "out")


def of(file: Path, case: str, machine: str, folder: Path) -> Iterator[Row]:
    """Exported by the command line, which loads all that it needs, and compiled by ``make``."""
    for weights in ("incbin", "array"):
        where, limited = folder / weights, weights == "incbin"
        karui = [sys.executable, "-m", "karui", "export", str(file), "--to", "c", "--target", machine, "-o", str(where)]
        for figure, command, limit in (
            ("export", karui if limited else [*karui, "--weights", weights], EXPORT),
            ("compile", ["make", "-s", "-C", str(where / "c")], COMPILE),
        ):
            try:
                found = effort(command)
            except ToolError as reason:
                yield skipped(f"{case}, {weights}", f"{figure}: {reason}")
                break
            if not limited:
                yield Row(case=f"{case}, {weights}", figure=f"{figure}, time", value=found.seconds, unit="s")
                yield Row(case=f"{case}, {weights}", figure=f"{figure}, memory", value=found.peak / 1e9, unit="GB")
                continue
            yield at_most(f"{case}, {weights}", f"{figure}, time", found.seconds, limit, "s")
            if figure == "export":
                yield at_most(f"{case}, {weights}", "export, memory", found.peak / 1e9, MEMORY / 1e9, "GB")
            else:
                yield Row(case=f"{case}, {weights}", figure="compile, memory", value=found.peak / 1e9, unit="GB")


def effort(command: Sequence[str]) -> Effort:
    """Run a command. Raises ToolError where it fails or doesn't end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = start + STOP
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        if time.perf_counter() > end:
            os.killpg(process.pid, 9)
            os.wait4(process.pid, 0)
            raise ToolError(f"it took more than {STOP} s")
        time.sleep(0.02)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = (process.stderr.read() if process.stderr else "").strip().splitlines()
        raise ToolError(said[-1][:200] if said else f"it ended with status {process.returncode}")
    return Effort(seconds=time.perf_counter() - start, peak=usage.ru_maxrss * 1024)
