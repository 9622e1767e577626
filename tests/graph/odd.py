"""Forwards that can't be captured; the comment ``# here`` marks the line that the message must name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Odd(nn.Module):
    """A module whose forward is given."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("average", torch.zeros(4))
        self.register_buffer("steps", torch.tensor(0))


class Branches(Odd):
    def forward(self, x: Tensor) -> Tensor:
        y = self.l(x)
        if y.sum() > 0:  # here
            return y
        return -y


class Loops(Odd):
    def forward(self, x: Tensor) -> Tensor:
        while x.sum() < 100:  # here
            x = x + 100
        return self.l(x)


class ReadsItem(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x) * x.max().item()  # here


class PicksRows(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x)[x[:, 0].abs().ge(0).nonzero()[:, 0]]  # here


class FixedView(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x).view(2, 4)  # here


class FixedZeros(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x) + torch.zeros(2, 4)  # here


class OverSamples(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.l(x[i : i + 1]) for i in range(x.shape[0])])  # here


class UsesLen(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x).reshape(len(x), 2, 2)  # here


class LeavesTorch(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x) + torch.from_numpy(x.detach().numpy())  # here


class Counts(Odd):
    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1  # here
        return self.l(x)


class Averages(Odd):
    def forward(self, x: Tensor) -> Tensor:
        self.average.mul_(0.9).add_(x.mean(0), alpha=0.1)  # here
        return self.l(x) + self.average


class SetsSlice(Odd):
    def forward(self, x: Tensor) -> Tensor:
        y = self.l(x)
        y[:, 0] = 0  # here
        return y


class ThroughView(Odd):
    def forward(self, x: Tensor) -> Tensor:
        y = self.l(x)
        y.view(-1, 2, 2).relu_()  # here
        return y


class WrongShape(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x.view(-1, 3))  # here


class NoGrad(Odd):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.l(x)
        return self.bn(y)


class Constant(Odd):
    def forward(self, x: Tensor) -> Any:
        return {"y": self.l(x), "classes": 3}


class Scalar(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.l(x).sum()


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class HidesNoise(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.noise(self.l(x)))


class Cumulative(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(4, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.l(x))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x)


# A word of the message, and whether the marked line is named.
ODD: dict[Callable[[], nn.Module], tuple[str, bool]] = {
    Branches: ("torch.where", True),
    Loops: ("torch.where", True),
    ReadsItem: (".item()", True),
    PicksRows: ("nonzero", True),
    FixedView: ("batch size", True),
    FixedZeros: ("batch size", True),
    OverSamples: ("batch size", True),
    UsesLen: ("not len(x)", True),
    LeavesTorch: (".numpy()", True),
    Counts: ("'steps'", True),
    Averages: ("'average'", True),
    SetsSlice: ("shares memory", True),
    ThroughView: ("shares memory", True),
    WrongShape: ("the example", True),
    NoGrad: ("requires_grad_(False)", False),
    Constant: ("'classes'", False),
    Scalar: ("one row per sample", False),
    HidesNoise: ("'noise' (Noise)", False),
    Cumulative: ("momentum=0.1", False),
    Lazy: ("lazy", False),
}
