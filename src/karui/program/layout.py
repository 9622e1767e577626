"""Between a Program's arrays and a network's: axis order (channels last, channels first) and codes or reals; batch axis first in both."""

import numpy as np

from karui.errors import DataError
from karui.program import arithmetic
from karui.program.program import Array, Layout, Program

_RANK = {"nhwc": 4, "nlc": 3}


def to_program(array: Array, layout: Layout) -> Array:
    """[N,C,H,W] → [N,H,W,C] for ``nhwc``, [N,C,L] → [N,L,C] for ``nlc``, unchanged for ``plain``."""
    return array if layout == "plain" else array.transpose(0, *range(2, _checked(array, layout)), 1)


def to_network(array: Array, layout: Layout) -> Array:
    """The inverse of ``to_program``."""
    return array if layout == "plain" else array.transpose(0, _checked(array, layout) - 1, *range(1, _checked(array, layout) - 1))


def dequantize(program: Program, output: int, array: Array) -> Array:
    """The program's output number ``output`` as float32, in the program's own axis order; floats pass through."""
    tensor = program.tensor(program.outputs[output].tensor)
    return array.astype(np.float32) if tensor.quant is None else arithmetic.dequantize(array, *arithmetic.quantization(tensor))


def _checked(array: Array, layout: Layout) -> int:
    rank = _RANK[layout]
    if array.ndim != rank:
        raise DataError(f"an array of shape {array.shape} can't be {layout}: expected {rank} axes, the first one the batch")
    return rank
