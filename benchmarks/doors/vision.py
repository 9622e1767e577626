"""Networks of ours that look at pictures and answer something else than a class."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1, kernel: int = 3, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolution, batch-norm, activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act())


def separable(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Depthwise, then pointwise."""
    return nn.Sequential(block(inputs, inputs, stride=stride, groups=inputs, act=nn.ReLU6), block(inputs, outputs, kernel=1, act=nn.ReLU6))


class UNet(nn.Module):
    """Segmentation: ``[N, 3, 64, 64]`` → ``[N, 5, 64, 64]``. Ronneberger et al. 2015, narrow."""

    def __init__(self) -> None:
        super().__init__()
        widths = (12, 24, 48)
        self.down = nn.ModuleList(block(a, b) for a, b in zip((3, *widths), widths))
        self.deep = block(48, 64)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in ((64, 48), (48, 24), (24, 12)))
        self.up = nn.ModuleList(block(2 * b, b) for b in (48, 24, 12))
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each pixel."""
        kept = []
        for down in self.down:
            x = down(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.deep(x)
        for grow, up in zip(self.grow, self.up):
            x = up(torch.cat([grow(x), kept.pop()], 1))
        return self.head(x)


class Depth(nn.Module):
    """Depth: ``[N, 3, 96, 96]`` → ``[N, 1, 96, 96]``; shortcuts are added, sizes grow bilinearly. After Wofk et al. 2019, "FastDepth"."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 16, stride=2)
        self.down = nn.ModuleList(separable(a, b, stride=2) for a, b in ((16, 32), (32, 64), (64, 96)))
        self.up = nn.ModuleList(separable(a, b) for a, b in ((96, 64), (64, 32), (32, 16)))
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """A number between 0 and 1 for each pixel."""
        x = self.stem(x)
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(x)
        for up in self.up:
            x = F.interpolate(up(x), scale_factor=2, mode="bilinear", align_corners=False) + kept.pop()
        return torch.sigmoid(F.interpolate(self.head(x), scale_factor=2, mode="bilinear", align_corners=False))


class Aspp(nn.Module):
    """Segmentation: ``[N, 3, 64, 64]`` → ``[N, 4, 64, 64]`` by holes of several sizes. Chen et al. 2017, "DeepLab v3"."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, stride=2), separable(16, 32, stride=2))
        self.holes = nn.ModuleList(nn.Conv2d(32, 16, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.whole = nn.Conv2d(32, 16, 1)
        self.mix = block(64, 32, kernel=1)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each pixel."""
        size = x.shape[-2:]
        x = self.stem(x)
        whole = F.relu(self.whole(F.adaptive_avg_pool2d(x, 1)))
        whole = F.interpolate(whole, size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = self.mix(torch.cat([*(F.relu(hole(x)) for hole in self.holes), whole], 1))
        return F.interpolate(self.head(x), size=size, mode="bilinear", align_corners=False)


class Ssd(nn.Module):
    """Detection: ``[N, 3, 96, 96]`` → boxes ``[N, A, 4]`` and scores ``[N, A, 5]`` of three scales. Liu et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, stride=2), separable(16, 32, stride=2))
        self.scales = nn.ModuleList(separable(a, b, stride=2) for a, b in ((32, 48), (48, 64), (64, 64)))
        self.boxes = nn.ModuleList(nn.Conv2d(c, 3 * 4, 3, padding=1) for c in (48, 64, 64))
        self.scores = nn.ModuleList(nn.Conv2d(c, 3 * 5, 3, padding=1) for c in (48, 64, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of every anchor, where and what."""
        x = self.stem(x)
        boxes, scores = [], []
        for scale, box, score in zip(self.scales, self.boxes, self.scores):
            x = scale(x)
            boxes.append(box(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
            scores.append(score(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5))
        return torch.cat(boxes, 1), torch.cat(scores, 1).softmax(-1)


class Yolo(nn.Module):
    """Detection: ``[N, 3, 96, 96]`` → ``[N, A, 7]``, decoded: cross-stage parts, pooled pyramid, two scales. After YOLOv5."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 16, stride=2, act=nn.SiLU)
        self.one, self.two, self.three = (block(a, b, stride=2, act=nn.SiLU) for a, b in ((16, 32), (32, 64), (64, 64)))
        self.split = block(64, 64, kernel=1, act=nn.SiLU)
        self.inner = nn.Sequential(block(32, 32, kernel=1, act=nn.SiLU), block(32, 32, act=nn.SiLU))
        self.pyramid = block(64 * 4, 64, kernel=1, act=nn.SiLU)
        self.join = block(128, 64, act=nn.SiLU)
        self.heads = nn.ModuleList(nn.Conv2d(64, 2 * 7, 1) for _ in range(2))
        for name, size in (("grid0", 12), ("grid1", 6)):
            y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
            self.register_buffer(name, torch.stack([x, y], -1).float().view(1, 1, size, size, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Centre, size, objectness and two classes of every anchor."""
        x = self.two(self.one(self.stem(x)))
        a, b = self.split(x).chunk(2, 1)
        fine = torch.cat([a, b + self.inner(b)], 1)
        deep = self.three(fine)
        pools = [deep]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        deep = self.pyramid(torch.cat(pools, 1))
        fine = self.join(torch.cat([F.interpolate(deep, scale_factor=2.0, mode="nearest"), fine], 1))
        levels = ((fine, self.heads[0], self.grid0, 8.0), (deep, self.heads[1], self.grid1, 16.0))
        return torch.cat([_decoded(head(y), grid, stride) for y, head, grid, stride in levels], 1)


def _decoded(y: Tensor, grid: Tensor, stride: float) -> Tensor:
    n, _, h, w = y.shape
    y = y.view(n, 2, 7, h, w).permute(0, 1, 3, 4, 2).sigmoid()
    place = (y[..., 0:2] * 2 - 0.5 + grid) * stride
    size = (y[..., 2:4] * 2) ** 2 * stride
    return torch.cat([place, size, y[..., 4:]], -1).view(n, -1, 7)


class Espcn(nn.Module):
    """Super-resolution ×2: ``[N, 1, 32, 32]`` → ``[N, 1, 64, 64]``. Shi et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 24, 3, padding=1), nn.Tanh(), nn.Conv2d(24, 4, 3, padding=1)
        )
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """The greater picture."""
        return self.shuffle(self.layers(x))


class DnCnn(nn.Module):
    """Denoising: a picture less the noise that is found in it. Zhang et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), *(block(24, 24) for _ in range(4)), nn.Conv2d(24, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The picture without it."""
        return x - self.layers(x)


class ConvAutoencoder(nn.Module):
    """Pictures through 16 numbers and back: ``[N, 1, 28, 28]``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(block(1, 16, stride=2), block(16, 32, stride=2), nn.Flatten(), nn.Linear(32 * 49, 16))
        self.widen = nn.Linear(16, 32 * 49)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), nn.BatchNorm2d(16), nn.LeakyReLU(0.1), nn.ConvTranspose2d(16, 1, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The picture as it comes back."""
        return self.decoder(F.relu(self.widen(self.encoder(x))).unflatten(1, (32, 7, 7))).sigmoid()


class Hourglass(nn.Module):
    """Key points: ``[N, 3, 64, 64]`` → ``[N, 6, 16, 16]`` heat maps. After Newell et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 24, stride=2), block(24, 32, stride=2))
        self.down = nn.ModuleList(block(32, 32) for _ in range(3))
        self.side = nn.ModuleList(block(32, 32) for _ in range(3))
        self.up = nn.ModuleList(block(32, 32) for _ in range(3))
        self.head = nn.Conv2d(32, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A map for each point."""
        x = self.stem(x)
        kept = []
        for down, side in zip(self.down, self.side):
            kept.append(side(x))
            x = down(F.avg_pool2d(x, 2))
        for up in self.up:
            x = F.interpolate(up(x), scale_factor=2, mode="nearest") + kept.pop()
        return self.head(x)


class TwoHeads(nn.Module):
    """Several outputs: ``[N, 3, 64, 64]`` → a class of seven, a box, an embedding of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(block(3, 16, stride=2), separable(16, 32, stride=2), separable(32, 64, stride=2))
        self.classes, self.box, self.embed = nn.Linear(64, 7), nn.Linear(64, 4), nn.Linear(64, 24)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What, where, who."""
        x = self.trunk(x).mean((2, 3))
        return self.classes(x), torch.sigmoid(self.box(x)), F.normalize(self.embed(x), dim=1)


class TwoInputs(nn.Module):
    """Several inputs: a picture ``[N, 1, 32, 32]`` and eight readings ``[N, 8]`` → three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(block(1, 12, stride=2), block(12, 24, stride=2))
        self.read = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(40, 24), nn.Hardswish(), nn.Linear(24, 3))

    def forward(self, picture: Tensor, readings: Tensor) -> Tensor:
        """What both tell together."""
        seen = F.adaptive_avg_pool2d(self.look(picture), 1).flatten(1)
        return self.head(torch.cat([seen, self.read(readings)], 1))
