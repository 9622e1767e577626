"""Layers whose weights are −1 and +1 over activations of few bits: how their numbers lie for c_runtime/signs.c.

A code is ``low`` + step · Σ 2^i · bit i, so with P of a channel's K weights at +1, and D_i of them other than their bit of plane i,

    Σ weight · (code − zero point) = (low − zero point) · (2P − K) + step · ((2^planes − 1) · P − Σ 2^i · D_i)

which for codes −1 and +1 is the well-known K − 2·D. All but the last sum is the same for each pixel, and goes into the bias. Nothing is
assumed of a tensor's quantization: which codes it may hold follows from the op that wrote it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.export.c_geometry import Geometry, geometry
from karui.export.c_nearest import by_floats
from karui.export.c_panels import WIDE, Numbers, in_panels
from karui.export.c_source import Source, structure
from karui.program.arithmetic import bounds, code_range, quantization, requantization
from karui.program.program import Affine, AffineValues, Array, Dense, Op, Program, SignValues

BLOCK = 2 * WIDE  # output channels side by side
MOST_PLANES = 2  # more take as many times the time of one; where they meet that of int8 was not measured
FEWEST = 8  # inputs of a tap, which fill a byte

LAYERS = ("conv2d", "conv1d", "linear")
_MOVES = ("reshape", "transpose", "slice", "concat", "pad", "max_pool2d", "max_pool1d", "upsample_nearest2d")
_CLAMPED = (*LAYERS, "add", "mul", "mean", "avg_pool2d", "avg_pool1d", "clamp")


@dataclass(frozen=True, kw_only=True)
class Planes:
    """Activations as planes of bits. fill: what stands for zero, less ``low``; None where no code does."""

    count: int
    low: int
    step: int
    zero: int
    fill: int | None

    @property
    def top(self) -> int:
        """The greatest number that a code's bits make."""
        return (1 << self.count) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer that bits can compute: what it reads, its weights' codes ``[O, taps, C / groups]``, and its requantization."""

    planes: Planes
    codes: NDArray[np.int32]
    numbers: Numbers


def signs(source: Source, op: Op, g: Geometry) -> bool:
    """The layer by bits. False, and nothing is written, where its weights, its activations or its size aren't for that."""
    layer = layer_of(source, op, g)
    if layer is None:
        return False
    tables: dict[str, Array] = {"weights": _weights(g, layer, paired=source.machine.paired)} | outside(g, layer)
    fields: dict[str, Any] = {role: source.table(f"{op.name}.signs.{role}", each) for role, each in tables.items()}
    panel, store = "NULL", "NULL"
    if op.outputs[0] in source.packed:
        fields["least"] = source.table(f"{op.name}.signs.least", least_of(source, op, g, layer))
    else:
        panel = f"&{_panel(source, op, layer.numbers)}"
        plain = "k_store_word" if source.machine.duos else "k_store_plain"
        store = source.chosen("store") if source.machine.sets else source.use(plain)
        if source.machine.reals and g.pixels > 1:
            rounded = _rounded(source, op, g, layer, tables)
            fields |= {role: source.table(f"{op.name}.signs.{role}", each) for role, each in rounded.items()}
    lay, where = places(source, op, g, layer.planes)
    constant = source.constant(f"{op.name}.signs", "k_signs", structure(lay=structure(**lay), **where, **fields))
    x, y, copy = source.place(op.inputs[0]), source.place(op.outputs[0]), source.take("uint8_t", where["whole"] * layer.planes.count)
    source.call("k_signs_i8", x, y, f"&{constant}", panel, f"{source.use(source.machine.signs)}()", store, copy)
    return True


def layer_of(source: Source, op: Op, g: Geometry) -> Layer | None:
    """None where bits can't compute the layer."""
    weight, width = source.program.weights[op.weights["weight"]], g["c"] // g["groups"]
    if not isinstance(weight.values, SignValues) or not isinstance(weight.support, Dense) or width < FEWEST:
        return None
    planes = planes_of(source.program, op.inputs[0])
    codes = weight.codes().reshape(g["o"], g["kh"] * g["kw"], width)
    if planes is None or codes[0].size * planes.top > 0xFFFF or abs(planes.low - planes.zero) * width > 0x7FFF:  # 16 bits each
        return None
    numbers = _numbers(source, op, g, planes, codes)
    return None if numbers is None else Layer(planes=planes, codes=codes, numbers=numbers)


# ── tensors that lie as bits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def packed(source: Source) -> frozenset[str]:
    """The tensors that never lie in memory as bytes: a layer of signs or a table writes their bits, and only such layers read them."""
    program, found = source.program, set()
    known = {out.tensor for out in program.outputs} | {name for pair in program.states for name in pair}
    readers: dict[str, list[Op]] = {}
    for op in program.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    for op in program.ops:
        name = op.outputs[0]
        if name in known or name not in readers or program.tensor(name).dtype != "int8":
            continue
        planes = planes_of(program, name)
        if planes is not None and planes.count == 1 and _writes(source, op) and all(_reads(source, each) for each in readers[name]):
            found.add(name)
    return frozenset(found)


def packed_bytes(source: Source) -> dict[str, int]:
    """What they take."""
    shapes = {name: source.tensor(name).shape for name in source.packed}
    return {name: prod(shape[:-1]) * -(-shape[-1] // 8) * source.machine.spread for name, shape in shapes.items()}


def _reads(source: Source, op: Op) -> bool:
    """Whether a layer takes bits that lie one after the other in a pixel."""
    if op.kind not in LAYERS or source.tensor(op.outputs[0]).dtype != "int8":
        return False
    g = geometry(source, op)
    return (g["groups"] == 1 or g["c"] // g["groups"] % 8 == 0) and layer_of(source, op, g) is not None


def _writes(source: Source, op: Op) -> bool:
    """Whether an op can write them."""
    if op.kind == "lookup":
        return source.tensor(op.inputs[0]).dtype == "int8" and threshold(source, op) is not None
    if op.kind not in LAYERS:
        return False
    g = geometry(source, op)
    layer = layer_of(source, op, g) if g["groups"] == 1 or g["o"] // g["groups"] % 8 == 0 else None
    return layer is not None and bool((layer.numbers.requant.multiplier >= 0).all())


def threshold(source: Source, op: Op) -> int | None:
    """The greatest code that a table makes its lower code; None where it isn't that simple."""
    values = source.program.weights[op.weights["table"]].values
    if not isinstance(values, AffineValues) or values.codes.ndim != 1:
        return None
    steps = np.flatnonzero(np.diff(values.codes.astype(np.int32)))
    if not len(steps):
        return 127
    return int(steps[0]) - 128 if len(steps) == 1 and values.codes[0] < values.codes[-1] else None


def pack(source: Source, op: Op) -> None:
    """A table that makes bits."""
    channels, pixels = source.tensor(op.inputs[0]).shape[-1], prod(source.tensor(op.inputs[0]).shape[:-1])
    part = -(-channels // 8) * source.machine.spread
    fields = {"spread": source.machine.spread, "part": part, "planes": 1, "low": threshold(source, op)}
    constant = source.constant(f"{op.name}.bits", "k_signs", structure(lay=structure(c=channels, pixels=pixels), **fields))
    ends = source.place(op.inputs[0]), source.place(op.outputs[0])
    chosen = "k_signs_packs" if source.machine.duos else source.machine.signs
    source.call("k_to_signs", *ends, f"&{constant}", f"{source.use(chosen)}()")


# ── which codes a tensor may hold ───────────────────────────────────────────────────────────────────────────────────────────────────


def planes_of(program: Program, name: str) -> Planes | None:
    """The planes of an int8 tensor; None where there would be too many of them."""
    found = codes_of(program, name)
    if not found:
        return None
    low, high, zero = min(found), max(found), quantization(program.tensor(name))[1]
    if len(found) <= 2:
        step = max(1, high - low)
        fill = (zero - low) // step if zero in (low, low + step) else None
        return Planes(count=1, low=low, step=step, zero=zero, fill=fill)
    count = (high - low).bit_length()
    fill = zero - low if 0 <= zero - low < 1 << count else None
    return Planes(count=count, low=low, step=1, zero=zero, fill=fill) if count <= MOST_PLANES else None


def codes_of(program: Program, name: str) -> frozenset[int] | None:
    """The codes that a tensor may hold; None where nothing says so.

    Inputs are what their quantization says, as their caller promises: of signs, −1 and +1. A layer or a quantize that writes signs may
    write 0 as well.
    """
    tensor = program.tensor(name)
    if any(entry.tensor == name for entry in program.inputs):
        low, high = code_range(tensor)
        return frozenset(range(low, high + 1)) if isinstance(tensor.quant, Affine) else frozenset((-1, 1))
    op = next((op for op in program.ops if name in op.outputs), None)
    if op is None or tensor.dtype != "int8":
        return None
    if op.kind in _CLAMPED:
        low, high = bounds(op, tensor)
        return frozenset(range(low, high + 1))
    if op.kind == "quantize":
        low, high = code_range(tensor)
        return frozenset(range(low, high + 1))
    if op.kind == "lookup":
        table = program.weights[op.weights["table"]].values
        return frozenset(table.codes.reshape(-1).tolist()) if isinstance(table, AffineValues) else None
    if op.kind not in _MOVES:
        return None
    parts = [codes_of(program, each) for each in op.inputs]
    value = op.attributes.get("value")
    extra = {quantization(tensor)[1] if value is None else int(value)} if op.kind == "pad" else set()
    return None if None in parts else frozenset(extra.union(*(part for part in parts if part is not None)))


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _numbers(source: Source, op: Op, g: Geometry, planes: Planes, codes: NDArray[np.int32]) -> Numbers | None:
    """The requantization of sums of bits that differ; None where its bias could take more bits than there are."""
    requant, ones = requantization(source.program, op), (codes > 0).sum((1, 2), dtype=np.int64)
    most = codes[0].size * (planes.step * planes.top + abs(planes.low - planes.zero))  # bits that differ, and what the border adds
    constant = (planes.low - planes.zero) * (2 * ones - codes[0].size) + planes.step * planes.top * ones
    exact = [int(b) + int(c) * int(m) for b, c, m in zip(requant.bias, constant, requant.multiplier, strict=True)]
    reach = [abs(b) + most * abs(int(m)) for b, m in zip(exact, requant.multiplier, strict=True)]
    if max(reach, default=0) >= 2**63:
        return None
    quick = all(int(s) >= 32 and r >> int(s) < 2**31 for r, s in zip(reach, requant.shift, strict=True))
    outputs = g["o"] // g["groups"]
    return Numbers(
        fields={},
        copy=0,
        groups=g["groups"],
        outputs=outputs,
        each=-(-outputs // WIDE),
        codes=codes.reshape(g["o"], -1).astype(np.int8),
        requant=requant,
        folded=np.array(exact, np.int64),
        quick=quick,
    )


def _panel(source: Source, op: Op, numbers: Numbers) -> str:
    """The ``k_panel_weight`` that makes sums to codes."""
    low, high = bounds(op, source.tensor(op.outputs[0]))
    tables = {name: source.table(f"{op.name}.signs.{name}", each) for name, each in in_panels(numbers, numbers.folded).items()}
    return source.constant(f"{op.name}.panel", "k_panel_weight", structure(**tables, quick=int(numbers.quick), low=low, high=high))


def _rounded(source: Source, op: Op, g: Geometry, layer: Layer, tables: Mapping[str, Array]) -> dict[str, Array]:
    """The numbers of codes by floats, and of which blocks that is exact; nothing where it is of none."""
    planes, n, (low, high) = layer.planes, layer.numbers, bounds(op, source.tensor(op.outputs[0]))
    sums: Array = -planes.step * np.arange(n.codes.shape[1] * planes.top + 1)
    if "outside" in tables:
        reach = int(np.abs(tables["outside"].astype(np.int64)).sum(0).max())
        sums = np.arange(int(sums.min()) - reach, reach + 1)
    found = by_floats(sums, n.requant.multiplier, n.folded, n.requant.shift, low, high)
    behind = ((0, 0), (0, -n.outputs % BLOCK))  # what fills up the last block of a group
    scale, offset, exact = (np.pad(each.reshape(g["groups"], -1), behind, constant_values=1) for each in found)
    rounds = exact.reshape(-1, BLOCK).all(axis=1)
    return {"scale": scale, "offset": offset, "rounds": np.asarray(rounds, np.uint8)} if rounds.any() else {}


def least_of(source: Source, op: Op, g: Geometry, layer: Layer) -> NDArray[np.int32]:
    """[groups, blocks · 32]: the least sum that makes the output's higher code; of what fills up, one that none reaches."""
    high, n, top = bounds(op, source.tensor(op.outputs[0]))[1], layer.numbers, 2**31 - 1
    least = []
    for bias, multiplier, shift in zip(n.folded.tolist(), n.requant.multiplier.tolist(), n.requant.shift.tolist(), strict=True):
        needed = (high << shift) - bias  # sum · multiplier ≥ this
        least.append(-(-needed // multiplier) if multiplier else -top if needed <= 0 else top)
    blocks = -(-n.outputs // BLOCK)
    whole = np.full((g["groups"], blocks * BLOCK), top, np.int64)
    whole[:, : n.outputs] = np.array([min(top, max(-top, each)) for each in least]).reshape(g["groups"], n.outputs)
    return whole.astype(np.int32)


def _weights(g: Geometry, layer: Layer, *, paired: bool) -> Array:
    """Bits of the weights, [groups, blocks, taps, bytes, 32], or of two blocks [taps, bytes, 2, 32]."""
    outputs = g["o"] // g["groups"]
    blocks = -(-outputs // BLOCK)
    packed = np.packbits(layer.codes > 0, axis=2, bitorder="little")
    whole = np.zeros((g["groups"], blocks * BLOCK, *packed.shape[1:]), np.uint8)
    whole[:, :outputs] = packed.reshape(g["groups"], outputs, *packed.shape[1:])
    pairs = blocks // 2 * 2 * BLOCK if paired else 0
    return np.concatenate((_side_by_side(whole[:, :pairs], 2 * BLOCK), _side_by_side(whole[:, pairs:], BLOCK)), axis=1)


def _side_by_side(whole: NDArray[np.uint8], many: int) -> NDArray[np.uint8]:
    """[groups, channels, taps, bytes] with so many channels side by side: [groups, channels / many · taps · bytes · many]."""
    groups, channels, taps, each = whole.shape
    return whole.reshape(groups, channels // many, many, taps, each).transpose(0, 1, 3, 4, 2).reshape(groups, -1)


def outside(g: Geometry, layer: Layer) -> dict[str, Array]:
    """What taps in the border add where no code is zero, ``[taps, groups, blocks · 32]`` by the field's name."""
    planes, codes = layer.planes, layer.codes
    if planes.fill is not None or g.bordered == (g["h"], g["w"]):
        return {}
    outputs, taps = g["o"] // g["groups"], codes.shape[1]
    adds = np.zeros((taps, g["groups"], -(-outputs // BLOCK) * BLOCK), np.int64)
    adds[..., :outputs] = -(planes.low - planes.zero) * codes.sum(2).T.reshape(taps, g["groups"], outputs)
    return {"outside": adds.astype(np.int16)}


def places(source: Source, op: Op, g: Geometry, planes: Planes) -> tuple[dict[str, int], dict[str, int]]:
    """The fields of ``k_panels``, and those of ``k_signs`` that don't depend on weights."""
    each, spread = -(-(g["c"] // g["groups"]) // 8), source.machine.spread
    pixel = g["groups"] * each * spread
    whole = g["groups"] == 1 and g["dx"] == 1  # the taps of a line are neighbours
    high, wide = g.bordered
    line = wide * pixel
    fields = {name: g[name] for name in ("h", "w", "c", "top", "left", "ow", "o", "groups")}
    fields |= {"high": high, "wide": wide, "pixels": g.pixels, "down": g["sy"] * line, "along": g["sx"] * pixel}
    fields |= {"runs_y": g["kh"], "runs_x": 1 if whole else g["kw"], "run_y": g["dy"] * line, "run_x": g["dx"] * pixel}
    fields |= {"fours": each * (g["kw"] if whole else 1)}
    where = {name: g[name] for name in ("kh", "kw", "sy", "sx", "dy", "dx")}
    where |= {"spread": spread, "part": each * spread, "whole": high * line, "packed": int(op.inputs[0] in source.packed)}
    where |= {"paired": int(source.machine.paired), "planes": planes.count}
    where |= {"low": planes.low, "fill": planes.fill or 0, "step": planes.step}
    return fields, where | ({"pixel": -(-g["o"] // 8) * spread} if op.outputs[0] in source.packed else {})
