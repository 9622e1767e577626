"""Sliding windows in LiteRT: which padding its layers do by themselves, and what has to be around the image before."""

from collections.abc import Sequence
from typing import Any

from karui.export.litert_graph import Graph, padded
from karui.program.program import Op
from karui.program.windows import edges, square

Size = tuple[int, int]


def image(graph: Graph, value: int) -> int:
    """A sequence [1, L, C] as an image of one row [1, 1, L, C]; an image as it is."""
    shape = graph.shape(value)
    return graph.reshape(value, (shape[0], 1, *shape[1:])) if len(shape) == 3 else value


def image_shape(graph: Graph, op: Op) -> tuple[int, ...]:
    """The shape of the op's output as an image, with its batch axis."""
    shape = graph.tensor(op.outputs[0]).shape
    return (1, 1, *shape) if len(shape) == 2 else (1, *shape)


def is_same(inside: Size, outside: Size, reach: Size, stride: Size, padding: Sequence[int]) -> bool:
    """Whether SAME gives an op its output size and puts its padding where the op has it.

    ``reach``: the window's size with dilation; padding (top, left, bottom, right) that no window sees doesn't count.
    """
    for n, out, k, s, before in zip(inside, outside, reach, stride, padding[:2], strict=True):
        total = max((out - 1) * s + k - n, 0)
        if out != -(-n // s) or before != total // 2:
            return False
    return True


def windows(graph: Graph, op: Op, value: int, kernel: Size, *, fill: float | None = None, only_same: bool = False) -> tuple[int, str]:
    """The image ``value``, padded where the op's padding isn't SAME or none, and the name of the padding that is left to LiteRT.

    ``fill``: what the padding holds (None: zero); ``only_same``: don't pad, give "" where it would have to be.
    """
    stride, padding = square(op.attributes["stride"]), edges(op.attributes["padding"])
    dilation = square(op.attributes.get("dilation", 1)) if "dilation" in op.attributes else (1, 1)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    inside, outside = graph.shape(value)[1:3], image_shape(graph, op)[1:3]
    if is_same(inside, outside, reach, stride, padding) and any(padding):  # type: ignore[arg-type]
        return value, "SAME"
    if only_same and any(padding):
        return value, ""
    top, left, bottom, right = padding
    return padded(graph, value, [(0, 0), (top, bottom), (left, right), (0, 0)], fill), "VALID"


def steps(op: Op) -> dict[str, Any]:
    """The op's stride as options."""
    down, along = square(op.attributes["stride"])
    return {"strideH": down, "strideW": along}
