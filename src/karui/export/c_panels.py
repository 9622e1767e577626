"""Integer layers in panels: how their numbers lie for c_runtime/panel.c."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.export.c_geometry import Geometry
from karui.export.c_requant import in_reals
from karui.export.c_source import Source, structure
from karui.export.c_weights import Coded
from karui.program.arithmetic import Requant, bounds, quantization, requantization
from karui.program.program import Op

WIDE, DEEP = 16, 4  # channels of a panel, inputs of a four
MOST_FOURS = 0.75  # of a layer's: above, all of them are faster; a list costs a panel's weights being read by themselves
FULL = 0.5  # of the weights in the fours that are left: where more are zero, an index of single weights takes fewer bytes
BESIDE = 16  # pixels that a list's fours meet at a time
SLACK = 16  # bytes behind the copy that a last four, or the sixteen bytes from it on, may read


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """A layer that panels can compute: its geometry and its requantization.

    fields: of ``k_panels``. copy: bytes of the image in its border. groups: of the layer; outputs, each: channels and panels of a group.
    codes: int8 ``[O, K]``. folded: int64 ``[O]``, the biases of ``requant`` with what the border and the 128 add. quick: as in
    ``k_panel_weight``.
    """

    fields: dict[str, int]
    copy: int
    groups: int
    outputs: int
    each: int
    codes: NDArray[np.int8]
    requant: Requant
    folded: NDArray[np.int64]
    quick: bool

    @cached_property
    def fours(self) -> NDArray[np.int8]:
        """The weights by panel and four: ``[panels, fours, 64]``; what fills up is zero."""
        f = self.fields
        whole = packed(self.codes.reshape(self.groups, self.outputs, f["runs_y"] * f["runs_x"], f["length"]))
        return whole.reshape(self.groups * self.each, -1, WIDE * DEEP)

    @cached_property
    def there(self) -> NDArray[np.bool_]:
        """Which fours have any weight: ``[panels, fours]``."""
        return np.asarray(self.fours.any(2))


def panels(source: Source, op: Op, w: Coded, n: Numbers, weight: str) -> None:
    """A convolution or linear layer with one multiplier a channel. weight: its ``k_weight``, for weights that are decoded on the device."""
    size = n.fours.shape[1] * WIDE * DEEP
    tables, scratch = _weights(source, op, n, w, n.fours, min(2, n.each) * size)
    _call(source, op, "k_panels_i8", n, tables, weight, scratch, copy=n.copy + SLACK)


def few(n: Numbers) -> bool:
    """Whether a layer has so few fours that a list of them is faster, as a rule, and takes no more bytes than one of single weights."""
    return bool(n.there.mean() <= MOST_FOURS and np.count_nonzero(n.codes) >= FULL * n.there.sum() * WIDE * DEEP)


def listed(source: Source, op: Op, n: Numbers) -> None:
    """The same layer by the fours that each panel has."""
    f, there = n.fields, n.there
    y, x, j = np.meshgrid(np.arange(f["runs_y"]), np.arange(f["runs_x"]), np.arange(f["fours"]), indexing="ij")
    places = (y * f["run_y"] + x * f["run_x"] + j * DEEP).reshape(-1)
    tables = in_panels(n, n.folded) | {"weights": n.fours[there], "ends": there.sum(1).cumsum().astype(np.int32)}
    tables["list"] = np.concatenate([places[each] for each in there] + [np.zeros(1, int)]).astype(np.int32)  # never empty
    tables |= reals_of(source, op, n)
    _call(source, op, "k_listed_i8", n, tables, copy=max(n.copy, BESIDE * f["c"]) + SLACK)


def depthwise(source: Source, op: Op, w: Coded, numbers: Numbers, weight: str) -> None:
    """A convolution with one filter for each channel."""
    channels = numbers.fields["o"]
    n = replace(numbers, groups=1, outputs=channels, each=-(-channels // WIDE))
    tables, scratch = _weights(source, op, n, w, taps_of(numbers), WIDE * w.inputs)
    _call(source, op, "k_depth_i8", n, tables, weight, scratch, copy=n.copy + WIDE + channels)


def taps_of(n: Numbers) -> NDArray[np.int8]:
    """The weights of a depthwise layer by panel and tap: ``[panels, taps, 16]``; what fills up is zero."""
    channels, taps = n.codes.reshape(n.fields["o"], -1).shape
    codes = np.pad(n.codes.reshape(channels, taps), ((0, -channels % WIDE), (0, 0)))
    return codes.reshape(-1, WIDE, taps).swapaxes(1, 2)


def numbers_of(source: Source, op: Op, g: Geometry) -> Numbers | None:
    """None where sums of bytes without a sign, or what is added to them, could take more bits than there are."""
    fields, copy = fields_of(source, op, g)
    weight = source.program.weights[op.weights["weight"]]
    requant, codes = requantization(source.program, op), weight.codes().reshape(weight.shape[0], -1)
    most = np.abs(codes.astype(np.int64)).sum(1) * 255
    if requant.multiplier.ndim == 2 or (most >= 2**31).any() or np.abs(codes).max(initial=0) > source.machine.most_code:
        return None
    extra = -fields["border"] * codes.astype(np.int64).sum(1)
    exact = [int(b) + int(e) * int(m) for b, e, m in zip(requant.bias, extra, requant.multiplier, strict=True)]
    reach = [abs(b) + int(n) * abs(int(m)) for b, n, m in zip(exact, most, requant.multiplier, strict=True)]
    if max(reach, default=0) >= 2**63:
        return None
    quick = all(int(s) >= 32 and r >> int(s) < 2**31 for r, s in zip(reach, requant.shift, strict=True))
    outputs = g["o"] // g["groups"]
    return Numbers(
        fields=fields,
        copy=copy,
        groups=g["groups"],
        outputs=outputs,
        each=-(-outputs // WIDE),
        codes=codes.astype(np.int8),
        requant=requant,
        folded=np.array(exact, np.int64),
        quick=quick,
    )


def reals_of(source: Source, op: Op, n: Numbers) -> dict[str, NDArray[Any]]:
    """The tables by which floats make the same codes, where the machine may have the instructions and it is proved."""
    most = np.abs(n.codes.astype(np.int64)).sum(1) * 255
    found = in_reals(n.requant, n.folded, most, bounds(op, source.tensor(op.outputs[0]))) if source.machine.reals else None
    if found is None:
        return {}
    start, reals = (_filled(n, each) for each in found)
    return {"start": start.reshape(-1), "reals": reals.reshape(3, -1, WIDE).swapaxes(0, 1)}


def _weights(
    source: Source, op: Op, n: Numbers, w: Coded, table: NDArray[np.int8], unpacked: int
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The tables of a layer, and its scratch where weights are decoded on the device."""
    if w.in_place:
        return in_panels(n, n.folded) | {"weights": table} | reals_of(source, op, n), ["NULL"] * 4
    scratch = [source.take("int8_t", unpacked), source.take("int8_t", w.inputs)]
    scratch += [source.take("k_index", w.most), source.take("int8_t", w.most)] if w.sparse else ["NULL", "NULL"]
    return in_panels(n, n.requant.bias), scratch


def _call(
    source: Source,
    op: Op,
    kernel: str,
    n: Numbers,
    tables: dict[str, NDArray[Any]],
    weight: str = "NULL",
    scratch: Sequence[str] = (),
    *,
    copy: int,
) -> None:
    """The layer's constants, and the call."""
    low, high = bounds(op, source.tensor(op.outputs[0]))
    fields: dict[str, Any] = {name: source.table(f"{op.name}.panel.{name}", each) for name, each in tables.items()}
    fields |= {} if "weights" in tables else {"coded": weight, "unpack": source.use("k_unpack")}
    lay = source.constant(f"{op.name}.panels", "k_panels", structure(**n.fields))
    panel = source.constant(f"{op.name}.panel", "k_panel_weight", structure(**fields, quick=int(n.quick), low=low, high=high))
    x, y = source.place(op.inputs[0]), source.place(op.outputs[0])
    source.call(kernel, x, y, f"&{lay}", f"&{panel}", source.set(), source.take("uint8_t", copy), *scratch)


def packed(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Codes ``[groups, O, runs, length]`` as ``[groups, panels, runs, fours, 16, 4]``; what fills up is zero."""
    groups, outputs, runs, length = codes.shape
    each, fours = -(-outputs // WIDE), -(-length // DEEP)
    whole = np.zeros((groups, each * WIDE, runs, fours * DEEP), np.int8)
    whole[:, :outputs, :, :length] = codes
    return np.ascontiguousarray(whole.reshape(groups, each, WIDE, runs, fours, DEEP).transpose(0, 1, 3, 4, 2, 5))


def fields_of(source: Source, op: Op, g: Geometry) -> tuple[dict[str, int], int]:
    """The fields of ``k_panels``, and the bytes of the copy, without those behind it."""
    width = g["c"] // g["groups"]
    whole = g["groups"] == 1 and g["dx"] == 1  # the taps of a line are neighbours
    high, wide = g.bordered
    line = wide * g["c"]
    length = g["kw"] * width if whole else width
    fields = {name: g[name] for name in ("h", "w", "c", "top", "left", "ow", "o", "groups")}
    fields |= {"high": high, "wide": wide, "pixels": g.pixels, "down": g["sy"] * line, "along": g["sx"] * g["c"]}
    fields |= {"runs_y": g["kh"], "runs_x": 1 if whole else g["kw"], "run_y": g["dy"] * line, "run_x": g["dx"] * g["c"]}
    fields |= {"length": length, "fours": -(-length // DEEP), "unsign": source.machine.unsign}
    inside = not g["top"] and not g["left"] and high <= g["h"] and wide <= g["w"]
    fields["bare"] = int(g["kh"] == g["kw"] == 1 and inside)
    fields["border"] = fields["unsign"] + quantization(source.tensor(op.inputs[0]))[1]
    return fields, high * line


def in_panels(n: Numbers, bias: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Multipliers in the order of the channels; biases and shifts with the even channels of each panel first."""

    def halves(values: NDArray[Any]) -> NDArray[np.int64]:
        return values.reshape(-1, WIDE // 2, 2).swapaxes(1, 2).reshape(-1).astype(np.int64)

    shift = np.maximum(_filled(n, n.requant.shift), 32 if n.quick else 0)  # of what fills up, too
    multiplier = _filled(n, n.requant.multiplier).reshape(-1).astype(np.int32)
    return {"multiplier": multiplier, "bias": halves(_filled(n, bias)), "shift": halves(shift)}


def _filled(n: Numbers, values: NDArray[Any]) -> NDArray[Any]:
    """Numbers ``[…, O]`` of the channels as ``[…, groups, channels of the group's panels]``."""
    apart = values.reshape(*values.shape[:-1], n.groups, n.outputs)
    return np.pad(apart, [(0, 0)] * (apart.ndim - 1) + [(0, n.each * WIDE - n.outputs)])
