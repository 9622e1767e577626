"""Ops that aren't a kind of the program, each between two layers: lowered, they compute what they compute in the network."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.errors import UnsupportedOp
from karui.graph.doors.torch import capture
from karui.lower import lower
from karui.program import interpreter
from tests.lower.networks import noise
from tests.lower.quantized import quantized
from tests.lower.test_lower import agree, kinds


class Around(nn.Module):
    """A convolution, what ``function`` does with its values, and a linear layer over all of them."""

    def __init__(self, function: Callable[..., Tensor], shape: tuple[int, ...], *more: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        one = len(shape) == 2
        self.conv = (nn.Conv1d if one else nn.Conv2d)(shape[0], 8, 3, padding=1)
        self.more, self.function = nn.ModuleList(more), function
        self.weight = nn.Parameter(torch.rand(8) + 0.5)
        inside = function(self, torch.ones(2, 8, *shape[1:]))
        self.head = nn.Linear(inside[0].numel(), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, self.conv(x)).flatten(1))


def states(m: Around, x: Tensor) -> Tensor:
    """The last states of both layers and directions."""
    _, (h, c) = m.more[0](x.transpose(1, 2))
    return torch.cat([h[-1], h[0], c[2], c.permute(1, 0, 2).flatten(1)], 1)


def steps_first(m: Around, x: Tensor) -> Tensor:
    y, h = m.more[0](x.permute(2, 0, 1))
    return torch.cat([y.mean(0), y[-1], h.squeeze(0)], 1)


def with_mask(m: Around, x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return torch.maximum(gate * x, x * 0.5) + torch.minimum(1 - gate, x)


def causal(m: Around, x: Tensor) -> Tensor:
    """Attention that sees the past alone, as one writes it by hand."""
    return x.transpose(1, 2).matmul(x).masked_fill(torch.ones(12, 12).triu(1) == 1, float("-inf")).softmax(-1)


def joined_heads(m: Around, x: Tensor) -> Tensor:
    """Heads that share the batch's axis, as einops writes them."""
    b, c, n = x.shape
    q, k = (y.view(b, 2, c // 2, n).transpose(2, 3).reshape(b * 2, n, c // 2) for y in (x, x * 2))
    y = torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", q, k).softmax(-1), k)
    return y.view(b, 2, n, c // 2).permute(0, 2, 1, 3).reshape(b, n, c)


IMAGE, LINE = (3, 7, 6), (5, 12)
OPS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    name: lambda function=function, shape=shape, more=more: (Around(function, shape, *(make() for make in more)), shape)
    for name, (function, shape, *more) in {
        "shared prelu": (lambda m, x: m.more[0](x), IMAGE, lambda: nn.PReLU(1, 0.2)),
        "prelu": (lambda m, x: F.prelu(x, m.weight), IMAGE),
        "prelu of a line": (lambda m, x: F.prelu(x, m.weight), LINE),
        "prelu of features": (lambda m, x: F.prelu(x.mean(2), m.weight), LINE),
        "glu": (lambda m, x: F.glu(x, 1), IMAGE),
        "log-softmax": (lambda m, x: F.log_softmax(50 * x, 1), IMAGE),
        "softplus": (lambda m, x: F.softplus(x, 3.0), IMAGE),
        "celu": (lambda m, x: F.celu(x, 0.7) + F.logsigmoid(x) + x.square() + x**3, IMAGE),
        "maximum, minimum, rsub": (with_mask, IMAGE),
        "normalize": (lambda m, x: F.normalize(x, dim=1) + F.normalize(x, 1.0, 2), IMAGE),
        "cosine similarity": (lambda m, x: F.cosine_similarity(x[:, :4], x[:, 4:], dim=1), IMAGE),
        "rms norm": (lambda m, x: F.rms_norm(x.transpose(1, 2), (8,), m.weight, 1e-3), LINE),
        "rms norm of two axes": (lambda m, x: F.rms_norm(x, (8, 12), m.weight[:, None].expand(8, 12)), LINE),
        "spread": (lambda m, x: torch.cat([x.std(2), x.var(2, unbiased=False), x.std((1, 2))[:, None]], 1), LINE),
        "max along an axis": (lambda m, x: x.max(1)[0] + x.min(1, keepdim=True)[0].squeeze(1), IMAGE),
        "expand": (lambda m, x: torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x), x[:, :, :1].repeat(1, 2, 7, 1)], 1), IMAGE),
        "gate": (lambda m, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)).expand_as(x), IMAGE),
        "flip and roll": (lambda m, x: torch.roll(x.flip(2), (2, -1), (1, 3)), IMAGE),
        "index": (lambda m, x: x[:, [3, 1, 2]] + torch.index_select(x, 1, torch.tensor([0, 1, 7])), IMAGE),
        "reflect": (lambda m, x: F.pad(F.pad(x, (2, 1, 0, 3), mode="reflect"), (1, 1, 1, 1), mode="replicate"), IMAGE),
        "circular": (lambda m, x: F.pad(x, (2, 3), mode="circular"), LINE),
        "pixel shuffle": (lambda m, x: F.conv2d(F.pixel_shuffle(x, 2), m.weight[None, :2, None, None]), IMAGE),
        "pixel unshuffle": (lambda m, x: F.pixel_unshuffle(x, 2), (3, 4, 6)),
        "channel shuffle": (lambda m, x: F.channel_shuffle(x, 2), IMAGE),
        "uneven adaptive pool": (lambda m, x: F.adaptive_avg_pool2d(x, (3, 9)), IMAGE),
        "uneven adaptive pool of a line": (lambda m, x: F.adaptive_avg_pool1d(x, 5), LINE),
        "ceil-mode average": (lambda m, x: F.avg_pool2d(x, 2, ceil_mode=True), IMAGE),
        "ceil-mode average without padding": (lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), (3, 8, 6)),
        "nearest to a size": (lambda m, x: F.interpolate(x, size=(10, 9)), IMAGE),
        "nearest by a fraction": (lambda m, x: F.interpolate(x, scale_factor=(1.6, 2.0)), IMAGE),
        "bilinear to a size": (lambda m, x: F.interpolate(x, size=(10, 9), mode="bilinear"), IMAGE),
        "bilinear by a fraction": (lambda m, x: F.interpolate(x, scale_factor=(0.7, 1.3), mode="bilinear"), IMAGE),
        "bilinear by a fraction, recomputed": (
            lambda m, x: F.interpolate(x, scale_factor=0.7, mode="bilinear", recompute_scale_factor=True),
            IMAGE,
        ),
        "identities in a row": (lambda m, x: F.pad(F.pad(torch.cat([x.roll(0, 1)], 1), (0, 0)), (0, 0)), IMAGE),
        "twins with readers that are twins": (lambda m, x: torch.cat([x.relu(), x.relu().clamp(0, 1), x.relu().clamp(0, 1)], 1), IMAGE),
        "nearest on a line": (lambda m, x: F.interpolate(x, scale_factor=2), LINE),
        "linear on a line": (lambda m, x: F.interpolate(x, size=17, mode="linear", align_corners=True), LINE),
        "transposed convolution of a line": (lambda m, x: m.more[0](x), LINE, lambda: nn.ConvTranspose1d(8, 6, 4, 3, 1, 2, groups=2)),
        "last states": (states, LINE, lambda: nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True)),
        "steps first": (steps_first, LINE, lambda: nn.GRU(8, 5)),
        "einsum": (lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x[:, 2:5]), IMAGE),
        "einsum that keeps a shared axis": (lambda m, x: torch.einsum("bchw,bcwk->bkch", x, x[:, :, 1:].transpose(2, 3)), IMAGE),
        "einsum of joined heads": (joined_heads, LINE),
        "stack before the batch": (lambda m, x: torch.stack([x, x * 2, x.flip(2)]).sum(0), LINE),
        "stack with a constant": (lambda m, x: torch.stack([x, torch.ones_like(x)], 2), LINE),
        "causal scores": (causal, LINE),
        "a fixed choice": (lambda m, x: torch.where(torch.arange(12) > 3, x, 0.5) + torch.where(m.weight[:, None] > 1, 2.0, x), LINE),
        "of its shape": (
            lambda m, x: torch.cat([x * torch.full_like(x, 2.0), x.new_ones(x.size(0), 1, 12), x.new_zeros(1, 12) + x], 1),
            LINE,
        ),
        "log-sum-exp and threshold": (lambda m, x: torch.logsumexp(9 * x, 1) + F.threshold(x, 0.1, 0.1).logsumexp(1, True)[:, 0], LINE),
        "other words": (lambda m, x: x.movedim(1, 2).reshape_as(x) + x.flatten(1).reshape_as(x).type_as(x).clip(-1, 1).floor(), LINE),
        "uneven split": (lambda m, x: torch.cat([y.mean(1) for y in x.tensor_split(3, 1)], 1), LINE),
        "each twice": (lambda m, x: x.repeat_interleave(2, 1), LINE),
        "matrix, vector": (lambda m, x: torch.addmm(m.weight[:3], x @ torch.arange(12.0), torch.outer(m.weight, m.weight[:3])), LINE),
        "steps first, times a matrix": (lambda m, x: (x.permute(2, 0, 1) @ torch.outer(m.weight, m.weight[:3])).permute(1, 0, 2), LINE),
        "einsum with a parameter": (lambda m, x: torch.einsum("ck,bchw->bhkw", torch.outer(m.weight, m.weight[:3]), x), IMAGE),
    }.items()
}


@pytest.mark.parametrize("name", OPS)
def test_an_op_between_layers_keeps_its_meaning(name: str) -> None:
    module, shape = OPS[name]()
    network = capture(module, noise(3, *shape))
    agree(network, lower(network), (noise(3, *shape),))


@pytest.mark.parametrize(
    "name", ["shared prelu", "celu alone", "flip and roll", "reflect", "pixel unshuffle", "channel shuffle", "nearest on a line"]
)
def test_moves_and_tables_stay_integers(name: str) -> None:
    module, shape = (Around(lambda m, x: F.celu(x, 0.7), IMAGE), IMAGE) if name == "celu alone" else OPS[name]()
    program = lower(quantized(module, noise(16, *shape)))
    assert {program.tensor(op.outputs[0]).dtype for op in program.ops} == {"int8"}, kinds(program)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x: torch.einsum("...c,...c->...", x, x), "einsum.*two operands"),
        (lambda m, x: torch.einsum("bcl,dcl->bd", x, x), "einsum.*batch"),
        (lambda m, x: x.norm(3, dim=1), "norm of order 3"),
        (lambda m, x: torch.where(x > 0, x, 0.1 * x), "gt"),
        (lambda m, x: F.threshold(x, 0.1, 0.0), "threshold of 0.1"),
        (lambda m, x: F.pad(x, (-1, -1), mode="reflect"), "negative padding"),
    ],
)
def test_what_has_no_rule_is_refused_in_one_line(function: Callable[..., Tensor], words: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(5, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return function(self, self.conv(x))

    with pytest.raises(UnsupportedOp, match=words) as error:
        lower(capture(Net(), noise(3, *LINE)))
    assert "\n" not in str(error.value)


class Masked(nn.Module):
    """Rows of a table, those that don't count taken out: tokens and their mask are integers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        counts = mask.unsqueeze(-1).to(torch.float32)
        return self.head((self.words(tokens.long()) * counts).sum(1) / counts.sum(1).clamp(min=1.0))


def test_integers_that_are_no_indices_are_floats_to_a_program() -> None:
    tokens, mask = torch.randint(0, 9, (3, 5), dtype=torch.int32), torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [0] * 5])
    network = capture(Masked(), (tokens, mask)).eval()
    program = lower(network)
    assert [program.tensor(each.tensor).dtype for each in program.inputs] == ["int32", "float32"]
    found = interpreter.run(program, [tokens.numpy(), mask.numpy().astype(np.float32)])[0]
    with torch.no_grad():
        assert np.allclose(found, network(tokens, mask)[0].numpy(), atol=1e-6)
