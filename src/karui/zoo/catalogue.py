"""The zoo's list: what each network is called, what it takes, and where its weights are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from karui.errors import FileError, RecipeError
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.workspace import load_arrays
from karui.zoo.cnn1d import cnn1d
from karui.zoo.dscnn import ds_cnn
from karui.zoo.lenet import lenet5, lenet300
from karui.zoo.mobilenet import mobilenet_v1, mobilenet_v2
from karui.zoo.resnet import resnet8, resnet20
from karui.zoo.transformer import transformer


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network of the zoo.

    builder: makes it, with fresh weights. input: one sample's shape, as ``settings`` make it. data: the data set it is for
    (``karui.datasets``), where there is one. weights: the file of trained weights under ``zoo/weights``, where there is one.
    """

    builder: Callable[..., nn.Module]
    input: tuple[int, ...]
    description: str
    data: str | None = None
    weights: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {
        "lenet300": Entry(builder=lenet300, input=(1, 28, 28), data="fashion-mnist", description="LeNet-300-100, fully connected"),
        "lenet5": Entry(
            builder=lenet5,
            input=(1, 28, 28),
            data="fashion-mnist",
            weights="lenet5.safetensors",
            description="LeNet-5 in Caffe's widths: the demo's patient",
        ),
        "resnet8": Entry(
            builder=resnet8,
            input=(3, 32, 32),
            data="cifar-10",
            weights="resnet8.safetensors",
            description="MLPerf Tiny's image classification",
        ),
        "resnet20": Entry(
            builder=resnet20,
            input=(1, 28, 28),
            data="fashion-mnist",
            weights="resnet20.safetensors",
            settings={"channels": 1},
            description="ResNet-20 for grey pictures: a teacher for LeNet-5",
        ),
        "resnet20_cifar10": Entry(
            builder=resnet20,
            input=(3, 32, 32),
            data="cifar-10",
            weights="resnet20_cifar10.safetensors",
            description="ResNet-20 as He et al. made it, for colour pictures",
        ),
        "ds_cnn": Entry(builder=ds_cnn, input=(1, 49, 10), description="MLPerf Tiny's keyword spotting: twelve words from MFCCs"),
        "mobilenet_v1_025": Entry(
            builder=mobilenet_v1, input=(3, 96, 96), description="MobileNet V1, 0.25 wide: MLPerf Tiny's person detection"
        ),
        "mobilenet_v2": Entry(builder=mobilenet_v2, input=(3, 224, 224), description="MobileNet V2 for ImageNet's classes"),
        "cnn1d": Entry(builder=cnn1d, input=(6, 128), description="1-D CNN over sensor windows: six channels, 128 steps"),
        "transformer": Entry(builder=transformer, input=(6, 128), description="transformer encoder over sensor windows, 16 patches"),
    }
)


def entry(name: str) -> Entry:
    """The entry called ``name``; RecipeError when there is none."""
    if name not in NETWORKS:
        raise RecipeError(f"zoo: '{name}' is unknown; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(name: str, **settings: Any) -> nn.Module:
    """The network ``name`` with fresh weights from torch's generator; settings: other than the entry's (``classes=``, ``channels=`` …)."""
    found = entry(name)
    try:
        return found.builder(**{**found.settings, **settings})
    except TypeError as error:
        raise RecipeError(f"zoo: '{name}' does not take these settings ({error})") from error


def load(name: str) -> Network:
    """The network ``name`` with its trained weights, captured, in evaluation mode.

    Raises RecipeError for an unknown name; FileError when it has no trained weights, or their file is missing, damaged or another's.
    """
    found = entry(name)
    if found.weights is None:
        raise FileError(f"zoo: '{name}' has no trained weights; build it with karui.zoo.build('{name}'), train and capture it")
    module = build(name)
    fill(module, Path(str(files("karui.zoo") / "weights" / found.weights)))
    return capture(module.eval(), torch.zeros(2, *found.input), name=name)


def fill(module: nn.Module, path: Path) -> None:
    """Put the weights of a safetensors file into ``module``. Raises FileError unless names, shapes and values are as they must be."""
    arrays, _ = load_arrays(path)
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    differing = sorted(arrays.keys() ^ wanted.keys())
    if differing:
        place = "lacks" if differing[0] in wanted else "has the extra tensor"
        raise FileError(f"'{path}' {place} '{differing[0]}'; it holds the weights of another network than {type(module).__name__}")
    for key, array in arrays.items():
        tensor = torch.from_numpy(array)
        if tensor.shape != wanted[key].shape:
            raise FileError(f"'{path}': '{key}' has shape {list(tensor.shape)}, {type(module).__name__} expects {list(wanted[key].shape)}")
        if not bool(torch.isfinite(tensor).all()):
            raise FileError(f"'{path}': '{key}' holds NaN or infinity; the file is damaged")
        wanted[key].copy_(tensor)
