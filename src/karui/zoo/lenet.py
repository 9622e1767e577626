"""LeNet-300-100 and LeNet-5 for 28 × 28 grey pictures.

LeCun et al. 1998, "Gradient-based learning applied to document recognition"; the widths are those of Caffe's examples, which Han et al.
2015 and the pruning papers after it report on (266,610 and 431,080 parameters).
"""

import torch
from torch import nn
from torch.nn import functional as F


class LeNet300(nn.Module):
    """Two hidden layers of 300 and 100 units: ``[N, 1, 28, 28]`` → ``[N, classes]``."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


class LeNet5(nn.Module):
    """Two 5 × 5 convolutions (20, 50), then 500 units: ``[N, 1, 28, 28]`` → ``[N, classes]``."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)


def lenet300(classes: int = 10) -> nn.Module:
    """LeNet-300-100, 266,610 parameters for ten classes."""
    return LeNet300(classes)


def lenet5(classes: int = 10) -> nn.Module:
    """LeNet-5 in Caffe's widths, 431,080 parameters for ten classes."""
    return LeNet5(classes)
