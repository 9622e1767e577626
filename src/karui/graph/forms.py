"""The forms: how a weight or an activation is written, as torch custom ops with their gradients.

A form is one node of the graph between a value and its users; forms chain (``fake_quantize(mask(w))`` is "pruned, then int8"). Being ops,
they survive ``torch.export.save`` and ``load`` with their gradients, so a half-compressed network is one file and needs no class to load.
The latent value stays untouched beneath; gradients are straight-through estimates (Bengio et al. 2013, arXiv:1308.3432).

``torch.ops.karui.mask(w, mask, dense)``                               w where mask is 1, zero elsewhere
``torch.ops.karui.fake_quantize(x, scale, zero_point, qmin, qmax, axis)``   x rounded to the grid that its integers can write
``torch.ops.karui.binarize(w, scale)``                                 ±scale by the sign of w
``torch.ops.karui.palette(w, codebook, index)``                        each weight the entry of a codebook that its index names
"""

import torch
from torch import Tensor
from torch.fx import Node

from karui.graph.exits import EXIT_IF


@torch.library.custom_op("karui::mask", mutates_args=())
def mask(w: Tensor, mask: Tensor, dense: bool = False) -> Tensor:
    """``w`` (any shape) times ``mask`` (0 or 1, float or bool, the same shape).

    Masked weights get no gradient; with ``dense`` they get what they would get if they were there (Guo et al. 2016, "Dynamic network
    surgery for efficient DNNs", eq. 3), so that they may come back.
    """
    return w * mask


@mask.register_fake
def _(w: Tensor, mask: Tensor, dense: bool = False) -> Tensor:
    return torch.empty_like(w)


def _mask_setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    _, kept, ctx.dense = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(kept)


def _mask_backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
    (kept,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return grad if ctx.dense else grad * kept, None, None  # type: ignore[attr-defined]


mask.register_autograd(_mask_backward, setup_context=_mask_setup)


# ── fake_quantize ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _per_index(value: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """A scale or zero point in a shape that spreads over ``x``."""
    value = value.detach()
    if axis is None or value.numel() == 1:
        return value.reshape(())
    return value.reshape([-1 if d == axis % x.dim() else 1 for d in range(x.dim())])


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """``x / scale``, and scale and zero point as they spread; of half precision in single, as a device counts.

    Plain vectorized passes: torch's own kernel takes ten times as long.
    """
    step, zero = _per_index(scale, x, axis), _per_index(zero_point, x, axis)
    return x.detach().to(torch.promote_types(x.dtype, torch.float32)) / step, step, zero


@torch.library.custom_op("karui::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    """``(clamp(round(x / scale) + zero_point, qmin, qmax) − zero_point) · scale``, rounding half to even.

    x: float32, any shape. scale (> 0), zero_point (whole numbers): float32, ``[]`` or ``[1]`` per tensor (``axis`` None), else one entry
    per index of ``axis``. Gradient to x: straight through inside the range, zero outside (Jacob et al. 2018, arXiv:1712.05877). Gradient
    to scale, only if it asks for one: LSQ (Esser et al. 2020, arXiv:1902.08153, eq. 3), divided by sqrt(elements per scale · Q) with Q the
    greatest whole number above zero, qmax − zero_point.
    """
    codes, step, zero = _codes(x, scale, zero_point, axis)
    return codes.round_().add_(zero).clamp_(qmin, qmax).sub_(zero).mul_(step).to(x.dtype)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("karui::fake_quantize_backward", mutates_args=())
def fake_quantize_backward(
    grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None
) -> Tensor:
    """``grad`` where ``x`` lies inside the range, else zero. An op of its own, so that ``torch.compile`` need not look into it."""
    codes, _, zero = _codes(x, scale, zero_point, axis)
    return torch.ops.aten.hardtanh_backward(grad.to(codes.dtype), codes.add_(zero), qmin - 0.5, qmax + 0.5).to(grad.dtype)


@fake_quantize_backward.register_fake
def _(grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    return torch.empty_like(grad)


def _fake_quantize_setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:  # type: ignore[type-arg]
    x, scale, zero_point, ctx.qmin, ctx.qmax, ctx.axis = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(x, scale, zero_point)


def _fake_quantize_backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, zero_point = ctx.saved_tensors  # type: ignore[attr-defined]
    qmin, qmax, axis = ctx.qmin, ctx.qmax, ctx.axis  # type: ignore[attr-defined]
    grad_x = torch.ops.karui.fake_quantize_backward(grad, x, scale, zero_point, qmin, qmax, axis)
    grad_scale = None
    if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
        grad_scale = _scale_gradient(grad, grad_x, x, scale, zero_point, qmin, qmax, axis)
    return grad_x, grad_scale, None, None, None, None


def _scale_gradient(
    grad: Tensor, inside: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None
) -> Tensor:
    """LSQ, equation 3: round(v) − v inside, the bound outside, with v = x / scale; then the paper's §2.2 gradient scale.

    inside: the gradient to x. Both cases are one sum: of grad times the rounded value, less that times v where it passed.
    """
    rounded = torch.ops.karui.fake_quantize(x, scale, zero_point, qmin, qmax, axis)
    slope = torch.addcmul(grad * rounded, inside, x.detach(), value=-1)
    per_tensor = axis is None or scale.numel() == 1
    axes = range(x.dim()) if per_tensor else [d for d in range(x.dim()) if d != axis % x.dim()]  # type: ignore[operator]
    total = slope.sum(dim=list(axes)).reshape(scale.shape) / scale
    greatest = (qmax - zero_point).reshape(scale.shape).clamp_min(1)
    return total / (max(x.numel() // scale.numel(), 1) * greatest).sqrt()


fake_quantize.register_autograd(_fake_quantize_backward, setup_context=_fake_quantize_setup)


# ── binarize ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _signs(w: Tensor) -> Tensor:
    return torch.where(w >= 0, 1.0, -1.0).to(w.dtype)


def _over_first(scale: Tensor, w: Tensor) -> Tensor:
    return scale if scale.numel() == 1 else scale.reshape(-1, *([1] * (w.dim() - 1)))


@torch.library.custom_op("karui::binarize", mutates_args=())
def binarize(w: Tensor, scale: Tensor | None = None) -> Tensor:
    """``±1`` by the sign of ``w`` (zero counts as +1), times ``scale`` (``[O]`` over the first axis, ``[]``, or None for 1).

    Gradient to w: straight through where |w| ≤ 1, zero elsewhere (Courbariaux et al. 2016, arXiv:1602.02830, eq. 4); to scale: exact.
    """
    signs = _signs(w)
    return signs if scale is None else signs * _over_first(scale, w)


@binarize.register_fake
def _(w: Tensor, scale: Tensor | None = None) -> Tensor:
    return torch.empty_like(w)


def _binarize_setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)  # type: ignore[arg-type]


def _binarize_backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    w, scale = ctx.saved_tensors  # type: ignore[attr-defined]
    through = grad if scale is None else grad * _over_first(scale, w)
    grad_scale = None
    if scale is not None and ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
        product = grad * _signs(w)
        grad_scale = product.sum().reshape(scale.shape) if scale.numel() == 1 else product.flatten(1).sum(1)
    return through * (w.abs() <= 1), grad_scale


binarize.register_autograd(_binarize_backward, setup_context=_binarize_setup)


# ── palette ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.library.custom_op("karui::palette", mutates_args=())
def palette(w: Tensor, codebook: Tensor, index: Tensor) -> Tensor:
    """``codebook[index]``: index is uint8 of w's shape, codebook float32 ``[entries]``.

    Gradient to the codebook: each entry's is the sum over the weights that share it (Han et al. 2016, "Deep compression", eq. 3). What lies
    beneath gets none.
    """
    return codebook[index.long()]


@palette.register_fake
def _(w: Tensor, codebook: Tensor, index: Tensor) -> Tensor:
    return torch.empty_like(w)


@torch.library.custom_op("karui::palette_backward", mutates_args=())
def palette_backward(grad: Tensor, codebook: Tensor, index: Tensor) -> Tensor:
    """The sums. An op of its own, so that ``torch.compile`` need not look into it."""
    return torch.zeros_like(codebook).index_add_(0, index.long().flatten(), grad.flatten())


@palette_backward.register_fake
def _(grad: Tensor, codebook: Tensor, index: Tensor) -> Tensor:
    return torch.empty_like(codebook)


def _palette_setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _palette_backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[None, Tensor, None]:
    codebook, index = ctx.saved_tensors  # type: ignore[attr-defined]
    return None, torch.ops.karui.palette_backward(grad, codebook, index), None


palette.register_autograd(_palette_backward, setup_context=_palette_setup)


def is_form(node: Node) -> bool:
    """Whether a node of a graph is a form: an op of karui's own namespace, ours or one that a technique brought; an exit is none."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "karui" and node.target is not EXIT_IF
