"""Between the axis order of a network (channels first) and that of a Program (channels last); batch axis first in both."""

from karui.errors import DataError
from karui.program.program import Array, Layout

_RANK = {"nhwc": 4, "nlc": 3}


def to_program(array: Array, layout: Layout) -> Array:
    """[N,C,H,W] → [N,H,W,C] for ``nhwc``, [N,C,L] → [N,L,C] for ``nlc``, unchanged for ``plain``."""
    return array if layout == "plain" else array.transpose(0, *range(2, _checked(array, layout)), 1)


def to_network(array: Array, layout: Layout) -> Array:
    """The inverse of ``to_program``."""
    return array if layout == "plain" else array.transpose(0, _checked(array, layout) - 1, *range(1, _checked(array, layout) - 1))


def _checked(array: Array, layout: Layout) -> int:
    rank = _RANK[layout]
    if array.ndim != rank:
        raise DataError(f"an array of shape {array.shape} can't be {layout}: expected {rank} axes, the first one the batch")
    return rank
