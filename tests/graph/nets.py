"""Small networks of every shape that the graph must hold, each with an example; and a few that it must refuse."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.graph.doors.torch import capture
from karui.graph.network import Network

R = torch.randn


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d, self.c = nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.3), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.d(F.relu(self.b(self.a(x.view(x.size(0), -1))))))


class Block(nn.Module):
    """A residual block in the in-place style of most zoos."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.c2, self.b2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.r = nn.ReLU(inplace=True)
        self.d = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.b2(self.c2(self.r(self.b1(self.c1(x)))))
        y += x if self.d is None else self.d(x)
        return self.r(y)


class ResNet(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.c, self.b, self.r = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.l = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2))
        self.p, self.f = nn.AdaptiveAvgPool2d(1), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.p(self.l(self.r(self.b(self.c(x)))))
        return self.f(x.view(x.size(0), -1))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        h = inputs * 4
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [nn.Conv2d(inputs, h, 1, bias=False), nn.BatchNorm2d(h), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(h, h, 3, stride, 1, groups=h, bias=False), nn.BatchNorm2d(h), nn.ReLU6(inplace=True)]
        self.m = nn.Sequential(*layers, nn.Conv2d(h, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.m(x) if self.residual else self.m(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.b, self.d, self.f = nn.Sequential(Inverted(8, 8, 1), Inverted(8, 16, 2)), nn.Dropout(0.1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.d(self.b(self.s(x)).mean([2, 3])))


def ds_cnn() -> nn.Module:
    c = 16
    first = [nn.Conv2d(1, c, (10, 4), 2, (5, 1)), nn.BatchNorm2d(c), nn.ReLU(), nn.Dropout2d(0.2)]
    separable = [nn.Conv2d(c, c, 3, 1, 1, groups=c), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1), nn.BatchNorm2d(c), nn.ReLU()]
    return nn.Sequential(*first, *separable, nn.AvgPool2d((25, 5)), nn.Flatten(), nn.Linear(c, 12))


def cnn1d() -> nn.Module:
    body = [nn.Conv1d(3, 8, 5, padding="same"), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4))


class Encoder(nn.Module):
    """torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.i = nn.Parameter(torch.randn(1, 10, 16) * 0.1), nn.Linear(6, 16)
        self.e, self.o = nn.TransformerEncoderLayer(16, 4, 32, 0.1, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.e(self.i(x) + self.p).mean(1))


class Attention(nn.Module):
    """Attention written by hand, with dropout inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.q, self.o, self.h = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16), 4

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.q(self.n(x)).view(b, t, 3, self.h, c // self.h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        return x + self.o(y.transpose(1, 2).reshape(b, t, c))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Conv1d(2, 8, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x), self.b(y).mean(-1)], 1))


class TwoOutputs(nn.Module):
    def __init__(self, names: bool) -> None:
        super().__init__()
        self.a, self.b, self.c, self.names = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3), names

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.a(x))
        return {"age": self.b(x), "kind": self.c(x)} if self.names else (self.b(x), (self.c(x), None))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.u, self.c, self.o = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        return self.o(F.relu(self.c(torch.cat([self.u(b), a], 1))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.g, self.o = kind(3, 8, 2, batch_first=True, dropout=0.2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.g(x)[0][:, -1])


class DenseNet(nn.Module):
    """Pre-activation: each batch-norm comes before its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.c0 = nn.Conv2d(1, 8, 3, padding=1)
        self.n = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(12)])
        self.c = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)])
        self.o = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c0(x)
        for norm, conv in zip(self.n, self.c):
            x = torch.cat([x, conv(F.relu(norm(x), inplace=True))], 1)
        return self.o(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Shared(nn.Module):
    """Tied embeddings, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.l, self.d = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.d.weight = self.e.weight

    def forward(self, t: Tensor) -> Tensor:
        return self.d(F.relu(self.l(F.relu(self.l(self.e(t))))).mean(1))


class DropPath(nn.Module):
    """Stochastic depth as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        r = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
        r.div_(0.5)
        return x * r


class Chances(nn.Module):
    """Every layer that behaves otherwise in training, apart from the common ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.p, self.r, self.d = nn.Linear(4, 4), DropPath(), nn.RReLU(), nn.AlphaDropout(0.1)
        self.i = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.i((x + self.p(self.a(x))).unsqueeze(1).expand(-1, 3, -1)).flatten(1) + self.r(x).repeat(1, 3))


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.r, self.e = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.h, self.o = nn.Hardswish(inplace=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.h(self.c(x))
        x = x * F.hardsigmoid(self.e(F.relu(self.r(x.mean((2, 3), keepdim=True)))))
        return self.o(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 2)

    def forward(self, *x: Tensor) -> Tensor:
        return self.l(x[0] + x[1])


def activations() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2), nn.GELU(), nn.PReLU())


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "mlp": (MLP, (R(3, 1, 4, 4),)),
    "resnet": (ResNet, (R(2, 3, 8, 8),)),
    "mobilenet_v2": (MobileNetV2, (R(2, 3, 8, 8),)),
    "ds_cnn": (ds_cnn, (R(2, 1, 49, 10),)),
    "cnn1d": (cnn1d, (R(2, 3, 32),)),
    "encoder": (Encoder, (R(2, 10, 6),)),
    "attention": (Attention, (R(2, 5, 16),)),
    "two_inputs": (TwoInputs, (R(2, 4), R(2, 2, 9))),
    "two_outputs": (lambda: TwoOutputs(False), (R(2, 4),)),
    "named_outputs": (lambda: TwoOutputs(True), (R(1, 4),)),
    "unet": (UNet, (R(2, 1, 8, 8),)),
    "gru": (lambda: Recurrent(nn.GRU), (R(2, 7, 3),)),
    "lstm": (lambda: Recurrent(nn.LSTM), (R(2, 7, 3),)),
    "rnn": (lambda: Recurrent(nn.RNN), (R(2, 7, 3),)),
    "densenet": (DenseNet, (R(2, 1, 6, 6),)),
    "shared": (Shared, (torch.randint(0, 20, (2, 6)),)),
    "chances": (Chances, (R(2, 4),)),
    "squeeze": (Squeeze, (R(2, 3, 8, 8),)),
    "many": (Many, (R(2, 4), R(2, 4))),
    "activations": (activations, (R(2, 4),)),
}


@functools.cache
def _captured(name: str) -> tuple[nn.Module, Network]:
    make, example = NETS[name]
    torch.manual_seed(0)
    module = make()
    return module, capture(module, example)


def module_and_network(name: str) -> tuple[nn.Module, Network]:
    """A network of the list and its capture, made once and copied for each test."""
    module, network = _captured(name)
    return copy.deepcopy(module), network.copy()


def network_of(name: str) -> Network:
    """The capture of a network of the list."""
    return _captured(name)[1].copy()
