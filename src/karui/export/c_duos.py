"""Integer layers by two channels: how their numbers lie for c_runtime/duo.c."""

import numpy as np
from numpy.typing import NDArray

from karui.export.c_geometry import Geometry
from karui.export.c_panels import Numbers, numbers_of
from karui.export.c_rounding import high_words
from karui.export.c_source import Source, structure
from karui.program.arithmetic import bounds
from karui.program.program import Op

FOUR, PIXELS = 4, 3  # inputs and pixels that are taken together
LITTLE = 4  # a copy of the image is worth its memory if it takes a fourth of what the output takes
REACH = 128  # the largest |code| of an input
EXACT = 2**23  # below this a sum can stand above another one in 32 bits


def duos(source: Source, op: Op, g: Geometry) -> bool:
    """A convolution or linear layer. False, and nothing is written, where its numbers don't allow it."""
    n = numbers_of(source, op, g)
    if n is None or n.outputs < 2:
        return False
    pairs = _pairs(n.outputs)
    codes = n.codes.astype(np.int64).reshape(n.groups, n.outputs, -1)
    requant = _starting(n, pairs + n.outputs * np.arange(n.groups)[:, None, None])
    if requant is None or (np.abs(codes[:, pairs[:, 1]]).sum(2) * REACH >= EXACT).any():
        return False
    f = n.fields
    fours, many = f["runs_y"] * f["runs_x"] * f["fours"], PIXELS if g.pixels >= PIXELS else 1
    column = source.take("int32_t", many * fours * 2)
    x, layer, lay, length = _image(source, op, g, f)
    weights, rows = source.table(f"{op.name}.duo.weights", _words(n, pairs)), source.table(f"{op.name}.duo.requant", requant)
    low, high = bounds(op, source.tensor(op.outputs[0]))
    flat = lay["w"] == lay["ow"] and length % FOUR == 0 and all(lay[name] == 1 for name in ("h", "oh", "kh", "kw", "sx", "groups"))
    fields = {"runs_x": f["runs_x"], "length": length, "fours": fours, "border": f["border"], "flat": int(flat), "low": low, "high": high}
    weight = source.constant(f"{op.name}.duo", "k_duo_weight", structure(weights=weights, requant=rows, **fields))
    edge = source.take("int8_t", many * length)
    source.call("k_duos_i8", x, source.place(op.outputs[0]), f"&{layer}", f"&{weight}", column, edge)
    return True


def _image(source: Source, op: Op, g: Geometry, f: dict[str, int]) -> tuple[str, str, dict[str, int], int]:
    """Where a layer reads, its ``k_layer`` and the fields of that, and the bytes of a run; perhaps of a copy of the image in its border."""
    x, layer, high, wide = source.place(op.inputs[0]), source.constant(f"{op.name}.layer", "k_layer", structure(**g.fields)), *g.bordered
    copy = high * wide * g["c"] + FOUR  # the last run may be read beyond its end
    if not _copied(source, op, g, copy):
        return x, layer, g.fields, f["length"]
    whole = source.take("int8_t", copy)
    source.call("k_duo_border", x, f"&{layer}", f["border"], high, wide, whole)
    fields = {**g.fields, "h": high, "w": wide, "top": 0, "left": 0}
    return whole, source.constant(f"{op.name}.bordered", "k_layer", structure(**fields)), fields, f["fours"] * FOUR


def _copied(source: Source, op: Op, g: Geometry, copy: int) -> bool:
    """Whether a copy of so many bytes saves time and costs no memory: it is small, and another op needs more."""
    plain = (g.bordered, g["top"], g["left"], g["c"] % FOUR) == ((g["h"], g["w"]), 0, 0, 0)
    needs = [sum(source.tensor(name).nbytes for name in (*each.inputs, *each.outputs)) for each in source.program.ops]
    own = sum(source.tensor(name).nbytes for name in (op.inputs[0], op.outputs[0]))
    return not plain and LITTLE * copy <= g.pixels * g["o"] and own + LITTLE * copy <= max(needs)


def depthwise(source: Source, op: Op, g: Geometry) -> bool:
    """A convolution of 3 × 3 with one filter for each channel. False, and nothing is written, for others."""
    n = numbers_of(source, op, g) if _fits(g) else None
    rows = None if n is None else _rows(n, np.arange(g["o"])[None, :, None])
    if n is None or rows is None:
        return False
    taps = n.codes.reshape(-1, g["kh"], g["kw"]).astype(np.int64)
    sides = [
        dict(image=g["h"], output=g["oh"], before=g["top"], stride=g["sy"], step=g["w"] * g["c"], out=g["ow"] * g["c"]),
        dict(image=g["w"], output=g["ow"], before=g["left"], stride=g["sx"], step=g["c"], out=g["c"]),
    ]
    along, across = sorted(sides, key=lambda side: (side["stride"] > 2, -(side["output"] / -(-side["output"] // 4)), -side["output"]))
    if along["step"] < across["step"]:
        taps = taps.swapaxes(1, 2)  # as [channel, along, across]
    lines = taps.swapaxes(1, 2)  # three taps along the line
    words = np.stack([_halves(lines[..., 0], lines[..., 1]), _halves(lines[..., 1], lines[..., 2])], -1)
    tables = {"weights": source.table(f"{op.name}.duo.weights", words), "requant": source.table(f"{op.name}.duo.requant", rows)}
    low, high = bounds(op, source.tensor(op.outputs[0]))
    fields = {"channels": g["o"], "words": -(-along["output"] // 4) * 2 * along["stride"] + 1, "border": n.fields["border"]}
    text = structure(along=structure(**along), across=structure(**across), **tables, **fields, low=low, high=high)
    weight = source.constant(f"{op.name}.depth", "k_depth_weight", text)
    kept = source.take("int32_t", 3 * 4 * fields["words"])
    source.call("k_duo_depth_i8", source.place(op.inputs[0]), source.place(op.outputs[0]), f"&{weight}", kept)
    return True


def _fits(g: Geometry) -> bool:
    square = g["kh"] == g["kw"] == 3 and g["dy"] == g["dx"] == 1
    return square and g["c"] == g["o"] and g["c"] % FOUR == 0 and min(g["sy"], g["sx"]) <= 2


def _halves(lower: NDArray[np.int64], upper: NDArray[np.int64]) -> NDArray[np.int32]:
    """Two numbers of 16 bits in a word."""
    return ((lower & 0xFFFF) | (upper & 0xFFFF) << 16).astype(np.uint32).view(np.int32)


def _pairs(outputs: int) -> NDArray[np.int64]:
    """Channels by duo, [duos, 2]; the last one of an odd number comes with the one before it."""
    first = np.minimum(np.arange(0, outputs, 2), outputs - 2)
    return np.stack([first, first + 1], 1)


def _words(n: Numbers, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    """The weights: ``[groups, duos, fours, 2]``. Halves of a word are a + 256 · b."""
    f = n.fields
    runs = n.codes.reshape(n.groups, n.outputs, f["runs_y"] * f["runs_x"], f["length"]).astype(np.int32)
    runs = np.pad(runs, ((0, 0), (0, 0), (0, 0), (0, -f["length"] % FOUR)))
    fours = runs[:, pairs].reshape(n.groups, len(pairs), 2, -1, FOUR)
    both = (fours[:, :, 0] + 256 * fours[:, :, 1]).astype(np.int64)
    return _halves(both[..., :2], both[..., 2:])


def _starting(n: Numbers, channels: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """Requantization of duos ``[groups, duos, 2]`` as in k_duo_weight. None where it needs more bits."""
    reach = np.abs(n.codes.astype(np.int64)).sum(1) * REACH
    rows: list[int] = []
    for duo in channels.reshape(-1, 2).tolist():
        ways = [
            high_words(int(n.requant.multiplier[each]), int(n.folded[each]), int(n.requant.shift[each]), int(reach[each]), 8 * place)
            for place, each in enumerate(duo)
        ]
        a, b = ways
        if a is None or b is None:
            return None
        rows += [a[0], a[0] + b[0], *a[1:], *b[1:]]
    return np.array([*rows, 0, 0], np.int64).astype(np.int32)


def _rows(n: Numbers, channels: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """Multiplier, bias and shift of channels ``[groups, duos, 1 or 2]``, as in k_duo_weight: ``[…, 4]``. None where they need more bits."""
    multiplier, shift = n.requant.multiplier, n.requant.shift
    most = np.abs(n.codes.astype(np.int64)).sum(1) * 255
    rows: list[list[int]] = []
    for duo in channels.reshape(-1, channels.shape[-1]).tolist():
        for place, channel in enumerate(duo):
            row = _row(int(multiplier[channel]), int(n.folded[channel]), int(shift[channel]), int(most[channel]), 8 * place)
            if row is None:
                return None
            rows.append(row)
    return np.array(rows, np.int64).astype(np.int32)


def _row(m: int, bias: int, shift: int, most: int, raised: int) -> list[int] | None:
    """raised: bits by which the sums lie higher than they should."""
    more = max(0, 32 - shift)  # where the multiplier has room, the result lies in the high word
    m, bias, shift = m << more, bias << (more + raised), shift + more + raised
    reach = abs(bias) + (most << raised) * abs(m)
    if abs(m) >= 2**31 or reach >= 2**63 or shift > 63 or reach >> shift >= 2**31:
        return None
    low = bias % 2**32
    return [m, low - 2**32 if low >= 2**31 else low, bias >> 32, shift - 32]
