"""Put a following clamp (ReLU, ReLU6 …) into the op before it."""

from dataclasses import replace

from karui.program.kinds import KINDS
from karui.program.passes.editor import Editor

Bounds = tuple[float | None, float | None]


def fuse_clamps(editor: Editor) -> None:
    """conv, linear, add, mean … followed only by a clamp become one op."""
    for op in list(editor.ops):
        if "clamp" not in KINDS[op.kind].attributes:
            continue
        while (after := editor.only_reader(op.outputs[0])) is not None and after.kind == "clamp":
            if editor.tensors[after.outputs[0]].dtype != "float32":
                break
            clamp = list(meet(bounds(op.attributes.get("clamp")), bounds(after.attributes["clamp"])))
            editor.remove(after)
            op = editor.replace(op, replace(op, outputs=after.outputs, attributes={**op.attributes, "clamp": clamp}))


def bounds(clamp: list[float | None] | None) -> Bounds:
    """A clamp attribute as (low, high), None where it is open."""
    return (None, None) if clamp is None else (clamp[0], clamp[1])


def meet(first: Bounds, then: Bounds) -> Bounds:
    """The clamp that equals ``first`` followed by ``then``."""

    def apply(value: float | None, default: float | None) -> float | None:
        if value is None:
            return default
        low, high = then
        value = value if low is None else max(value, low)
        return value if high is None else min(value, high)

    return apply(first[0], then[0]), apply(first[1], then[1])
