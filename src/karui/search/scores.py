"""A program's score on data: the program itself runs, on the bytes that a device would see."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from karui.data import Batch, Metric, Part
from karui.program.layout import dequantize, to_network, to_program
from karui.program.program import Array, Program

Call = Callable[[Sequence[Array]], list[Array]]


def feeds(program: Program, batch: Batch) -> list[Array]:
    """A batch as the program's inputs: bytes where it takes pixels, channels last, batch axis first."""
    stored = batch.stored or batch.inputs
    arrays: list[Array] = []
    for i, declared in enumerate(program.inputs):
        tensor = program.tensor(declared.tensor)
        x = (stored if declared.pixels else batch.inputs)[i].detach().cpu().numpy()
        if declared.pixels and x.dtype != np.uint8:  # numbers that were normalised elsewhere: back to the bytes they came from
            factor, offset = (v.reshape(1, -1, *[1] * (x.ndim - 2)) for v in declared.pixels.affine())
            x = np.clip(np.rint((x - offset) / factor), 0, 255)
        arrays.append(np.ascontiguousarray(to_program(x, tensor.layout)).astype(tensor.dtype, copy=False))
    return arrays


def few(program: Program, part: Part, count: int = 32) -> list[Array]:
    """The part's first samples as the program's inputs: what one times a program on whose time depends on the sample."""
    return feeds(program, next(iter(part.batches(min(count, len(part))))))


def outputs_of(program: Program, arrays: Sequence[Array]) -> tuple[torch.Tensor, ...]:
    """What the program gave, as the network would have: floats, channels first."""
    outputs = []
    for i, (declared, array) in enumerate(zip(program.outputs, arrays, strict=True)):
        real = dequantize(program, i, array)
        outputs.append(torch.from_numpy(np.ascontiguousarray(to_network(real, program.tensor(declared.tensor).layout))))
    return tuple(outputs)


def mean_score(call: Call, program: Program, part: Part, metric: Metric) -> float:
    """The metric on ``part``, in its unit, from the program as ``call`` runs it."""
    return float(program_scores(call, program, part, metric).mean() * metric.scale)


def program_scores(call: Call, program: Program, part: Part, metric: Metric, *, batch_size: int = 250) -> NDArray[np.float64]:
    """The metric of each sample of ``part``, [N], from the program as ``call`` runs it; not yet times ``metric.scale``."""
    found = []
    for batch in part.batches(batch_size):
        found.append(metric.scores(outputs_of(program, call(feeds(program, batch))), batch.targets))
    return np.concatenate(found)
