"""Depthwise integer layers: how their numbers lie for c_runtime/duo_depth.c."""

import numpy as np

from karui.export.c_duos import halves
from karui.export.c_geometry import Geometry
from karui.export.c_panels import numbers_of
from karui.export.c_rounding import at_shift
from karui.export.c_source import Source, structure
from karui.program.arithmetic import bounds
from karui.program.program import Op

FOUR, SIX = 4, 6  # channels and pixels that are taken together
SHIFT = 32 + 6  # of every channel, so that SSAT can hold it: a product's high word leaves out 32 bits
REACH = 128  # the largest |code| of an input
MOST = 2**15  # a weight is below this, in its size


def depthwise(source: Source, op: Op, g: Geometry) -> bool:
    """A convolution of 3 × 3 with one filter for each channel. False, and nothing is written, for others."""
    n = numbers_of(source, op, g) if _fits(g) else None
    if n is None:
        return False
    codes, requant = n.codes.reshape(g["o"], -1).astype(np.int64), n.requant
    reach = np.abs(codes).sum(1) * REACH
    each = zip(requant.multiplier.tolist(), n.folded.tolist(), requant.shift.tolist(), reach.tolist(), strict=True)
    numbers = [at_shift(*channel, SHIFT) for channel in each]
    found = np.array([channel for channel in numbers if channel is not None], np.int64).reshape(-1, 4)
    if len(found) < len(numbers) or (np.abs(codes * found[:, :1]) >= MOST).any():
        return False
    sides = [
        dict(image=g["h"], output=g["oh"], before=g["top"], stride=g["sy"], step=g["w"] * g["c"], out=g["ow"] * g["c"]),
        dict(image=g["w"], output=g["ow"], before=g["left"], stride=g["sx"], step=g["c"], out=g["c"]),
    ]
    along, across = sorted(sides, key=lambda side: (side["stride"] > 2, -side["output"]))
    taps = (codes * found[:, :1]).reshape(-1, g["kh"], g["kw"])
    rows = taps if along["step"] < across["step"] else taps.swapaxes(1, 2)  # as [channel, across, along]
    pairs = np.stack([halves(rows[..., 0], rows[..., 1]), halves(rows[..., 1], rows[..., 2])], -1).reshape(g["o"], -1)
    table = source.table(f"{op.name}.duo.table", np.concatenate([pairs, found[:, 1:].astype(np.int32)], 1))
    border = n.fields["border"]
    low, high = bounds(op, source.tensor(op.outputs[0]))
    words = -(-along["output"] // 2) * along["stride"] + 1  # of two neighbours
    text = structure(
        **{name: across[name] for name in ("image", "output", "before", "stride")},
        line=across["step"],
        out=across["out"],
        o=along["out"],
        along=along["stride"],
        sixes=along["output"] // SIX,
        rest=along["output"] % SIX,
        words=words,
        bare=int(along["stride"] == 1 and _bare(**across)),
        place=structure(**_place(along["image"], along["before"], words), step=along["step"], border=0x01010101 * (border & 0xFF)),
        table=table,
        channels=g["o"],
        border=border,
        low=low,
        high=high,
    )
    weight = source.constant(f"{op.name}.depth", "k_depth_weight", text)
    lines = source.take("int32_t", 3 * FOUR * words)
    source.call("k_duo_depth_i8", source.place(op.inputs[0]), source.place(op.outputs[0]), f"&{weight}", lines)
    return True


def _fits(g: Geometry) -> bool:
    square = g["kh"] == g["kw"] == 3 and g["dy"] == g["dx"] == 1
    return square and g["c"] == g["o"] and g["c"] % FOUR == 0 and min(g["sy"], g["sx"]) <= 2


def _place(image: int, before: int, words: int) -> dict[str, int]:
    """How the pixels of a line, as far as they are read, lie in so many words of two behind so many pixels of border."""
    pixels = max(0, min(image, 2 * words - before))
    odd = before % 2 if pixels else 0
    whole, last = divmod(pixels - odd, 2)
    return {"words": odd + whole, "first": 4 * min(before // 2, words), "channel": 4 * words, "odd": odd, "last": last}


def _bare(image: int, output: int, before: int, stride: int, **_: int) -> bool:
    """Whether two of the three lines under the filter are always in the image."""
    return before <= 1 and (output - 1) * stride + 3 - before <= image + 1 and image > 1
