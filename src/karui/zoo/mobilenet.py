"""MobileNet V1 and V2 with a width multiplier; from 224 × 224 pictures down to 32 × 32, for which the stem keeps the resolution.

Howard et al. 2017, "MobileNets", table 1; Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2.
"""

import torch
from torch import nn
from torch.nn import functional as F

V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))  # (channels, stride)
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # (t, c, n, s)
SMALL = 32


def scaled(channels: int, width: float) -> int:
    """``channels · width`` to the nearest multiple of 8, at least 8 and never below 90 % of what was asked for."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class Separable(nn.Module):
    """A 3 × 3 depthwise convolution and a 1 × 1 across channels, each with batch-norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class MobileNetV1(nn.Module):
    """A strided stem and thirteen separable blocks: ``[N, channels, H, W]`` → ``[N, classes]``."""

    def __init__(self, *, width: float, classes: int, channels: int, size: int) -> None:
        super().__init__()
        inputs = scaled(32, width)
        self.conv1 = nn.Conv2d(channels, inputs, 3, 1 if size <= SMALL else 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        blocks: list[nn.Module] = []
        for each, stride in V1:
            blocks.append(Separable(inputs, scaled(each, width), stride))
            inputs = scaled(each, width)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Inverted(nn.Module):
    """An inverted residual: 1 × 1 wider by ``expansion``, 3 × 3 depthwise, 1 × 1 narrow and linear; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        self.layers = nn.Sequential(
            *(expand if expansion > 1 else []),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.same else y


class MobileNetV2(nn.Module):
    """A strided stem, seventeen inverted residuals, a 1 × 1 head: ``[N, channels, H, W]`` → ``[N, classes]``."""

    def __init__(self, *, width: float, classes: int, channels: int, size: int) -> None:
        super().__init__()
        inputs, head = scaled(32, width), scaled(1280, max(1.0, width))
        self.conv1 = nn.Conv2d(channels, inputs, 3, 1 if size <= SMALL else 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        blocks: list[nn.Module] = []
        for expansion, each, repeats, stride in V2:
            for i in range(repeats):
                blocks.append(Inverted(inputs, scaled(each, width), stride if i == 0 else 1, expansion))
                inputs = scaled(each, width)
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(inputs, head, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(head)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(head, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu6(self.bn1(self.conv1(x))))
        x = F.relu6(self.bn2(self.conv2(x)))
        return self.fc(self.drop(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))


def mobilenet_v1(width: float = 0.25, classes: int = 2, channels: int = 3, size: int = 96) -> nn.Module:
    """MobileNet V1; as it stands, MLPerf Tiny's network for "is there a person?" (96 × 96, 0.25 wide). size: the pictures' height."""
    return MobileNetV1(width=width, classes=classes, channels=channels, size=size)


def mobilenet_v2(width: float = 1.0, classes: int = 1000, channels: int = 3, size: int = 224) -> nn.Module:
    """MobileNet V2; as it stands, the ImageNet network of 3,504,872 parameters. size: the pictures' height."""
    return MobileNetV2(width=width, classes=classes, channels=channels, size=size)
