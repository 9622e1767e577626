"""Integer layers in panels: how their numbers lie for c_runtime/panel.c."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.export.c_geometry import Geometry
from karui.export.c_source import Source, structure
from karui.export.c_weights import Coded
from karui.program.arithmetic import Requant, bounds, quantization, requantization
from karui.program.program import Op

WIDE, DEEP = 16, 4  # channels of a panel, inputs of a four
UNSIGNED = 128  # added to a code: the byte that the instructions take
SLACK = 4  # bytes behind the copy that a last four may read


def panels(source: Source, op: Op, g: Geometry, w: Coded, weight: str) -> None:
    """A convolution or linear layer with one multiplier a channel. weight: its ``k_weight``, for weights that are decoded on the device."""
    fields, copy = _geometry(source, op, g)
    groups, outputs = g["groups"], g["o"] // g["groups"]
    each, runs, length = -(-outputs // WIDE), fields["runs_y"] * fields["runs_x"], fields["length"]
    codes = w.tables["values"].reshape(groups, outputs, runs, length) if w.in_place else None
    unpacked = min(2, each) * WIDE, min(2, each) * runs * fields["fours"] * WIDE * DEEP
    table = None if codes is None else packed(codes)
    _call(source, op, "k_panels_i8", fields, copy + SLACK, (groups, outputs, each), w, weight, codes, table, unpacked)


def depthwise(source: Source, op: Op, g: Geometry, w: Coded, weight: str) -> None:
    """A convolution with one filter for each channel."""
    fields, copy = _geometry(source, op, g)
    each, taps = -(-g["o"] // WIDE), w.inputs
    codes = w.tables["values"].reshape(1, g["o"], taps, 1) if w.in_place else None
    table = None if codes is None else np.pad(codes[0, :, :, 0], ((0, each * WIDE - g["o"]), (0, 0)))
    table = None if table is None else table.reshape(each, WIDE, taps).swapaxes(1, 2)
    unpacked = each * WIDE, each * WIDE * taps
    _call(source, op, "k_depth_i8", fields, copy + WIDE, (1, g["o"], each), w, weight, codes, table, unpacked)


def _call(
    source: Source,
    op: Op,
    kernel: str,
    fields: dict[str, int],
    copy: int,
    sizes: tuple[int, int, int],
    w: Coded,
    weight: str,
    codes: NDArray[np.int8] | None,
    table: NDArray[np.int8] | None,
    unpacked: tuple[int, int],
) -> None:
    """The layer's constants, its scratch, and the call. sizes: groups, channels of a group, panels of a group. unpacked: sums and bytes."""
    requant = requantization(source.program, op)
    low, high = bounds(op, source.tensor(op.outputs[0]))
    tables: dict[str, Any] = dict(_numbers(requant, *sizes))
    scratch = ["NULL"] * 5
    if codes is not None:
        tables |= {"weights": table, "start": _filled(-fields["border"] * codes.astype(np.int64).sum((2, 3)), sizes[2]).astype(np.int32)}
    else:
        scratch = [source.take("int32_t", unpacked[0]), source.take("int8_t", unpacked[1]), source.take("int8_t", w.inputs)]
        scratch += [source.take("k_index", w.most), source.take("int8_t", w.most)] if w.sparse else ["NULL", "NULL"]
    numbers: dict[str, Any] = {name: source.table(f"{op.name}.panel.{name}", each) for name, each in tables.items()}
    numbers |= {"coded": weight} if codes is None else {}
    lay = source.constant(f"{op.name}.panels", "k_panels", structure(**fields))
    panel = source.constant(f"{op.name}.panel", "k_panel_weight", structure(**numbers, low=low, high=high))
    x, y = source.place(op.inputs[0]), source.place(op.outputs[0])
    source.call(kernel, x, y, f"&{lay}", f"&{panel}", source.set(), source.take("uint8_t", copy), *scratch)


def packed(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Codes ``[groups, O, runs, length]`` as ``[groups, panels, runs, fours, 16, 4]``; what fills up is zero."""
    groups, outputs, runs, length = codes.shape
    each, fours = -(-outputs // WIDE), -(-length // DEEP)
    whole = np.zeros((groups, each * WIDE, runs, fours * DEEP), np.int8)
    whole[:, :outputs, :, :length] = codes
    return np.ascontiguousarray(whole.reshape(groups, each, WIDE, runs, fours, DEEP).transpose(0, 1, 3, 4, 2, 5))


def _geometry(source: Source, op: Op, g: Geometry) -> tuple[dict[str, int], int]:
    """The fields of ``k_panels``, and the bytes of the copy, without those behind it."""
    width = g["c"] // g["groups"]
    whole = g["groups"] == 1 and g["dx"] == 1  # the taps of a line are neighbours
    high = max(g["top"] + g["h"], (g["oh"] - 1) * g["sy"] + (g["kh"] - 1) * g["dy"] + 1)
    wide = max(g["left"] + g["w"], (g["ow"] - 1) * g["sx"] + (g["kw"] - 1) * g["dx"] + 1)
    line = wide * g["c"]
    length = g["kw"] * width if whole else width
    fields = {name: g[name] for name in ("h", "w", "c", "top", "left", "ow", "o", "groups")}
    fields |= {"high": high, "wide": wide, "pixels": g.pixels, "down": g["sy"] * line, "along": g["sx"] * g["c"]}
    fields |= {"runs_y": g["kh"], "runs_x": 1 if whole else g["kw"], "run_y": g["dy"] * line, "run_x": g["dx"] * g["c"]}
    fields |= {"length": length, "fours": -(-length // DEEP), "border": UNSIGNED + quantization(source.tensor(op.inputs[0]))[1]}
    return fields, high * line


def _numbers(requant: Requant, groups: int, outputs: int, each: int) -> dict[str, NDArray[np.integer]]:
    """Multipliers in the order of the channels; biases and shifts with the even channels of each panel first."""

    def halves(values: NDArray[np.integer]) -> NDArray[np.int64]:
        return values.reshape(-1, WIDE // 2, 2).swapaxes(1, 2).reshape(-1).astype(np.int64)

    multiplier, bias, shift = (
        _filled(values.reshape(groups, outputs), each) for values in (requant.multiplier, requant.bias, requant.shift)
    )
    return {"multiplier": multiplier.reshape(-1).astype(np.int32), "bias": halves(bias), "shift": halves(shift)}


def _filled(values: NDArray[np.integer], each: int) -> NDArray[np.integer]:
    """``[groups, O]`` with zeros up to whole panels."""
    return np.pad(values, ((0, 0), (0, each * WIDE - values.shape[1])))
