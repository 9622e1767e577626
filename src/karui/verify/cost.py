"""What a program costs on a target: its artefact is written, built, measured; nothing is estimated."""

from pathlib import Path

import numpy as np

from karui.budget import Cost
from karui.export import c as c_target
from karui.export import onnx as onnx_target
from karui.export.artifact import Artifact
from karui.program.program import Array, Program
from karui.run import host, measure
from karui.run import onnxruntime as ort


def cost_of(program: Program, target: str, folder: Path, *, latency: bool = True) -> Cost:
    """Write ``program`` for ``target`` ("c", "onnx") into ``folder`` and measure it; latency on this machine, one thread, if asked for.

    For C, ``bytes`` are text and read-only data of the compiled model and ``peak_ram`` its arena; for ONNX ``bytes`` are the file's.
    Raises ToolError without a compiler or the runtime.
    """
    sample = random_inputs(program, 1)
    if target == "onnx":
        artifact = onnx_target.write(program, folder)
        session = ort.load(artifact.main)
        median = measure.latency(session.call(sample)).median_ms if latency else None
        return Cost(bytes=artifact.main.stat().st_size, latency_ms=median)
    artifact = c_target.write(program, folder)
    library = host.build(artifact)
    median = measure.latency(library.call(sample)).median_ms if latency else None
    return Cost(bytes=library.sections.flash, peak_ram=arena_bytes(artifact), latency_ms=median)


def arena_bytes(artifact: Artifact) -> int:
    """The arena that the C program asks its caller for."""
    return int(artifact.facts["arena_bytes"])


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
