"""Layers of floats in panels: how their weights lie for c_runtime/floats.c."""

import numpy as np

from karui.export.c_geometry import Geometry
from karui.export.c_source import Source, structure
from karui.export.c_weights import Coded
from karui.program.program import Op

WIDE, PIXELS = 16, 6  # channels of a panel, pixels at a time
MOST = 96  # pixels whose patches are made at a time, as k_floats_most says …
PATCHES = 256 << 10  # … and bytes of these, so that they stay in a second-level cache
LEAST = 8  # outputs of a group: a panel of fewer is mostly zeros


def floats(source: Source, op: Op, g: Geometry, w: Coded, finish: str) -> bool:
    """The layer in panels. False, and nothing is written, where the machine, the weight or its size isn't for that."""
    outputs = g["o"] // g["groups"]
    if source.machine.floats is None or not w.in_place or outputs < LEAST:
        return False
    each = -(-outputs // WIDE)
    rows = np.zeros((g["groups"], each * WIDE, w.inputs), np.float32)
    rows[:, :outputs] = w.tables["values"].reshape(g["groups"], outputs, w.inputs)
    weights = source.table(f"{op.name}.panels", rows.reshape(g["groups"], each, WIDE, w.inputs).swapaxes(2, 3))
    backwards = op.kind == "conv_transpose2d"
    direct = not backwards and g["kh"] == g["kw"] == 1 and not (g["top"] or g["left"]) and _inside(g)
    tile = MOST if direct else max(1, min(MOST, PATCHES // (4 * w.inputs)) // PIXELS) * PIXELS
    tile = min(tile, -(-g.pixels // PIXELS) * PIXELS)
    patch = "NULL" if direct else source.take("float", tile * w.inputs)
    patch_of = "NULL" if direct else source.use("k_patch_back_f32" if backwards else "k_patch_f32")
    layer = source.constant(f"{op.name}.layer", "k_layer", structure(**g.fields, tile=tile))
    x, y, chosen = source.place(op.inputs[0]), source.place(op.outputs[0]), f"{source.use(source.machine.floats)}()"
    source.call("k_floats_f32", x, y, f"&{layer}", weights, w.inputs, finish, patch_of, chosen, patch)
    return True


def depthwise(source: Source, op: Op, g: Geometry, w: Coded, finish: str) -> bool:
    """A layer of one filter for each channel. False, and nothing is written, where the machine, the weight or its size isn't for that."""
    if source.machine.floats is None or not w.in_place or g["o"] < WIDE:
        return False
    layer = source.constant(f"{op.name}.layer", "k_layer", structure(**g.fields))
    taps = source.table(f"{op.name}.taps", w.tables["values"].reshape(w.rows, w.inputs).T)
    x, y, chosen = source.place(op.inputs[0]), source.place(op.outputs[0]), f"{source.use(source.machine.floats)}()"
    source.call("k_floats_depth_f32", x, y, f"&{layer}", taps, finish, chosen)
    return True


def _inside(g: Geometry) -> bool:
    """Whether every pixel that is seen lies in the image."""
    return (g["oh"] - 1) * g["sy"] < g["h"] and (g["ow"] - 1) * g["sx"] < g["w"]
