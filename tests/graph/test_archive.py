import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from karui.errors import FileError
from karui.graph import edit
from karui.graph.doors.capture import capture
from karui.graph.network import Network
from karui.graph.placement import activation_points
from karui.zoo.lenet import lenet5
from karui.zoo.resnet import resnet8
from tests.graph.nets import MLP, NETS, Shared, network_of

K = torch.ops.karui


def half_compressed(module: nn.Module, example: torch.Tensor) -> Network:
    """Masks and learned quantizers on all weights, fixed quantizers on all activations."""
    network = capture(module, example)
    for name, weight in list(network.parameters().items()):
        if weight.dim() > 1:
            top = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-6) / 127
            edit.put_on_parameter(network, name, K.mask.default, state={"mask": (weight.detach().abs() > 0.02).float()})
            state = {"scale": nn.Parameter(top), "zero_point": torch.zeros_like(top)}
            args = ("scale", "zero_point", -127, 127, 0)
            edit.put_on_parameter(network, name, K.fake_quantize.default, state=state, args=args)
    for node in activation_points(network):
        state = {"scale": torch.tensor(0.05), "zero_point": torch.tensor(0.0)}
        edit.put_on_edge(network, node, K.fake_quantize.default, state=state, args=("scale", "zero_point", -128, 127, None))
    return network


def train(network: Network, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters().values(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(4, *network.inputs[0].shape, generator=generator)
        network(x)[0].square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("make", "shape"), [(lenet5, (1, 28, 28)), (resnet8, (3, 16, 16))])
def test_a_half_compressed_network_trains_on_bit_for_bit(make: type[nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = half_compressed(make(), torch.randn(2, *shape))
    train(network, 1)
    network.structure = 5
    network.save(tmp_path / "net.pt2")
    loaded = Network.load(tmp_path / "net.pt2")
    assert loaded.state().keys() == network.state().keys()
    assert (loaded.name, loaded.inputs, loaded.outputs, loaded.structure) == (network.name, network.inputs, network.outputs, 5)
    for one in (network, loaded):
        train(one, 5)
    for name, tensor in network.state().items():
        assert torch.equal(tensor, loaded.state()[name]), name
    assert (
        edit.forms_on(loaded, next(iter(network.parameters())))[0].state
        == edit.forms_on(network, next(iter(network.parameters())))[0].state
    )


@pytest.mark.parametrize("name", NETS)
def test_every_network_comes_back_the_same(name: str, tmp_path: Path) -> None:
    example = NETS[name][1]
    network = network_of(name).eval()
    network.save(tmp_path / "net.pt2")
    assert not network.training
    loaded = Network.load(tmp_path / "net.pt2")
    assert not loaded.training
    assert (loaded.ties, loaded.outputs) == (network.ties, network.outputs)

    def ops(net: Network) -> list[tuple[str, str, str]]:
        nodes = [n for n in net.module.graph.nodes if n.op == "call_function" and "sym_size" not in str(n.target)]
        return [(n.name, str(n.target), net.layer_of(n)) for n in nodes]

    assert ops(loaded) == ops(network)
    for a, b in zip(network(*example), loaded(*example)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    if name in ("attention", "two_outputs"):  # and so it goes on
        loaded.train().copy().save(tmp_path / "again.pt2")
        assert ops(Network.load(tmp_path / "again.pt2")) == ops(network)


def test_ties_and_frozen_parameters_come_back(tmp_path: Path) -> None:
    network = network_of("shared")
    network.get("l.bias").requires_grad_(False)
    network.save(tmp_path / "net.pt2")
    loaded = Network.load(tmp_path / "net.pt2")
    assert loaded.get("d.weight") is loaded.get("e.weight")
    assert not loaded.get("l.bias").requires_grad
    assert loaded.get("l.weight").requires_grad


def test_the_file_holds_no_data_and_no_pickle(tmp_path: Path) -> None:
    data = torch.full((1000, 1, 4, 4), 0.123456)
    capture(MLP(), data[:2]).save(tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        sample = next(i for i in archive.infolist() if i.filename.endswith("sample_inputs/model.pt"))
        assert sample.file_size == 0
        facts = json.loads(archive.read(next(n for n in archive.namelist() if n.endswith("karui.json"))))
        assert not any(data.numpy().tobytes()[:64] in archive.read(name) for name in archive.namelist())
    assert facts["format"] == 1
    assert str(tmp_path) not in json.dumps(facts)


def test_saving_over_a_file_leaves_nothing_else(tmp_path: Path) -> None:
    network = network_of("mlp")
    network.save(tmp_path / "net.pt2")
    network.save(str(tmp_path / "net.pt2"))
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt2"]


def exported(module: nn.Module, *example: torch.Tensor, free: bool = True) -> torch.export.ExportedProgram:
    return torch.export.export(module, example, dynamic_shapes=({0: Dim.DYNAMIC},) if free else None)


def test_a_program_exported_elsewhere_loads(tmp_path: Path) -> None:
    module = Shared().train()
    torch.export.save(exported(module, torch.randint(0, 20, (2, 6))), tmp_path / "their.pt2")
    network = capture(tmp_path / "their.pt2")
    assert network.name == "their"
    assert network.inputs[0].shape == (6,)
    assert network.inputs[0].dtype == "int64"
    tokens = torch.randint(0, 20, (5, 6))
    torch.testing.assert_close(network.eval()(tokens)[0], module.eval()(tokens))
    assert network.get("d.weight") is network.get("e.weight")


def test_a_program_with_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    torch.export.save(exported(nn.Linear(4, 2), torch.randn(2, 4), free=False), tmp_path / "their.pt2")
    with pytest.raises(FileError, match="fixed batch"):
        capture(tmp_path / "their.pt2")


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from karui.graph import archive

    network = network_of("mlp")
    monkeypatch.setattr(archive, "FORMAT", 9)
    network.save(tmp_path / "net.pt2")
    monkeypatch.setattr(archive, "FORMAT", 1)
    with pytest.raises(FileError, match="has format 9"):
        Network.load(tmp_path / "net.pt2")
