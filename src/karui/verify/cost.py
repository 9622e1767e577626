"""What a program costs on a target: its artefact is written, opened, measured; nothing is estimated."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from karui.budget import Cost
from karui.export.targets import targets
from karui.program.program import Array, Program
from karui.run import measure
from karui.run.runners import Runner, runner


def opened(program: Program, target: str, folder: Path) -> Runner:
    """Write ``program`` for ``target`` into ``folder`` and make it ready to run.

    Raises RecipeError for a target without a runner, ToolError without a compiler or the runtime, UnsupportedOp for what it can't do.
    """
    load = runner(target)
    return load(targets()[target](program, folder))


def cost_of(runner: Runner, program: Program, *, latency: bool = True, samples: Sequence[Array] | None = None) -> Cost:
    """What it takes on the device; latency on this machine, one sample, one thread, if asked for.

    samples: real inputs, [N, *shape] each, for a program with early exits: its latency is then the mean over them.
    """
    median = None
    if latency:
        call, count = timed_call(runner, program, samples)
        median = measure.latency(call).median_ms / count
    return Cost(bytes=runner.bytes, peak_ram=runner.peak_ram, latency_ms=median)


def leaves_early(program: Program) -> bool:
    """Whether the time that a sample takes depends on what is in it."""
    return any(op.kind == "exit_if" for op in program.ops)


def undecided(program: Program) -> Program:
    """The program for samples that leave at none of its exits: every branch is computed, and none taken. What it costs at most."""
    never = float(np.finfo(np.float32).max)
    return replace(program, ops=tuple(replace(op, attributes={"threshold": never}) if op.kind == "exit_if" else op for op in program.ops))


def timed_call(runner: Runner, program: Program, samples: Sequence[Array] | None = None) -> tuple[Callable[[], object], int]:
    """What to time, and how many samples it runs: one of noise, or with early exits each of ``samples`` in turn, one a call.

    Noise may leave a program with exits anywhere: where there are no samples, time ``undecided(program)``.
    """
    if samples is None or not leaves_early(program):
        return runner.call(random_inputs(program, 1)), 1
    calls = [runner.call([array[i : i + 1] for array in samples]) for i in range(len(samples[0]))]

    def each() -> None:
        for call in calls:
            call()

    return each, len(calls)


def random_inputs(program: Program, count: int, seed: int = 0) -> list[Array]:
    """Samples that fit the program's inputs, for timing: [count, *shape] each."""
    generator = np.random.default_rng(seed)
    arrays: list[Array] = []
    for declared in program.inputs:
        tensor = program.tensor(declared.tensor)
        shape = (count, *tensor.shape)
        if tensor.dtype == "float32":
            arrays.append(generator.standard_normal(shape).astype(np.float32))
        elif tensor.dtype == "uint8":
            arrays.append(generator.integers(0, 256, shape).astype(np.uint8))
        elif tensor.dtype == "int8":
            arrays.append(generator.integers(-128, 128, shape).astype(np.int8))
        else:
            arrays.append(np.zeros(shape, tensor.dtype))
    return arrays
