"""The ends of a file that a runtime loads: what goes in and comes out, in which order and under which names."""

from typing import Any

from karui.program.arithmetic import quantization
from karui.program.program import Program, Tensor

METADATA = "karui"  # the key under which a file says what its inputs and outputs are to the Program


def states(program: Program) -> list[tuple[str, str]]:
    """States that aren't inputs of the program anyway: (tensor that is written, tensor that the next call reads)."""
    given = {i.tensor for i in program.inputs}
    return [pair for pair in program.states if pair[1] not in given]


def inputs(program: Program) -> list[tuple[str, str]]:
    """Name and tensor of the inputs, then of the states that a call starts from."""
    return [(i.name, i.tensor) for i in program.inputs] + [(read, read) for _, read in states(program)]


def outputs(program: Program) -> list[tuple[str, str]]:
    """Name and tensor of the outputs, then of the states for the next call."""
    return [(o.name, o.tensor) for o in program.outputs] + [(f"{read}.next", written) for written, read in states(program)]


def port(name: str, tensor: Tensor, codes: Tensor | None = None) -> dict[str, Any]:
    """What a reader must know of one end, as JSON; ``codes``: the int8 tensor that stands for it in the file, if it is another."""
    facts: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype, "layout": tensor.layout}
    codes = tensor if codes is None else codes
    if codes.dtype == "int8":
        scale, zero_point = quantization(codes)
        facts |= {"scale": float(scale), "zero_point": zero_point}
    return facts


def labels(program: Program) -> dict[str, list[str]]:
    """Output → its classes' names."""
    return {o.name: list(o.labels) for o in program.outputs if o.labels}
