"""What a program costs on a target: its artefact is written, opened, measured; nothing is estimated."""

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


def cost_of(runner: Runner, program: Program, *, latency: bool = True) -> Cost:
    """What it takes on the device; latency on this machine, one sample, one thread, if asked for."""
    median = measure.latency(runner.call(random_inputs(program, 1))).median_ms if latency else None
    return Cost(bytes=runner.bytes, peak_ram=runner.peak_ram, latency_ms=median)


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
        else:
            arrays.append(np.zeros(shape, tensor.dtype))
    return arrays
