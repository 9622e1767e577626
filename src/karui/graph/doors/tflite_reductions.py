"""Rules for what gathers along axes: means, sums, extremes, running sums."""

from collections.abc import Mapping
from typing import Any

import torch

from karui.graph.doors.drawing import Known
from karui.graph.doors.tflite_axes import axes_of, hidden, without
from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import Held, Scene

aten = torch.ops.aten


def _reduced(target: Any, *, one_by_one: bool = False) -> Rule:
    def rule(s: Scene, op: Operator) -> Held:
        x, keeps = s.held(op, 0), bool(op.option("KeepDims", False))
        given = s.numbers(op, 1, "axes")
        one = s.single and x.batch == 0 and any(axis % max(x.rank, 1) == 0 for axis in given)  # of one sample: nothing to reduce
        axes = axes_of(s, x, [axis for axis in given if not one or axis % x.rank], op.kind)
        if one and not keeps:
            x, axes = hidden(s, x), [axis - 1 for axis in axes]
        if not axes:
            return x
        places = [x.axis(axis) for axis in axes]
        order = x.order if keeps else without(x, axes)
        if isinstance(x.value, Known) and target is aten.mean.dim and not x.value.two.is_floating_point():
            s.refuse("a mean of constant whole numbers", "cast them first")
        if not one_by_one:
            return Held(value=s.drawing.call(target, x.value, sorted(places), keeps), order=order)
        value = x.value
        for place in sorted(places, reverse=True):
            value = s.drawing.call(target, value, place, keeps)
        return Held(value=value, order=order)

    return rule


def _argument(target: Any) -> Rule:
    """Where the greatest or smallest stands."""

    def rule(s: Scene, op: Operator) -> Held:
        x = s.held(op, 0)
        (axis,) = axes_of(s, x, s.numbers(op, 1, "axis")[:1], op.kind)
        value = s.drawing.call(target, x.value, x.axis(axis))
        dtype = torch.int64 if s.file.tensors[op.outputs[0]].dtype == "INT64" else torch.int32
        return Held(value=s.drawing.call(aten.to.dtype, value, dtype), order=without(x, [axis]))

    return rule


def _running(s: Scene, op: Operator) -> Held:
    """Sums of what stands before, each element among them unless ``Exclusive``."""
    x = s.held(op, 0)
    (axis,) = axes_of(s, x, s.numbers(op, 1, "axis")[:1], op.kind)
    place, reverse = x.axis(axis), bool(op.option("Reverse", False))
    turned = s.keep(x, aten.flip.default, [place]) if reverse else x
    out = s.keep(turned, aten.cumsum.default, place)
    out = s.keep(out, aten.flip.default, [place]) if reverse else out
    return s.keep(out, aten.sub.Tensor, x.value) if op.option("Exclusive", False) else out


RULES: Mapping[str, Rule] = {
    "MEAN": _reduced(aten.mean.dim),
    "SUM": _reduced(aten.sum.dim_IntList),
    "REDUCE_MAX": _reduced(aten.amax.default),
    "REDUCE_MIN": _reduced(aten.amin.default),
    "REDUCE_PROD": _reduced(aten.prod.dim_int, one_by_one=True),
    "REDUCE_ANY": _reduced(aten.any.dim, one_by_one=True),
    "REDUCE_ALL": _reduced(aten.all.dim, one_by_one=True),
    "ARG_MAX": _argument(aten.argmax.default),
    "ARG_MIN": _argument(aten.argmin.default),
    "CUMSUM": _running,
}
