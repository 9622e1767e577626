"""Integer layers by two channels: how their numbers lie for c_runtime/duo.c."""

from dataclasses import replace
from math import prod

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
    if n is None or (requant := fitting(n)) is None:
        return False
    words, x = source.table(f"{op.name}.duo.weights", words_of(n, pairs_of(n.outputs))), source.place(op.inputs[0])
    if _copied(source, op, g):
        x, g, n = _bordered(source, op, g, n)
    layer, column, edge = layer_of(source, op, g), *scratch_of(source, g, n)
    source.call("k_duos_i8", x, source.place(op.outputs[0]), layer, constant(source, op, g, n, requant, words), column, edge)
    return True


def fitting(n: Numbers) -> NDArray[np.int32] | None:
    """What turns the layer's sums into codes, as in k_duo_weight; None where two of its channels don't go into a word."""
    if n.outputs < 2:
        return None
    pairs, codes = pairs_of(n.outputs), n.codes.astype(np.int64).reshape(n.groups, n.outputs, -1)
    requant = _starting(n, pairs + n.outputs * np.arange(n.groups)[:, None, None])
    if requant is None or (np.abs(codes[:, pairs[:, 1]]).sum(2) * REACH >= EXACT).any():
        return None
    return requant


def layer_of(source: Source, op: Op, g: Geometry, tile: int = 0) -> str:
    """The layer's sizes. tile: duos whose weights are decoded at a time."""
    return f"&{source.constant(f'{op.name}.layer', 'k_layer', structure(**g.fields, **({'tile': tile} if tile else {})))}"


def scratch_of(source: Source, g: Geometry, n: Numbers) -> tuple[str, str]:
    """Scratch for a column, and for runs at the border."""
    many = PIXELS if g.pixels >= PIXELS else 1
    return source.take("int32_t", many * fours_of(n) * 2), source.take("int8_t", many * n.fields["length"])


def constant(source: Source, op: Op, g: Geometry, n: Numbers, requant: NDArray[np.int32] | None, weights: str) -> str:
    """A ``k_duo_weight``. requant: None where that is among the weights. weights: the table's name, or NULL."""
    f, (low, high) = n.fields, bounds(op, source.tensor(op.outputs[0]))
    flat = g["w"] == g["ow"] and f["length"] % FOUR == 0 and all(g[name] == 1 for name in ("h", "oh", "kh", "kw", "sx", "groups"))
    tables = {"weights": weights, "requant": "NULL" if requant is None else source.table(f"{op.name}.duo.requant", requant)}
    fields = {"runs_x": f["runs_x"], "length": f["length"], "fours": fours_of(n), "border": f["border"], "flat": int(flat)}
    return f"&{source.constant(f'{op.name}.duo', 'k_duo_weight', structure(**tables, **fields, low=low, high=high))}"


def fours_of(n: Numbers) -> int:
    """Fours of inputs that a pixel sees."""
    return n.fields["runs_y"] * n.fields["runs_x"] * n.fields["fours"]


def _copied(source: Source, op: Op, g: Geometry) -> bool:
    """Whether a copy of the image in its border saves time and costs no memory: it is small, and another op needs more."""
    plain = (g.bordered, g["top"], g["left"], g["c"] % FOUR) == ((g["h"], g["w"]), 0, 0, 0)
    needs = [sum(source.tensor(name).nbytes for name in (*each.inputs, *each.outputs)) for each in source.program.ops]
    own, most = sum(source.tensor(name).nbytes for name in (op.inputs[0], op.outputs[0])), LITTLE * prod(g.bordered) * g["c"]
    return not plain and most <= g.pixels * g["o"] and own + most <= max(needs)


def _bordered(source: Source, op: Op, g: Geometry, n: Numbers) -> tuple[str, Geometry, Numbers]:
    """That copy, and the layer as it reads there: nothing is border, and runs are whole fours, as more may be read than is taken."""
    layer, (high, wide) = source.constant(f"{op.name}.image", "k_layer", structure(**g.fields)), g.bordered
    copy = source.take("int8_t", high * wide * g["c"] + FOUR)
    source.call("k_duo_border", source.place(op.inputs[0]), f"&{layer}", n.fields["border"], high, wide, copy)
    inside = Geometry(fields={**g.fields, "h": high, "w": wide, "top": 0, "left": 0})
    return copy, inside, replace(n, fields={**n.fields, "length": n.fields["fours"] * FOUR})


def halves(lower: NDArray[np.int64], upper: NDArray[np.int64]) -> NDArray[np.int32]:
    """Two numbers of 16 bits in a word."""
    return ((lower & 0xFFFF) | (upper & 0xFFFF) << 16).astype(np.uint32).view(np.int32)


def pairs_of(outputs: int) -> NDArray[np.int64]:
    """Channels by duo, [duos, 2]; the last one of an odd number comes with the one before it."""
    first = np.minimum(np.arange(0, outputs, 2), outputs - 2)
    return np.stack([first, first + 1], 1)


def words_of(n: Numbers, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    """The weights: ``[groups, duos, fours, 2]``. Halves of a word are a + 256 · b."""
    f = n.fields
    runs = n.codes.reshape(n.groups, n.outputs, f["runs_y"] * f["runs_x"], f["length"]).astype(np.int32)
    runs = np.pad(runs, ((0, 0), (0, 0), (0, 0), (0, -f["length"] % FOUR)))
    fours = runs[:, pairs].reshape(n.groups, len(pairs), 2, -1, FOUR)
    both = (fours[:, :, 0] + 256 * fours[:, :, 1]).astype(np.int64)
    return halves(both[..., :2], both[..., 2:])


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
