"""One op for each meaning: what is spelled out is named, what undoes itself is gone, and the numbers stay."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from karui.graph.coupling import coupling
from karui.graph.doors.torch import capture
from karui.graph.fidelity import difference
from karui.graph.network import Network

aten = torch.ops.aten


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def ops(network: Network) -> list[str]:
    return [str(n.target).removeprefix("aten.").split(".")[0] for n in network.module.graph.nodes if n.op == "call_function"]


def captured(module: nn.Module, *shape: int) -> Network:
    """The network, which has to compute what the module does."""
    x = torch.randn(3, *shape)
    network = capture(module.eval(), x)
    with torch.no_grad():
        assert difference(network(x)[0], module(x)) < 1e-5
    return network


def cube(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "gelu": (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), "gelu"),
    "gelu, otherwise": (lambda x: 0.5 * (x * (torch.erf(x * 0.70710678) + 1)), "gelu"),
    "gelu, tanh": (cube, "gelu"),
    "gelu, tanh, factored": (lambda x: x * 0.5 * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))), "gelu"),
    "silu": (lambda x: x * torch.sigmoid(x), "silu"),
    "mish": (lambda x: x * torch.tanh(nn.functional.softplus(x)), "mish"),
    "hardsigmoid": (lambda x: nn.functional.relu6(x + 3) / 6, "hardsigmoid"),
    "hardsigmoid, otherwise": (lambda x: torch.clamp(x / 6 + 0.5, 0, 1), "hardsigmoid"),
    "hardswish": (lambda x: x * torch.clamp(x + 3, 0, 6) / 6, "hardswish"),
    "hardswish, of a gate": (lambda x: x * (nn.functional.relu6(x + 3) / 6), "hardswish"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_spelled_out_activation_is_named(name: str) -> None:
    function, op = ACTIVATIONS[name]
    assert ops(captured(Function(function), 5)) == [op]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.5 * (1.0 + torch.erf(x / 1.5)),
        lambda x: x * torch.sigmoid(2 * x),
        lambda x: x * torch.clamp(x + 3, 0, 5) / 6,
        lambda x: (x + 1) * torch.sigmoid(x),
    ],
    ids=["gelu", "silu", "hardswish", "gate"],
)
def test_what_is_only_like_one_stays(function: Callable[[Tensor], Tensor]) -> None:
    assert not {"gelu", "silu", "hardswish"} & set(ops(captured(Function(function), 5)))


def test_the_gate_of_a_silu_that_somebody_else_reads_stays() -> None:
    def function(x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        return x * gate + gate

    assert sorted(ops(captured(Function(function), 5))) == ["add", "sigmoid", "silu"]


class Norm(nn.Module):
    """A layer-norm as people write it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.weight, self.bias = form, nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        squares = {"pow": centred.pow(2), "mul": centred * centred}.get(self.form)
        variance = x.var(-1, unbiased=False, keepdim=True) if squares is None else squares.mean(-1, keepdim=True)
        if self.form == "mul":
            return centred * torch.rsqrt(variance + 1e-6) * self.weight + self.bias
        return self.weight * (centred / torch.sqrt(variance + 1e-6)) + self.bias


@pytest.mark.parametrize("form", ["pow", "mul", "var"])
def test_a_spelled_out_layer_norm_is_named(form: str) -> None:
    network = captured(Norm(form), 4, 6)
    assert ops(network) == ["layer_norm"]
    (node,) = network.module.graph.find_nodes(op="call_function", target=aten.layer_norm.default)
    assert node.args[1] == [6] and node.args[4] == 1e-6 and [str(a.target) for a in node.args[2:4]] == ["weight", "bias"]


def test_a_norm_over_the_channels_of_images_is_none() -> None:
    def function(x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)

    assert "layer_norm" not in ops(captured(Function(function), 4, 6, 6))


class ChannelsLast(nn.Module):
    """What a framework that keeps channels last makes of a block with a shortcut and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.gate = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        def over(layer: nn.Module, y: Tensor) -> Tensor:
            return layer(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

        y = torch.relu(over(self.one, x.permute(0, 2, 3, 1)) + torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]))
        z = over(self.two, nn.functional.pad(y, (0, 0, 1, 1, 1, 1)))[:, 1:-1, 1:-1, :]
        z = torch.cat([z, y], 3) * 2
        z, w = z.split(8, 3)
        z = z * torch.sigmoid(self.gate(w.mean((1, 2)))).reshape(-1, 1, 1, 8)
        return (z + y).mean((1, 2))


class Heads(nn.Module):
    """Attention as people write it. scale: what the scores are multiplied by; mask: what is added to them."""

    def __init__(self, scale: float, mask: Tensor | None = None, *, soft: int = -1) -> None:
        super().__init__()
        self.inner, self.outer, self.scale, self.soft = nn.Linear(16, 48), nn.Linear(16, 16), scale, soft
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.view(x.size(0), 10, 4, 4).transpose(1, 2) for t in self.inner(x).chunk(3, -1))
        scores = q @ k.transpose(-2, -1) * self.scale
        if self.mask is not None:
            scores = scores + self.mask
        return self.outer((scores.softmax(self.soft) @ v).transpose(1, 2).reshape(x.size(0), 10, 16))


@pytest.mark.parametrize("scale", [0.5, 1.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_a_spelled_out_attention_is_named(scale: float, masked: bool) -> None:
    mask = torch.full((10, 10), -1e4).triu(1) if masked else None
    network = captured(Heads(scale, mask), 10, 16)
    assert "scaled_dot_product_attention" in ops(network)
    assert not {"softmax", "matmul"} & set(ops(network))
    group = next(g for g in coupling(network).groups.values() if ("inner.weight", 0) in g.producers)
    assert group.free.any(), group.fixed  # whole heads may leave


def test_a_softmax_over_the_queries_is_no_attention() -> None:
    assert "softmax" in ops(captured(Heads(0.5, soft=-2), 10, 16))


def test_permutes_around_convolutions_cancel() -> None:
    network = captured(ChannelsLast(), 4, 10, 10)
    assert "permute" not in ops(network)
    assert {"conv2d", "cat", "split", "constant_pad_nd", "mean"} & set(ops(network))
    network.train()
    network(torch.randn(2, 4, 10, 10))[0].sum().backward()
    assert all(p.grad is not None for p in network.parameters().values())


def test_a_permute_that_somebody_needs_stays() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert ops(captured(Tokens(), 3, 16, 16)).count("permute") == 2


def test_idle_casts_and_copies_go() -> None:
    network = captured(Function(lambda x: torch.relu(x.to(torch.float32).clone().contiguous()) + 1), 4)
    assert ops(network) == ["relu", "add"]
    half = captured(Function(lambda x: x.to(torch.float64).sum(-1, keepdim=True).float()), 4)
    assert ops(half).count("to") == 2, "casts that change the dtype stay"


def test_dropout_keeps_its_elements() -> None:
    """A seeded training run of a torch module goes on as it did."""

    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x.transpose(1, 2), 0.5, self.training).transpose(1, 2)

    module, x = Dropping().train(), torch.randn(4, 6, 5)
    network = capture(module, x).train()
    torch.manual_seed(3)
    ours = network(x)[0]
    torch.manual_seed(3)
    assert torch.equal(ours, module(x))


def test_a_one_hot_vector_times_a_matrix_is_a_row() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(7, 5)

        def forward(self, ids: Tensor) -> Tensor:
            return torch.relu(self.layer((ids.unsqueeze(-1) == torch.arange(7)).float()))

    module, ids = Bytes().eval(), torch.randint(7, (3, 4))
    network = capture(module, ids)
    assert ops(network) == ["embedding", "add", "relu"]
    assert network.get("layer.weight").shape == (7, 5)
    with torch.no_grad():
        assert difference(network(ids)[0], module(ids)) < 1e-6


def test_what_is_no_count_stays() -> None:
    class Flags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 5)

        def forward(self, ids: Tensor) -> Tensor:
            return self.layer((ids.unsqueeze(-1) == torch.tensor([0, 2, 1])).float())

    assert "embedding" not in ops(capture(Flags().eval(), torch.randint(3, (3, 4))))
