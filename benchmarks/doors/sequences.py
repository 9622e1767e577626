"""Networks of ours for sequences: words, sounds, sensors."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Words(nn.Module):
    """Keyword spotting: ``[N, 49, 10]`` MFCCs → twelve scores, two GRUs."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(10, 48, num_layers=2, batch_first=True)
        self.head = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        """What was said."""
        return self.head(self.gru(x)[0][:, -1])


class Sensor(nn.Module):
    """Readings to come: ``[N, 64, 6]`` → ``[N, 6]``, an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 32, batch_first=True)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        """The next reading."""
        _, (h, _) = self.lstm(x)
        return self.head(h[-1])


class Tagger(nn.Module):
    """A tag for each step: ``[N, 24, 16]`` → ``[N, 24, 5]``, an LSTM in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each step."""
        return self.head(self.lstm(x)[0])


class Causal(nn.Module):
    """A convolution that looks back only, and a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.conv = nn.Conv1d(width, width, 3, dilation=dilation)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """The same length."""
        return F.relu(x + self.norm(self.conv(F.pad(x, (self.past, 0)))))


class Tcn(nn.Module):
    """A machine's health: ``[N, 6, 128]`` → one number, by convolutions with holes. Bai et al. 2018."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 24, 1)
        self.blocks = nn.Sequential(*(Causal(24, 2**i) for i in range(4)))
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The number."""
        return self.head(self.blocks(self.stem(x))[:, :, -1])


class Gated(nn.Module):
    """A sound, sample by sample: ``[N, 1, 256]`` → ``[N, 1, 256]``, gates and skips. van den Oord et al. 2016, "WaveNet"."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 3, padding=2**i, dilation=2**i) for i in range(4))
        self.outs = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(4))
        self.skips = nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in range(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(24, 16, 1), nn.ReLU(), nn.Conv1d(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The sound as it should be."""
        x = self.stem(x)
        kept = []
        for gate, out, skip in zip(self.gates, self.outs, self.skips):
            filtered, gated = gate(x).chunk(2, 1)
            y = torch.tanh(filtered) * torch.sigmoid(gated)
            kept.append(skip(y))
            x = x + out(y)
        return self.head(torch.stack(kept).sum(0))


class Sound(nn.Module):
    """A sound through a narrow place and back: ``[N, 1, 512]``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, 16, 8, 4, 2), nn.ELU(), nn.Conv1d(16, 32, 8, 4, 2), nn.ELU(), nn.Conv1d(32, 8, 1))
        self.decoder = nn.Sequential(nn.ConvTranspose1d(8, 16, 8, 4, 2), nn.ELU(), nn.ConvTranspose1d(16, 1, 8, 4, 2), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """The sound as it comes back."""
        return self.decoder(self.encoder(x))


class Voice(nn.Module):
    """Is somebody speaking: ``[N, 40, 32]`` spectra → ``[N, 32]`` probabilities and an embedding: convolutions, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(40, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU())
        self.gru = nn.GRU(32, 24, batch_first=True)
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each step, and of the whole."""
        y, h = self.gru(self.conv(x).transpose(1, 2))
        return torch.sigmoid(self.head(y)).squeeze(-1), h[-1]


class Text(nn.Module):
    """A sentence's embedding: ``[N, 24]`` tokens of 500 → ``[N, 48]``, two layers of torch's encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(500, 48)
        self.places = nn.Parameter(torch.randn(24, 48) * 0.1)
        layer = nn.TransformerEncoderLayer(48, 4, 96, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Of length 1."""
        return F.normalize(self.encoder(self.words(tokens) + self.places).mean(1), dim=-1)


def _dense(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]


def machine_sounds() -> nn.Module:
    """MLPerf Tiny's anomaly detection, as its rules describe it: 640 → 128 ×4 → 8 → 128 ×4 → 640."""
    sizes = (640, *(128,) * 4, 8, *(128,) * 4)
    return nn.Sequential(*(layer for a, b in zip(sizes, sizes[1:]) for layer in _dense(a, b)), nn.Linear(128, 640))


class BertLayer(nn.Module):
    """Attention and two dense layers, each with a shortcut and a norm behind it. Vaswani et al. 2017."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """mask: added to the scores, ``[N, 1, 1, L]``."""
        n, length, width = x.shape
        q, k, v = (f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + mask
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)
        x = self.norm1(x + self.out(seen))
        return self.norm2(x + self.narrow(F.gelu(self.widen(x))))


class MiniLm(nn.Module):
    """all-MiniLM-L6-v2: tokens and mask ``[N, 32]`` → a sentence's embedding ``[N, 384]``. Wang et al. 2020; Reimers and Gurevych 2019."""

    def __init__(self, *, vocabulary: int = 30522, width: int = 384, layers: int = 6, heads: int = 12) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(vocabulary, width), nn.Embedding(512, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(width, heads, 4 * width) for _ in range(layers))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The mean over the tokens that count, of length 1."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.places(places) + self.kinds(torch.zeros_like(places)))
        counts = mask.to(x.dtype)
        for layer in self.layers:
            x = layer(x, (1 - counts)[:, None, None, :] * -1e4)
        counts = counts.unsqueeze(-1)
        return F.normalize((x * counts).sum(1) / counts.sum(1).clamp(min=1e-9), dim=1)

    def fill(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a BERT checkpoint in the names of the transformers package."""
        names = {"words": "word", "places": "position", "kinds": "token_type"}
        own = {f"{a}.weight": f"embeddings.{b}_embeddings.weight" for a, b in names.items()}
        own |= {f"norm.{p}": f"embeddings.LayerNorm.{p}" for p in ("weight", "bias")}
        parts = {"query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value"}
        parts |= {"out": "attention.output.dense", "norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
        parts |= {"widen": "intermediate.dense", "narrow": "output.dense"}
        for i in range(len(self.layers)):
            own |= {f"layers.{i}.{a}.{p}": f"encoder.layer.{i}.{b}.{p}" for a, b in parts.items() for p in ("weight", "bias")}
        self.load_state_dict({a: weights[b] for a, b in own.items()})
