"""Networks from a few lines, and the proof that channels which are zero can be removed."""

import torch
from torch import Tensor, nn

from karui.graph.coupling import coupling, remove_channels
from karui.graph.doors.torch import capture
from karui.graph.network import Network

X4 = torch.randn(2, 3, 8, 8)


def groups(network: Network) -> dict[str, tuple[set[str], str]]:
    """First producer's layer → (all producers' layers, why fixed)."""
    return {
        g.name.removesuffix(".weight"): ({name.removesuffix(".weight") for name, _ in g.producers}, g.fixed)
        for g in coupling(network).groups.values()
    }


def net(forward, example: Tensor, **layers: nn.Module) -> Network:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, layer in layers.items():
                self.add_module(name, layer)

        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    torch.manual_seed(0)
    return capture(Net(), example).eval()


def cut_by_zero(network: Network, share: float = 0.5, *, only: str = "") -> None:
    """Zero a random half of each free group's channels (and what follows from them), then remove them: the outputs must not change.

    A channel whose producers' rows, biases and batch-norm gains are zero is zero wherever it flows, so removing it changes nothing.
    """
    found = coupling(network)
    generator = torch.Generator().manual_seed(0)
    keep = {}
    for number, group in found.groups.items():
        if group.free.any() and group.name.startswith(only):
            units = group.free.nonzero()[0]
            keep[number] = torch.ones(len(group.units), dtype=torch.bool)
            keep[number][units[torch.randperm(len(units), generator=generator)[: int(len(units) * share)]]] = False
    assert keep
    with torch.no_grad():
        for member in found.members:
            if member.role != "in" and "running" not in member.parameter:
                network.get(member.parameter).index_fill_(member.axis, (~found.kept(member.ids, keep)).nonzero().flatten(), 0)
    before = network(*network.example(4))
    sizes = sum(p.numel() for p in network.parameters().values())
    remove_channels(network, found, keep)
    after = network(*network.example(4))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in network.parameters().values()) < sizes
    for member in found.members:
        assert network.get(member.parameter).shape[member.axis] == int(found.kept(member.ids, keep).sum())
    network.train()
    network(*network.example(3))[0].sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in network.parameters().values())
