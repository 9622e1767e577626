"""Line 8: ResNet-50, 25 million parameters, fresh weights: what it takes to export it to C and to compile that as its Makefile does."""

import json
import subprocess
import sys
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
STOP = 300  # s, after which nobody waits
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
        files = {numbers: Path(scratch) / f"{numbers}.karui" for numbers in MACHINES}
        for numbers, file in files.items():
            codec.save(lower(subject.network) if numbers == "float" else subject.integer(), file)
            yield Row(case=f"8 ResNet-50, {numbers}", figure=".karui file", value=file.stat().st_size, unit="B")
        for weights in ("incbin", "array"):  # the slow form last
            for numbers, machines in MACHINES.items():
                for machine in machines:
                    case = f"8 ResNet-50, {numbers}, C, {machine}, {weights}"
                    yield from of(files[numbers], case, machine, weights, Path(scratch) / f"{numbers} {machine} {weights}")


def of(file: Path, case: str, machine: str, weights: str, folder: Path) -> Iterator[Row]:
    """Exported by the command line, which loads all that it needs, and compiled by ``make``."""
    limited = weights == "incbin"
    karui = [sys.executable, "-m", "karui", "export", str(file), "--to", "c", "--target", machine, "-o", str(folder)]
    for figure, command, limit in (
        ("export", karui if limited else [*karui, "--weights", weights], EXPORT),
        ("compile", ["make", "-s", "-C", str(folder / "c")], COMPILE),
    ):
        try:
            found = effort(command)
        except ToolError as reason:
            yield skipped(case, f"{figure}: {reason}")
            break
        if not limited:
            yield Row(case=case, figure=f"{figure}, time", value=found.seconds, unit="s")
            yield Row(case=case, figure=f"{figure}, memory", value=found.peak / 1e9, unit="GB")
            continue
        yield at_most(case, f"{figure}, time", found.seconds, limit, "s")
        if figure == "export":
            yield at_most(case, "export, memory", found.peak / 1e9, MEMORY / 1e9, "GB")
        else:
            yield Row(case=case, figure="compile, memory", value=found.peak / 1e9, unit="GB")


WATCH = """
import json, os, resource, subprocess, sys, time
start, limit = time.perf_counter(), float(sys.argv[1])
process = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
try:
    said = process.communicate(timeout=limit)[1].strip()[-200:]
except subprocess.TimeoutExpired:
    os.killpg(process.pid, 9)
    process.communicate()
    said = f"it took more than {limit:g} s"
most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"status": process.returncode, "said": said, "seconds": time.perf_counter() - start, "peak": most}))
"""


def effort(command: Sequence[str]) -> Effort:
    """Run a command from a small process, as a child's greatest memory is at least its parent's. Raises ToolError where it fails."""
    done = subprocess.run([sys.executable, "-c", WATCH, str(STOP), *command], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    if told["status"]:
        raise ToolError(told["said"].splitlines()[-1] if told["said"] else f"it ended with status {told['status']}")
    return Effort(seconds=told["seconds"], peak=told["peak"])
