"""Small networks of many kinds, for tests that must hold for all of them: name → (module, example inputs)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InvertedResiduals(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, ReLU6, in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.block = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU6(inplace=True),
            nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU6(inplace=True),
            nn.Conv2d(24, 8, 1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.fc(self.drop(x.mean((2, 3))))


class Sensor(nn.Module):
    """1-D convolutions over a sensor window, flattened in the network's own order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(6, 12, 5, stride=2, padding=2), nn.BatchNorm1d(12)
        self.conv2 = nn.Conv1d(12, 16, 3, padding=1, groups=4)
        self.fc1, self.bn2, self.fc2 = nn.Linear(16 * 4, 24), nn.BatchNorm1d(24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.avg_pool1d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.bn2(self.fc1(x.view(x.size(0), -1)))))


class Attention(nn.Module):
    """One encoder block over a sequence of vectors, with a class token and positions."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, 16), nn.Parameter(torch.randn(1, 11, 16) * 0.1)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.norm1, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head, self.causal = nn.Linear(16, 3), causal

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.size(0), -1, -1), self.embed(x)], 1) + self.position
        b, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).reshape(b, length, width))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x[:, 0])


class Dense(nn.Module):
    """DenseNet's pre-activation: batch-norm and ReLU before the convolution, concatenation of all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 3, padding=1)
        self.bn3, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.bn2(x)))], 1)
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn3(x)), 1).flatten(1))


class UNet(nn.Module):
    """An encoder and a decoder with skips; dense output."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.mix, self.last = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        c = F.relu(self.mix(torch.cat([self.up1(b), a], 1)))
        up = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")
        return self.last(torch.cat([c, up], 1))


class TwoInputs(nn.Module):
    """A picture and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(1, 4, 3, 2), nn.Linear(5, 8), nn.Linear(4 * 9 + 8, 3)

    def forward(self, picture: Tensor, vector: Tensor) -> Tensor:
        a = torch.tanh(self.conv(picture)).flatten(1)
        return self.head(torch.cat([a, torch.sigmoid(self.fc(vector))], 1))


class TwoOutputs(nn.Module):
    """Classes and a box, from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.classes, self.box = nn.Linear(12, 16), nn.Linear(16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.trunk(x))
        return self.classes(x), self.box(x).sigmoid()


class Recurrent(nn.Module):
    """A two-layer bidirectional GRU, or an LSTM, read at its last step."""

    def __init__(self, kind: type[nn.Module] = nn.GRU) -> None:
        super().__init__()
        self.cell = kind(5, 7, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.cell(x)
        return self.head(y[:, -1])


class Shared(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bn, self.head = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.layer(x)))
        return self.head(F.relu(self.layer(x)).flatten(1))


class Encoder(nn.Module):
    """torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Squeeze(nn.Module):
    """Squeeze-and-excitation with hard-swish, a strided and padded stem, and a flatten that sees channel order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(F.pad(x, (0, 1, 0, 1))))
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(F.leaky_relu(x * gate, 0.1).flatten(1))


def noise(*shape: int) -> Tensor:
    """Normal noise, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "inverted residuals": lambda: (InvertedResiduals(), (noise(3, 3, 12, 12),)),
    "sensor": lambda: (Sensor(), (noise(3, 6, 32),)),
    "attention": lambda: (Attention(), (noise(3, 10, 6),)),
    "causal attention": lambda: (Attention(causal=True), (noise(3, 10, 6),)),
    "pre-activation": lambda: (Dense(), (noise(3, 3, 8, 8),)),
    "u-net": lambda: (UNet(), (noise(3, 1, 8, 8),)),
    "two inputs": lambda: (TwoInputs(), (noise(3, 1, 8, 8), noise(3, 5))),
    "two outputs": lambda: (TwoOutputs(), (noise(3, 12),)),
    "gru": lambda: (Recurrent(), (noise(3, 6, 5),)),
    "lstm": lambda: (Recurrent(nn.LSTM), (noise(3, 6, 5),)),
    "shared": lambda: (Shared(), (noise(3, 4, 6, 6),)),
    "encoder": lambda: (Encoder(), (noise(3, 7, 16),)),
    "squeeze": lambda: (Squeeze(), (noise(3, 3, 8, 8),)),
}


def made(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network of ``NETWORKS`` with weights and running statistics that differ from channel to channel, the same each time."""
    torch.manual_seed(0)
    module, example = NETWORKS[name]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module, example
