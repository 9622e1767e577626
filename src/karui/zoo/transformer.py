"""A small transformer encoder over a sensor window, cut into patches of time.

Vaswani et al. 2017, "Attention is all you need", with the normalisation before each part (Xiong et al. 2020, "On layer normalization in
the transformer architecture") and learned places; patches as in Dosovitskiy et al. 2021, "An image is worth 16x16 words", in one dimension.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention of several heads: ``[N, T, width]`` → the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self._split(each(x)) for each in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """[N, T, width] → [N, heads, T, width / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a layer-norm and around a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Encoder(nn.Module):
    """Patches, places, blocks, a mean over time: ``[N, channels, length]`` → ``[N, classes]``."""

    def __init__(self, *, classes: int, channels: int, length: int, patch: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(channels, width, patch, patch)
        self.places = nn.Parameter(torch.randn(1, length // patch, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).transpose(1, 2) + self.places
        return self.fc(self.norm(self.blocks(x)).mean(1))


def transformer(
    classes: int = 6, channels: int = 6, length: int = 128, patch: int = 8, width: int = 32, heads: int = 4, depth: int = 2
) -> nn.Module:
    """The encoder, 19,430 parameters for six classes: two blocks of four heads over 16 patches of 8 steps."""
    return Encoder(classes=classes, channels=channels, length=length, patch=patch, width=width, heads=heads, depth=depth)
