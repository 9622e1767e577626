"""Augmentation: whole pictures, moved and mirrored; the same generator, the same samples."""

import torch

from karui.datasets import augment


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pad_crop_flip_moves_and_mirrors_whole_pictures() -> None:
    x = torch.arange(1, 1 + 2 * 5 * 6, dtype=torch.uint8).reshape(1, 2, 5, 6).expand(200, -1, -1, -1)
    y = augment.pad_crop_flip(x, generator(0), padding=2)
    assert y.dtype is torch.uint8 and y.shape == x.shape
    padded = torch.nn.functional.pad(x[0], (2, 2, 2, 2))
    allowed = {tuple(view[:, i : i + 5, j : j + 6].flatten().tolist()) for i in range(5) for j in range(5) for view in (padded,)}
    allowed |= {tuple(torch.tensor(each).reshape(2, 5, 6).flip(2).flatten().tolist()) for each in allowed}
    seen = {tuple(each.flatten().tolist()) for each in y}
    assert seen <= allowed and len(seen) > 30  # of 50
    assert torch.equal(y, augment.pad_crop_flip(x, generator(0), padding=2))
    assert not torch.equal(y, augment.pad_crop_flip(x, generator(1), padding=2))


def test_flip_can_be_left_out_and_zero_padding_keeps_the_place() -> None:
    x = torch.rand(50, 1, 4, 4)
    assert torch.equal(augment.pad_crop_flip(x, generator(0), padding=0, flip=False), x)
    flipped = augment.pad_crop_flip(x, generator(0), padding=0)
    same = (flipped == x).flatten(1).all(1)
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all()) and 10 < int(mirrored.sum()) < 40


def test_jitter_keeps_shape_and_is_repeatable() -> None:
    x = torch.randn(64, 6, 128)
    y = augment.jitter(x, generator(0))
    assert y.shape == x.shape and torch.equal(y, augment.jitter(x, generator(0)))
    still = augment.jitter(x, generator(0), shift=0, stretch=0.0, noise=0.0)
    assert torch.equal(still, x)
    moved = augment.jitter(x, generator(0), shift=3, stretch=0.0, noise=0.0)
    assert all(any(torch.equal(a[:, 3:-3], torch.roll(b, s, 1)[:, 3:-3]) for s in range(-3, 4)) for a, b in zip(moved, x, strict=True))
