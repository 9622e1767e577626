"""Residual networks for small pictures (He et al. 2016, "Deep residual learning", §4.2) and their ImageNet shapes (table 1)."""

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1 with four times the width at the end; the stride sits in the 3 × 3."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut: the identity where shapes agree, else a strided 1 × 1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A stem, stages of blocks of which each but the first halves the resolution, global average pooling, a linear classifier."""

    def __init__(
        self, block: type[nn.Module], depths: list[int], widths: list[int], *, classes: int, channels: int, large_stem: bool = False
    ) -> None:
        super().__init__()
        first = 64 if large_stem else widths[0]
        self.conv1 = nn.Conv2d(channels, first, 7, 2, 3, bias=False) if large_stem else nn.Conv2d(channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.pool = nn.MaxPool2d(3, 2, 1) if large_stem else nn.Identity()
        blocks: list[nn.Module] = []
        inputs = first
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for i in range(depth):
                blocks.append(block(inputs, width, 2 if i == 0 and stage > 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.blocks(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def resnet8(classes: int = 10, channels: int = 3) -> nn.Module:
    """MLPerf Tiny's image-classification shape: three blocks of 16, 32, 64 channels."""
    return ResNet(BasicBlock, [1, 1, 1], [16, 32, 64], classes=classes, channels=channels)


def resnet20(classes: int = 10, channels: int = 3) -> nn.Module:
    """He et al.'s CIFAR network with n = 3: nine blocks of 16, 32, 64 channels."""
    return ResNet(BasicBlock, [3, 3, 3], [16, 32, 64], classes=classes, channels=channels)


def resnet18(classes: int = 1000, channels: int = 3) -> nn.Module:
    """The 18-layer ImageNet network."""
    return ResNet(BasicBlock, [2, 2, 2, 2], [64, 128, 256, 512], classes=classes, channels=channels, large_stem=True)


def resnet50(classes: int = 1000, channels: int = 3) -> nn.Module:
    """The 50-layer ImageNet network."""
    return ResNet(Bottleneck, [3, 4, 6, 3], [256, 512, 1024, 2048], classes=classes, channels=channels, large_stem=True)
