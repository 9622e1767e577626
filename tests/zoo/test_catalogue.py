"""The zoo's list: published sizes, capture, and weights that are checked before they are believed."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from karui import datasets, zoo
from karui.data import ACCURACY
from karui.errors import FileError, KaruiError, RecipeError
from karui.graph.doors.torch import capture
from karui.zoo import catalogue

SMALL = {"mobilenet_v1_025": {"size": 32}, "mobilenet_v2": {"size": 32, "width": 0.35, "classes": 10}}  # shapes that a test has time for


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def refused(*words: str, kind: type[KaruiError]) -> "pytest.RaisesExc[KaruiError]":
    return pytest.raises(kind, check=lambda error: "\n" not in str(error) and all(word in str(error) for word in words))


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("lenet300", {}, 266_610),  # Han et al. 2015, table 1
        ("lenet5", {}, 431_080),
        ("resnet8", {}, 78_042),  # MLPerf Tiny's 78,666 counts biases and moving averages too, and has no batch-norm in shortcuts
        ("resnet20", {"channels": 3}, 272_474),  # He et al. 2016, table 6: 0.27 M
        ("resnet20", {}, 272_186),
        ("ds_cnn", {}, 23_180),
        ("mobilenet_v1_025", {"classes": 1000}, 470_072),  # Howard et al. 2017, table 7: 0.5 M
        ("mobilenet_v1_025", {"classes": 1000, "width": 1.0}, 4_231_976),  # 4.2 M
        ("mobilenet_v2", {}, 3_504_872),  # Sandler et al. 2018, table 4: 3.4 M
        ("cnn1d", {}, 24_198),
        ("transformer", {}, 19_430),
    ],
)
def test_parameter_counts(name: str, settings: dict[str, object], count: int) -> None:
    assert params(zoo.build(name, **settings)) == count


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_each_is_captured_and_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    settings = SMALL.get(name, {})
    shape = zoo.NETWORKS[name].input
    shape = (shape[0], settings["size"], settings["size"]) if "size" in settings else shape
    module = zoo.build(name, **settings).eval()
    x = torch.randn(3, *shape)
    network = capture(module, x[:2], name=name)
    assert network.name == name and not network.training
    with torch.no_grad():
        expected, found = module(x), network(x)
    assert expected.ndim == 2 and expected.shape[0] == 3
    assert torch.allclose(found[0], expected, atol=1e-5 * float(expected.abs().max()))
    assert set(network.parameters()) == {key for key, _ in module.named_parameters()}


@pytest.mark.parametrize("name", [name for name in zoo.NETWORKS if name not in SMALL])
def test_each_learns(name: str) -> None:
    """Gradients reach every parameter."""
    torch.manual_seed(0)
    module = zoo.build(name)
    module(torch.randn(4, *zoo.NETWORKS[name].input)).square().mean().backward()
    assert [key for key, p in module.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] in ([], KEY_BIASES)


KEY_BIASES = ["blocks.0.attention.key.bias", "blocks.1.attention.key.bias"]  # softmax takes no notice of them


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_entries_are_whole(name: str) -> None:
    found = zoo.NETWORKS[name]
    assert found.description and (found.data is None or found.data in datasets.NAMES)
    assert list(found.input) == [int(n) for n in found.input]


@pytest.mark.parametrize(("size", "last"), [(224, 7), (96, 3), (32, 2)])
@pytest.mark.parametrize("name", ["mobilenet_v1_025", "mobilenet_v2"])
def test_mobilenets_take_several_sizes(name: str, size: int, last: int) -> None:
    module = zoo.build(name, width=0.25, classes=5, size=size).eval()
    seen: list[int] = []
    module.blocks.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[-1]))
    assert module(torch.randn(1, 3, size, size)).shape == (1, 5) and seen == [last]


def test_lenet5_has_its_stated_accuracy() -> None:
    network, test = zoo.load("lenet5"), datasets.load("fashion-mnist", sample=True).test
    assert not network.training
    with torch.no_grad():
        scores = torch.cat([ACCURACY.function(network(*batch.inputs), batch.targets) for batch in test.take(2000).batches(500)])
    assert 100 * float(scores.mean()) > 91


def test_the_weights_name_what_they_are() -> None:
    for name, found in zoo.NETWORKS.items():
        path = Path(catalogue.__file__).parent / "weights" / (found.weights or "none")
        if path.exists():
            catalogue.fill(zoo.build(name), path)
            assert path.stat().st_size < 2_000_000


def test_what_can_not_be_loaded_is_refused() -> None:
    with refused("'vgg' is unknown", "lenet5", kind=RecipeError):
        zoo.build("vgg")
    with refused("'cnn1d'", "colour", kind=RecipeError):
        zoo.build("cnn1d", colour=3)
    with refused("no trained weights", "cnn1d", kind=FileError):
        zoo.load("cnn1d")


def weights(**change: np.ndarray) -> dict[str, np.ndarray]:
    return {**{key: value.numpy() for key, value in zoo.build("lenet300").state_dict().items()}, **change}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (weights(**{"fc1.bias": np.zeros(299, np.float32)}), ["fc1.bias", "[299]", "[300]"]),
        (weights(**{"fc4.bias": np.zeros(3, np.float32)}), ["extra", "fc4.bias"]),
        ({key: value for key, value in weights().items() if key != "fc2.weight"}, ["lacks", "fc2.weight"]),
        (weights(**{"fc3.bias": np.full(10, np.nan, np.float32)}), ["fc3.bias", "NaN"]),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: list[str]) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays))
    with refused("w.safetensors", *words, kind=FileError):
        catalogue.fill(zoo.build("lenet300"), path)


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with refused("none.safetensors", "missing", kind=FileError):
        catalogue.fill(zoo.build("lenet300"), tmp_path / "none.safetensors")
    whole = safetensors.numpy.save(weights())
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 9]}}).encode()
    for content in (whole[:-5], b"", b"PK\x03\x04" * 9, len(header).to_bytes(8, "little") + header):
        (tmp_path / "cut.safetensors").write_bytes(content)
        with refused("cut.safetensors", "damaged", kind=FileError):
            catalogue.fill(zoo.build("lenet300"), tmp_path / "cut.safetensors")
