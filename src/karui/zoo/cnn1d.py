"""A 1-D convolutional network over windows of a sensor: six channels (accelerometer and gyroscope), 128 steps."""

import torch
from torch import nn
from torch.nn import functional as F


class CNN1d(nn.Module):
    """Three convolutions with batch-norm, two of them pooled, a mean over time: ``[N, channels, T]`` → ``[N, classes]``."""

    def __init__(self, classes: int = 6, channels: int = 6, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, width, 5, 1, 2, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, 2 * width, 5, 1, 2, bias=False)
        self.bn2 = nn.BatchNorm1d(2 * width)
        self.conv3 = nn.Conv1d(2 * width, 2 * width, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm1d(2 * width)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool1d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean(2))


def cnn1d(classes: int = 6, channels: int = 6, width: int = 32) -> nn.Module:
    """The 1-D CNN, 24,198 parameters for six classes."""
    return CNN1d(classes, channels, width)
