"""Coupling through ops that split an axis or put it together anew, through norms, and through attention."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.errors import RecipeError
from karui.graph.coupling import coupling, remove_channels
from karui.graph.doors.torch import capture
from karui.zoo.transformer import transformer
from tests.graph.cutting import X4, cut_by_zero, groups, net


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def worn(channels: int) -> nn.BatchNorm2d:
    """A batch-norm with statistics and weights of its own."""
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        nn.init.uniform_(tensor, 0.5, 2)
    return norm


def spelled(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What it computes in evaluation, op by op."""
    mean, variance, weight, bias = (v[None, :, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(variance + norm.eps) * weight + bias


@pytest.mark.parametrize(
    ("forward", "layers", "units"),
    [
        (lambda m, x: m.head(mean(m.b(m.a(x)))), {"b": nn.Conv2d(8, 8, 1, groups=2, bias=False)}, 4),
        (lambda m, x: m.head(mean(m.b(m.a(x)))), {"b": nn.Conv2d(8, 8, 1, groups=4)}, 2),
        (lambda m, x: m.head(mean(m.b(m.a(x)))), {"b": nn.ConvTranspose2d(8, 8, 2, groups=2)}, 4),
        (lambda m, x: m.head(mean(m.b(m.a(x)))), {"b": nn.ConvTranspose2d(8, 8, 2, groups=8)}, 8),
        (lambda m, x: m.head(mean(torch.cat(m.a(x).chunk(2, 1)[::-1], 1))), {}, 8),
        (lambda m, x: m.head(mean(torch.cat(m.a(x).split([2, 3, 3], 1)[::-1], 1))), {}, 8),
        (lambda m, x: m.head(mean(torch.cat([y * i for i, y in enumerate(m.a(x).tensor_split(3, 1), 1)], 1))), {}, 8),
        (lambda m, x: m.b(F.glu(m.a(x), 1)).mean((1, 2, 3)), {"b": nn.Conv2d(4, 3, 1)}, 4),
        (lambda m, x: m.head(mean(F.glu(m.a(x), 3))), {}, 8),
        (lambda m, x: m.head(mean(torch.cat([m.a(x)[:, 5:], m.a(x)[:, :5]], 1))), {}, 8),
        (lambda m, x: m.head(mean(m.a(x).view(-1, 2, 4, 6, 6).flatten(1, 2))), {}, 4),
        (lambda m, x: m.head(mean(m.a(x).view(-1, 2, 4, 6, 6).transpose(1, 2).flatten(1, 2))), {}, 4),
        (lambda m, x: m.head(mean(F.channel_shuffle(m.a(x), 4))), {}, 2),
        (lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)).mean((1, 2, 3)), {"b": nn.Conv2d(2, 3, 1)}, 2),
        (lambda m, x: m.b(F.pixel_unshuffle(m.a(x), 2)).mean((1, 2, 3)), {"b": nn.Conv2d(32, 3, 1)}, 8),
        (lambda m, x: m.head((m.a(x) + F.pad(m.b(x), (0, 0, 0, 0, 2, 3))).mean((2, 3))), {"b": nn.Conv2d(3, 3, 3)}, 3),
        (lambda m, x: m.head(mean(m.a(x) + m.b(m.c(x)))), {"c": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 8, 1, groups=4)}, 4),
        (lambda m, x: m.head(mean(torch.cat([m.b(x), m.c(x)], 1) + m.a(x))), {"b": nn.Conv2d(3, 3, 3), "c": nn.Conv2d(3, 5, 3)}, 8),
        (lambda m, x: m.head(mean(m.a(x) * m.n.weight.view(1, -1, 1, 1) + m.n.bias.reshape(1, 8, 1, 1))), {"n": nn.LayerNorm(8)}, 8),
        (lambda m, x: m.head(mean(spelled(m.n, m.a(x)))), {"n": worn(8)}, 8),
        (lambda m, x: m.head((m.a(x).flatten(2) @ m.a(x).flatten(2).transpose(1, 2).softmax(1)).mean(1) * 0 + mean(m.a(x))), {}, 0),
        (lambda m, x: m.head(mean(m.a(x)) * m.b(x).mean((2, 3))[:, :1].expand(-1, 8)), {"b": nn.Conv2d(3, 4, 3)}, 0),
    ],
)
def test_followed_entry_by_entry(forward, layers, units) -> None:
    network = net(forward, X4, a=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 4), **layers)
    group = next(g for g in coupling(network).groups.values() if ("a.weight", 0) in g.producers)
    assert int(group.free.sum()) == units, group.fixed
    if units:
        cut_by_zero(network)


def test_a_pad_fixes_what_it_stands_beside() -> None:
    """Option A of He et al.: a shortcut that is padded with zeros. The channels that meet padding go, the others go with their own."""
    network = net(
        lambda m, x: m.head((m.a(x) + F.pad(m.b(x), (0, 0, 0, 0, 2, 3))).mean((2, 3))),
        X4,
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(3, 3, 3),
        head=nn.Linear(8, 4),
    )
    (group, _) = coupling(network).groups.values()
    assert group.producers == (("a.weight", 0), ("b.weight", 0))
    assert group.free.tolist() == [False, False, True, True, True, False, False, False]
    assert "stay" in group.fixed


def test_a_split_that_would_lose_a_part_is_named() -> None:
    network = net(lambda m, x: m.head(mean(torch.cat(m.a(x).chunk(2, 1)[::-1], 1))), X4, a=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 4))
    before = network.copy()
    with pytest.raises(RecipeError, match=r"'chunk' would be left without any channel"):
        remove_channels(network, coupling(network), {0: torch.arange(8) < 4})
    assert torch.equal(before(X4)[0], network(X4)[0])  # refused before anything was cut


@pytest.mark.parametrize(
    ("forward", "layers", "units"),
    [
        (lambda m, x: m.head(m.n(mean(m.a(x)))), {"n": nn.LayerNorm(8)}, 8),
        (lambda m, x: m.head(mean(m.n(m.a(x)))), {"n": nn.GroupNorm(2, 8)}, 4),
        (lambda m, x: m.head(mean(m.n(m.a(x)))), {"n": nn.InstanceNorm2d(8, affine=True)}, 8),
        (lambda m, x: m.head(mean(m.n(m.a(x)))), {"n": nn.LayerNorm([8, 6, 6])}, 8),
    ],
)
def test_norms_lose_their_channels(forward, layers, units) -> None:
    network = net(forward, X4, a=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 4), **layers)
    found = coupling(network)
    assert len(found.groups[0].units) == units and not found.groups[0].fixed
    remove_channels(network, found, {0: torch.arange(units) % 2 == 0})
    assert network.get("n.weight").shape[0] == 4 and network.get("head.weight").shape == (4, 4)
    assert network(torch.randn(3, 3, 8, 8))[0].shape == (3, 4)


# ── attention ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class QKV(nn.Module):
    """Attention as timm spells it: one layer for queries, keys and values, products written out, or torch's own op."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embed, self.qkv, self.out, self.head = nn.Linear(5, 12), nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 3)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head((self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], 12)) + x).mean(1))


@pytest.mark.parametrize("fused", [True, False])
def test_heads_go_whole(fused: bool) -> None:
    torch.manual_seed(0)
    network = capture(QKV(fused), torch.randn(2, 7, 5)).eval()
    found = coupling(network)
    group = next(g for g in found.groups.values() if g.name == "qkv.weight")
    assert len(group.units) == 4 and group.channels == 36 and not group.fixed
    cut_by_zero(network, only="qkv")
    assert network.get("qkv.weight").shape == (18, 12) and network.get("out.weight").shape == (12, 6)
    cut_by_zero(network, only="embed")
    assert network.get("qkv.weight").shape == (18, 6) and network.get("out.weight").shape == (6, 6)


def test_the_zoo_s_transformer() -> None:
    network = capture(transformer(), torch.randn(2, 6, 128)).eval()
    found = {g.name: (len(g.units), g.fixed) for g in coupling(network).groups.values()}
    assert found["blocks.0.attention.query.weight"] == (4, "")
    assert found["blocks.1.fc1.weight"] == (64, "")
    assert found["embed.weight"] == (32, "")
    for only in ("blocks.0.attention", "blocks.1.attention", "blocks.0.fc1", "blocks.1.fc1"):
        cut_by_zero(network, only=only)
    assert network.get("blocks.1.attention.out.weight").shape == (32, 16)
    coupled = coupling(network)
    number = next(n for n, g in coupled.groups.items() if g.name == "embed.weight")
    remove_channels(network, coupled, {number: torch.arange(32) < 20})
    assert network.get("places").shape == (1, 16, 20) and network.get("norm.weight").shape == (20,)


def test_torch_s_own_encoder_layer() -> None:
    torch.manual_seed(0)
    network = capture(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0).eval(), torch.randn(2, 5, 16))
    found = {g.name: (len(g.units), g.fixed) for g in coupling(network).groups.values()}
    assert found["self_attn.in_proj_weight"] == (4, "")
    assert found["linear1.weight"] == (32, "")
    cut_by_zero(network, only="self_attn.in_proj")
    assert network.get("self_attn.in_proj_weight").shape == (24, 16)
    cut_by_zero(network, only="linear1")


def test_an_embedding_loses_columns() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc, self.head = nn.Embedding(11, 8), nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(torch.relu(self.fc(self.table(words))).mean(1))

    network = capture(Words(), torch.zeros(2, 5, dtype=torch.int64)).eval()
    assert groups(network)["table"] == ({"table"}, "")
    cut_by_zero(network)
    assert network.get("table.weight").shape == (11, 4)


class Patches(nn.Module):
    """A class token beside the patches, places that are cut from a longer table, attention in letters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out, self.head = nn.Linear(5, 12), nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 3)
        self.token, self.places = nn.Parameter(torch.randn(1, 12)), nn.Parameter(torch.randn(9, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token[None].expand(x.shape[0], 1, 12), self.embed(x)], 1)
        x = x + self.places[:8]
        q, k, v = (y.reshape(-1, 8, 4, 3) for y in self.qkv(x).chunk(3, -1))
        weights = torch.einsum("b i h d, b j h d -> b h i j", q, k).softmax(-1)
        return self.head((self.out(torch.einsum("b h i j, b j h d -> b i h d", weights, v).flatten(2)) + x)[:, 0])


def test_tokens_places_and_letters() -> None:
    torch.manual_seed(0)
    network = capture(Patches(), torch.randn(2, 7, 5)).eval()
    found = {g.name: (len(g.units), g.fixed) for g in coupling(network).groups.values()}
    assert found["embed.weight"] == (12, "") and found["qkv.weight"] == (4, "")
    cut_by_zero(network, only="qkv")
    assert network.get("out.weight").shape == (12, 6)
    cut_by_zero(network, only="embed")
    assert network.get("token").shape == (1, 6) and network.get("places").shape == (9, 6)


def test_a_mixer_s_tokens_pass_its_channels() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
            self.tokens = nn.Sequential(nn.Conv1d(7, 6, 1), nn.GELU(), nn.Conv1d(6, 7, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head((x + self.tokens(x)).mean(1))

    torch.manual_seed(0)
    network = capture(Mixer(), torch.randn(2, 7, 5)).eval()
    found = coupling(network)
    assert [(g.name, g.fixed) for g in found.groups.values()][0] == ("embed.weight", "")
    remove_channels(network, found, {0: torch.arange(8) < 5})
    assert network.get("head.weight").shape == (3, 5) and network.get("tokens.0.weight").shape == (6, 7, 1)
