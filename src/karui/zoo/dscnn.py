"""DS-CNN for keyword spotting: MLPerf Tiny's shape of Zhang et al. 2017, "Hello edge: keyword spotting on microcontrollers"."""

import torch
from torch import nn
from torch.nn import functional as F


class Separable(nn.Module):
    """A 3 × 3 depthwise convolution, then a 1 × 1 across channels, each with batch-norm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class DSCNN(nn.Module):
    """A strided 10 × 4 convolution over 49 frames of 10 MFCCs, four separable blocks: ``[N, 1, 49, 10]`` → ``[N, classes]``."""

    def __init__(self, classes: int = 12, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.drop1 = nn.Dropout(0.2)
        self.blocks = nn.Sequential(*(Separable(width) for _ in range(4)))
        self.drop2 = nn.Dropout(0.4)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop1(F.relu(self.bn1(self.conv1(x))))
        x = self.drop2(self.blocks(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def ds_cnn(classes: int = 12, width: int = 64) -> nn.Module:
    """DS-CNN, 23,180 parameters for twelve words (its convolutions before a batch-norm carry no bias)."""
    return DSCNN(classes, width)
