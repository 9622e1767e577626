"""Augmentation: functions of (samples as stored, generator) for ``ArrayPart.augment``; give other settings with ``functools.partial``.

The same generator state gives the same samples. Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural
networks", §4.1, for crops and reflections; He et al. 2016, "Deep residual learning", §4.2, for their form on small pictures.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_crop_flip(samples: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Pictures [N, C, H, W] padded with zeros (black, for bytes), cropped back at a random place, and left-right flipped half the time."""
    n, _, height, width = samples.shape
    columns = torch.arange(width).repeat(n, 1)
    if flip:
        flipped = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    start = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator)
    rows = torch.arange(height) + start[0]
    padded = F.pad(samples, (padding,) * 4).permute(0, 2, 3, 1)
    picked = padded[torch.arange(n)[:, None, None], rows[:, :, None], (columns + start[1])[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def jitter(samples: Tensor, generator: torch.Generator, *, shift: int = 8, stretch: float = 0.1, noise: float = 0.02) -> Tensor:
    """Sensor windows [N, C, T] moved in time by up to ``shift`` steps (the ends stay), scaled by 1 ± ``stretch``, with added noise.

    noise: its standard deviation as a part of each sample's own.
    """
    n, _, length = samples.shape
    at = (torch.arange(length) + torch.randint(-shift, shift + 1, (n, 1), generator=generator)).clamp(0, length - 1)
    moved = samples.gather(2, at[:, None, :].expand_as(samples))
    factor = 1 + stretch * (2 * torch.rand(n, 1, 1, generator=generator) - 1)
    rough = torch.randn(samples.shape, generator=generator) * samples.std(dim=(1, 2), keepdim=True) * noise
    return moved * factor + rough
