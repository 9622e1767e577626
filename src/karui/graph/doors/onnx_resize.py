"""Rules for what changes resolution: Resize and its elder Upsample, and channels that become pixels or pixels channels.

Along each axis a resize is a matrix. Where torch's op has the same one, that op is drawn; else places are chosen, or the matrix is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from karui.graph.doors.drawing import LARGEST_CONSTANT, Drawing, Value
from karui.graph.doors.onnx_node import Node, Rule
from karui.graph.doors.onnx_shapes import lists

aten = torch.ops.aten
_OPS: Mapping[tuple[str, int], Any] = {
    ("nearest", 3): aten.upsample_nearest1d.vec,
    ("nearest", 4): aten.upsample_nearest2d.vec,
    ("linear", 3): aten.upsample_linear1d.vec,
    ("linear", 4): aten.upsample_bilinear2d.vec,
    ("cubic", 4): aten.upsample_bicubic2d.vec,
}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A resize along one axis; ``scale``: the file's, which the sizes may round."""

    axis: int
    size: int
    out: int
    scale: float


def _resize(d: Drawing, n: Node) -> Value:
    x, mode = n.value(0), n.text("mode", "nearest")
    if n.whole("antialias") or n.text("keep_aspect_ratio_policy", "stretch") != "stretch" or mode not in ("nearest", "linear", "cubic"):
        n.refuse(f"mode {mode[:20]}, antialias or an aspect ratio", "nearest, linear and cubic to any size have a rule")
    steps, sized = _steps(d, n, x)
    steps = [step for step in steps if step.size != step.out or step.scale != 1]
    if not steps:
        return x
    how = n.text("coordinate_transformation_mode", "half_pixel" if n.opset >= 11 else "asymmetric")
    how = "asymmetric" if n.kind == "Upsample" else how
    shares = [_share(n, step, mode, how) for step in steps]
    return _by_torch(d, x, mode, steps, shares, sized) or _by_axis(d, n, x, mode, steps, shares)


def _steps(d: Drawing, n: Node, x: Value) -> tuple[list[_Step], bool]:
    rank = x.two.dim()
    axes = n.wholes("axes")
    axes = list(range(rank)) if axes is None else [n.axis(x, axis) for axis in axes]
    sizes = n.get(3) if n.kind == "Resize" and n.opset >= 11 else None
    steps = []
    if sizes is not None and sizes.two.numel():
        for axis, two, three in zip(axes, *lists(d, sizes, "sizes"), strict=True):
            batch = x.two.shape[axis] != x.three.shape[axis]
            if two < 1 or two > LARGEST_CONSTANT or (batch and (two, three) != (x.two.shape[axis], x.three.shape[axis]) and two != 1):
                n.refuse(f"the size {two} for axis {axis}", "keep the batch, and sizes from 1 on")
            if not batch:
                steps.append(_Step(axis=axis, size=x.two.shape[axis], out=two, scale=two / x.two.shape[axis]))
        return steps, True
    for axis, scale in zip(axes, _scales(n, rank), strict=True):
        out = int(x.two.shape[axis] * scale) if 0 < scale < LARGEST_CONSTANT else 0
        if not 0 < out <= LARGEST_CONSTANT or (scale != 1 and x.two.shape[axis] != x.three.shape[axis]):
            n.refuse(f"the scale {scale} for axis {axis}", "keep the batch, and scales above 0")
        steps.append(_Step(axis=axis, size=x.two.shape[axis], out=out, scale=scale))
    return steps, False


def _scales(n: Node, rank: int) -> list[float]:
    given = n.attributes.get("scales")
    if given is None:
        tensor = n.constant(2 if n.kind == "Resize" and n.opset >= 11 else 1)
        given = None if tensor is None else tensor.reshape(-1).tolist()
    return list(given) if given else n.refuse("neither scales nor sizes", "make them constants of the file")


# ── the matrix of a step ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _share(n: Node, step: _Step, mode: str, how: str) -> Tensor:
    """``[size, out]``: how much of each place goes into each new one."""
    if step.size * step.out > LARGEST_CONSTANT:
        n.refuse(f"a resize of {step.size} to {step.out} places", "resize in smaller steps")
    at = _coordinates(n, step, how)
    if mode == "nearest":
        rounding = n.text("nearest_mode", "round_prefer_floor" if n.opset >= 11 and n.kind == "Resize" else "floor")
        rounded = {
            "round_prefer_floor": torch.ceil(at - 0.5),
            "round_prefer_ceil": torch.floor(at + 0.5),
            "floor": torch.floor(at),
            "ceil": torch.ceil(at),
        }.get(rounding)
        if rounded is None:
            n.refuse(f"nearest_mode {rounding[:20]}", "round or floor")
        return _sum(step, [(rounded, torch.ones_like(at))])
    below = torch.floor(at)
    part = at - below
    if mode == "linear":
        inside = at.clamp(0, step.size - 1)
        below = torch.floor(inside)
        part = inside - below
        return _sum(step, [(below, 1 - part), (below + 1, part)])
    if n.whole("exclude_outside"):
        n.refuse("exclude_outside", "leave it out")
    a = n.real("cubic_coeff_a", -0.75)
    return _sum(step, [(below + i, _cubic(abs(part - i), a)) for i in (-1, 0, 1, 2)])


def _coordinates(n: Node, step: _Step, how: str) -> Tensor:
    """Where each new place lies among the old ones."""
    at, size, out = torch.arange(step.out, dtype=torch.float64), step.size, step.out
    if how == "align_corners":
        return at * ((size - 1) / (out - 1)) if out > 1 else at * 0
    if how == "asymmetric":
        return at / step.scale
    if how == "tf_half_pixel_for_nn":
        return (at + 0.5) / step.scale
    if how == "half_pixel_symmetric":
        gap = out / (step.scale * size)
        return size / 2 * (1 - gap) + (at + 0.5) / step.scale - 0.5
    if how == "pytorch_half_pixel" and out == 1:
        return at * 0
    return (at + 0.5) / step.scale - 0.5 if "half_pixel" in how else n.refuse(f"coordinates by {how[:30]}", "use half_pixel")


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys 1981, equation 4, for 0 ≤ x ≤ 2."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    return torch.where(x <= 1, near, ((x - 5) * x + 8) * x * a - 4 * a)


def _sum(step: _Step, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    share = torch.zeros(step.size, step.out, dtype=torch.float64)
    for places, amount in parts:
        share.index_put_((places.long().clamp(0, step.size - 1), torch.arange(step.out)), amount, accumulate=True)
    return share.float()


# ── drawing it ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_torch(d: Drawing, x: Value, mode: str, steps: Sequence[_Step], shares: Sequence[Tensor], sized: bool) -> Value | None:
    rank = x.two.dim()
    op = _OPS.get((mode, rank))
    if op is None or any(step.axis < 2 for step in steps):
        return None
    own = {step.axis: step for step in steps}
    out = [own[axis].out if axis in own else x.two.shape[axis] for axis in range(2, rank)]
    factors = [own[axis].scale if axis in own else 1.0 for axis in range(2, rank)]
    for corners in (False, True) if mode != "nearest" else (False,):
        for size, scales in ((None, factors), (out, None)) if not sized else ((out, None),):
            if all(_same(step, share, mode, corners, size is None) for step, share in zip(steps, shares, strict=True)):
                return d.call(op, x, size, *(() if mode == "nearest" else (corners,)), scales)
    return None


def _same(step: _Step, share: Tensor, mode: str, corners: bool, scaled: bool) -> bool:
    """Whether torch's matrix is this one."""
    image = mode == "cubic"
    unit = torch.eye(step.size)[None]
    unit = unit[:, :, None] if image else unit
    op = _OPS[mode, 4 if image else 3]
    more = () if mode == "nearest" else (corners,)
    sizes = ([1, step.out] if image else [step.out]) if not scaled else None
    scales = ([1.0, step.scale] if image else [step.scale]) if scaled else None
    found = op(unit, sizes, *more, scales)
    found = found[0, :, 0] if image else found[0]
    return found.shape == share.shape and bool(torch.allclose(found, share, atol=1e-5, rtol=0))


def _by_axis(d: Drawing, n: Node, x: Value, mode: str, steps: Sequence[_Step], shares: Sequence[Tensor]) -> Value:
    for step, share in zip(steps, shares, strict=True):
        if mode == "nearest":
            x = d.call(aten.index_select.default, x, step.axis, d.known(share.argmax(0), f"{d.layer}.places"))
            continue
        rank = x.two.dim()
        perm = [axis for axis in range(rank) if axis != step.axis] + [step.axis]
        back = [perm.index(axis) for axis in range(rank)]
        moved = d.call(aten.permute.default, x, perm) if perm != sorted(perm) else x
        moved = d.call(aten.matmul.default, moved, d.known(share, f"{d.layer}.shares"))
        x = d.call(aten.permute.default, moved, back) if perm != sorted(perm) else moved
    return x


# ── channels and space ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _depth_to_space(d: Drawing, n: Node) -> Value:
    x, r, mode = n.images(n.value(0)), n.whole("blocksize", 1), n.text("mode", "DCR")
    if x.two.dim() != 4 or r < 1 or x.two.shape[1] % (r * r):
        n.refuse(f"blocksize {r} for the shape {list(x.two.shape)}", "check the file")
    if r == 1:
        return x
    if mode == "CRD":
        return d.call(aten.pixel_shuffle.default, x, r)
    c, h, w = x.two.shape[1:]
    return _regrouped(d, x, [r, r, c // (r * r), h, w], [0, 3, 4, 1, 5, 2], [c // (r * r), h * r, w * r])


def _space_to_depth(d: Drawing, n: Node) -> Value:
    x, r = n.images(n.value(0)), n.whole("blocksize", 1)
    if x.two.dim() != 4 or r < 1 or x.two.shape[2] % r or x.two.shape[3] % r:
        n.refuse(f"blocksize {r} for the shape {list(x.two.shape)}", "check the file")
    c, h, w = x.two.shape[1:]
    return _regrouped(d, x, [c, h // r, r, w // r, r], [0, 3, 5, 1, 2, 4], [c * r * r, h // r, w // r]) if r > 1 else x


def _regrouped(d: Drawing, x: Value, split: list[int], perm: list[int], joined: list[int]) -> Value:
    """Axes behind the batch: split, put in another order, joined."""
    parts = d.reshape(x, [x.two.shape[0], *split], [x.three.shape[0], *split])
    moved = d.call(aten.permute.default, parts, perm)
    return d.reshape(moved, [x.two.shape[0], *joined], [x.three.shape[0], *joined])


RULES: Mapping[str, Rule] = {
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
