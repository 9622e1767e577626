"""Axes of the file that go, come, or are named by an operator, and where the node holds the others then."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from karui.graph.doors.tflite_scene import Held, Scene, plain_order

aten = torch.ops.aten


def without(held: Held, axes: Sequence[int]) -> tuple[int, ...]:
    """The order that is left when these axes of the file are gone."""
    kept = [axis for axis in held.order if axis not in axes]
    seen = sorted(axis for axis in kept if axis >= 0)
    return tuple(-1 if axis < 0 else seen.index(axis) for axis in kept)


def hidden(s: Scene, held: Held) -> Held:
    """The batch, its first axis, out of the file's sight: what a file of one sample does by taking that."""
    if held.batch != 0 or not s.single:
        s.refuse("an op along the batch axis", "samples must not depend on each other")
    held = held if held.order[0] == 0 else s.plain(held)
    return replace(held, order=tuple(axis - 1 for axis in held.order))


def axes_of(s: Scene, held: Held, axes: Sequence[int], what: str) -> list[int]:
    """Axes of the file, counted from the front, each once; none of them the batch."""
    if any(not -held.rank <= axis < held.rank for axis in axes):
        s.refuse(f"{what} along axes {list(axes)} of {held.rank}", "check the file")
    found = sorted({axis % held.rank for axis in axes})
    for axis in found:
        s.batch_axis(held, axis, what)
    return found


def inserted(s: Scene, x: Held, axis: int) -> Held:
    """A new axis of the file; in front it is the batch that comes back, or might as well stand behind a batch of one."""
    if axis == 0 and x.hidden:
        return replace(x, order=tuple(axis + 1 for axis in x.order))
    axis = 1 if axis == 0 and x.batch == 0 else axis
    x = s.plain(x)
    return Held(value=s.drawing.call(aten.unsqueeze.default, x.value, axis + x.hidden), order=plain_order(x.rank + 1, x.hidden))
