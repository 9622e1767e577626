"""Ranges and the scales that they give: of weights along their output channels, of activations as observers saw them."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from karui.analyse import histogram, observe
from karui.analyse.observe import Observer
from karui.compress.select import rule_named

WeightRange = Literal["minmax", "mse"]
SMALLEST = 1e-8  # of scales: a channel of zeros, a value that never moved
SHARES = tuple(place / 64 for place in range(64, 15, -1))  # of a channel's range


def channel_scale(weight: Tensor, axis: int, top: int) -> Tensor:
    """``max|w| / top`` along ``axis``: float32 ``[O]``, at least SMALLEST."""
    return (weight.detach().abs().movedim(axis, 0).flatten(1).amax(1) / top).clamp_min(SMALLEST).float()


def best_share(weight: Tensor, scale: Tensor, axis: int, top: int) -> Tensor:
    """The share of each channel's range, of ``SHARES``, whose codes leave the least squared error: float32 ``[O]``.

    weight: any shape, channels along ``axis``. scale: of the whole range, ``[O]``.
    """
    rows, best = weight.detach().movedim(axis, 0).flatten(1), torch.full_like(scale, torch.inf)
    found = torch.ones_like(scale)
    for share in SHARES:
        step = (scale * share)[:, None]
        error = (rows - (rows / step).round().clamp(-top, top) * step).square().sum(1)
        better = error < best
        best, found = torch.where(better, error, best), torch.where(better, share, found)
    return found


def affine(low: float, high: float, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Scale and zero point (float32 ``[]``) of codes ``−2^(bits−1) … 2^(bits−1) − 1`` over a range that is widened to hold zero."""
    low, high, least = min(float(low), 0.0), max(float(high), 0.0), -(2 ** (bits - 1))
    scale = torch.tensor(max((high - low) / (2**bits - 1), SMALLEST), dtype=torch.float32)
    zero_point = torch.round(least - low / scale).clamp(least, -least - 1)
    return scale, zero_point


def observer_of(rule: str | Observer, bits: int = 8) -> Observer:
    """The function that a setting names, for codes of so many bits; a function stands for itself. Raises RecipeError for other names."""
    known: dict[str, Observer] = {
        "minmax": observe.minmax,
        "moving_average": observe.moving_average,
        "percentile": histogram.percentile,
        "mse": partial(histogram.mse, levels=2**bits),
        "entropy": partial(histogram.entropy, levels=2**bits),
    }
    return rule_named(rule, known, "observer", kind="an observer", form="(seen, value) → seen")
