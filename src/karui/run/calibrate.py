"""What this machine can do at most, and what our kernels reach on it, measured: the table that the planner of C goes by."""

import ctypes
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from karui.errors import ToolError
from karui.export import c
from karui.export.c_plan import Planner
from karui.export.ceilings import PATHS, Table
from karui.program.program import Array, Program
from karui.run import compiler
from karui.run.calibration_layers import layers
from karui.run.layers import layer_times
from karui.run.machine import flags
from karui.run.machine import machine as this_machine

SECONDS = 1.5  # of running our kernels, for each machine
REPEAT, TIMES = 20_000, 100  # of a loop in a call, and calls
BYTES = {"l1": 16 << 10, "l2": 192 << 10, "dram": 64 << 20}  # that are read to learn how fast
_V3 = {"int8": ("int8_x86_64_v3", 160), "float": ("float_x86_64_v3", 80), "binary": ("binary_x86_64_v3", 1024)}
COUNTS = {  # machine → other loops of bits, their MACs, and the flag without which they can't run; where one is faster, it is the ceiling
    "x86-64-v3": [("popcount_x86_64_v3", 256, "avx2")],
    "x86-64-v4": [("popcount_x86_64_v3", 256, "avx2"), ("popcount_x86_64_v4", 5120, "avx512_vpopcntdq")],
}
_PI4 = {"int8": ("int8_pi4", 128), "float": ("float_pi4", 32), "binary": ("binary_pi4", 1024)}
LOOPS = {  # machine → ceiling → the loop that shows it, and its MACs
    "x86-64-v3": _V3,
    "x86-64-v4": {**_V3, "int8": ("int8_x86_64_v4", 640), "float": ("float_x86_64_v4", 160)},
    "pi4": _PI4,
    "pi5": {**_PI4, "int8": ("int8_pi5", 128)},
}
NEEDS = {"x86-64-v3": {"avx2", "fma"}, "x86-64-v4": {"avx512f", "avx512_vnni"}, "pi4": {"aarch64"}, "pi5": {"asimddp"}}


def machines() -> tuple[str, ...]:
    """The machines of target ``c`` whose instructions this processor has."""
    here = set(this_machine()["flags"].split()) | {platform.machine()}
    return tuple(name for name, needs in NEEDS.items() if needs <= here)


def calibrate(machine: str, *, seconds: float = SECONDS) -> Table:
    """Measure one machine's table here; some five seconds.

    Raises ToolError where this processor lacks its instructions, or there is no compiler.
    """
    if machine not in machines():
        raise ToolError(f"'{machine}' can't be measured here: this processor lacks its instructions; choose from {', '.join(machines())}")
    ceilings = ceilings_of(machine)
    with tempfile.TemporaryDirectory(prefix="karui-") as scratch:
        costs, error = _costs(machine, Path(scratch), seconds)
    here = this_machine()
    return Table(
        machine=machine,
        processor=here["cpu"],
        measured=True,
        source=f"karui calibrate with {' '.join(compiler.find())}",
        ceilings=ceilings,
        costs=costs,
        error=error,
    )


# ── ceilings ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ceilings_of(machine: str) -> dict[str, float]:
    """What the processor can do at most with a machine's instructions: ``PEAKS`` and ``PATHS``. Raises ToolError without a compiler."""
    source = Path(__file__).with_name("ceilings.c")
    with tempfile.TemporaryDirectory(prefix="karui-") as scratch:
        shared = Path(scratch) / "ceilings.so"
        compiler.compile_c(compiler.find(), ["-O3", "-fPIC", "-shared", "-o", shared, source], what=f"'{source}'")
        code = ctypes.CDLL(str(shared))
    data = np.random.default_rng(0).integers(0, 256, 64 + BYTES["dram"], np.uint8)
    start = -(-data.ctypes.data // 64) * 64

    def loop(name: str, macs: int) -> float:
        function = getattr(code, name)
        function.argtypes = [ctypes.c_int32, ctypes.c_void_p]
        return macs * REPEAT / _fastest(lambda: function(REPEAT, start))

    found = {what: loop(*each) for what, each in LOOPS[machine].items()}
    counts = [loop(name, macs) for name, macs, flag in COUNTS.get(machine, []) if flag in flags()]
    found["binary"] = max([found["binary"], *counts])
    read = code.read_memory
    read.argtypes = [ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t]
    for path in PATHS:
        size, again = BYTES[path], max(1, (4 << 20) // BYTES[path])
        found[path] = size * again / _fastest(lambda n=again, b=size: read(n, start, b), 8 if path == "dram" else TIMES)  # type: ignore[misc]
    return found


def _fastest(call: Callable[[], object], times: int = TIMES) -> float:
    """Nanoseconds of the quickest of some calls: a ceiling is what nobody disturbs."""
    found = []
    for _ in range(times):
        begin = time.perf_counter_ns()
        call()
        found.append(time.perf_counter_ns() - begin)
    return float(min(found))


# ── our kernels ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _costs(machine: str, folder: Path, seconds: float) -> tuple[dict[str, float], float]:
    """Nanoseconds for one of each count, and the median error: the costs, none below zero, that come nearest to all times, in shares."""
    program, kernels = layers()
    planner = Planner(forced=kernels)
    built = c.model(program, machine=machine, planner=planner)
    artefact = c.write_files(program, folder / "c", built.files(), target="c", main="model.c", built=built)
    times = layer_times(artefact, _inputs(program), seconds=seconds)
    names = sorted({name for found in planner.counted for name in found})
    rows = np.array([[found.get(name, 0.0) for name in names] for found in planner.counted])
    solved, _ = nnls(rows / times[:, None], np.ones(len(times)))
    error = float(np.median(np.abs(rows @ solved / times - 1)))
    return dict(zip(names, solved.tolist(), strict=True)), error


def _inputs(program: Program) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.integers(-128, 128, (1, *program.tensor(each.tensor).shape)).astype(np.int8) for each in program.inputs]
