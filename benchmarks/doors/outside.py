"""Definitions of others, with fresh weights: torchvision, timm, pytorchcv, keras.applications, and small Keras models of ours.

Classes are ten, pictures small: it is operators and shapes that are tried, and C of millions of weights takes its compiler long.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.doors.opened import Opened, Subject, of_keras, of_torch

TORCHVISION = {
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "mnasnet0_5": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "densenet121": 64,
    "googlenet": 64,
}
TIMM = {
    "mobilenetv4_conv_small": 64,
    "ghostnet_050": 64,
    "tinynet_e": 96,
    "mixnet_s": 64,
    "rexnet_100": 64,
    "dla46_c": 64,
    "convnext_atto": 64,
    "mobileone_s0": 64,
    "repvit_m0_9": 64,
    "starnet_s1": 64,
    "fastvit_t8": 64,
    "edgenext_xx_small": 64,
    "mobilevit_xxs": 64,
    "efficientvit_b0": 64,
    "deit_tiny_patch16_224": 64,
    "efficientformerv2_s0": 64,
}
PYTORCHCV = {
    "igcv3_wd4": (64, "classifier"),
    "menet108_8x1_g3": (64, "classifier"),
    "hardnet39ds": (64, "classifier"),
    "fastscnn_cityscapes": (96, "segmentation"),
}
APPLICATIONS = {
    "MobileNet": (64, {"alpha": 0.5}),
    "MobileNetV2": (64, {"alpha": 0.5}),
    "MobileNetV3Small": (64, {}),
    "EfficientNetB0": (64, {}),
    "DenseNet121": (64, {}),
    "NASNetMobile": (64, {}),
    "ConvNeXtTiny": (64, {}),
    "Xception": (96, {}),
    "ResNet50V2": (64, {}),
}


def subjects() -> Iterator[Subject]:
    """All of them."""
    for name, size in TORCHVISION.items():
        yield Subject(name=f"torchvision/{name}", kind="classifier", open=_torchvision(name, size))
    yield Subject(name="torchvision/lraspp_mobilenet_v3_large", kind="segmentation", open=_segmenting(64))
    for name, size in TIMM.items():
        yield Subject(name=f"timm/{name}", kind="classifier", convolutional=not name.startswith("deit"), open=_timm(name, size))
    for name, (size, kind) in PYTORCHCV.items():
        yield Subject(name=f"pytorchcv/{name}", kind=kind, open=_pytorchcv(name, size, kind))
    for name, (size, settings) in APPLICATIONS.items():
        yield Subject(name=f"keras/{name}", kind="classifier", open=of_keras(_application(name, size, settings)))
    yield Subject(name="keras/signal", kind="sensor", open=of_keras(signal))
    yield Subject(name="keras/two_inputs", kind="several inputs", open=of_keras(two_inputs))
    yield Subject(name="keras/unet", kind="segmentation", open=of_keras(unet))
    yield Subject(name="keras/lstm", kind="sequence", convolutional=False, open=of_keras(lstm))


def vision(name: str, **settings: Any) -> nn.Module:
    """A network of torchvision. Its wheel wants a CUDA build of torch, whose operators it declares and none of these networks uses."""
    _declare()
    models: Any = import_module("torchvision.models")
    more = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    return models.get_model(name, weights=None, num_classes=10, **more, **settings)


def _declare() -> None:
    for op in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, op):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _torchvision(name: str, size: int) -> Callable[[Path], Opened]:
    return of_torch(lambda: vision(name), (3, size, size))


class Out(nn.Module):
    """The map out of a dict that segmentations of torchvision answer with."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of each pixel."""
        return self.module(x)["out"]


def _segmenting(size: int) -> Callable[[Path], Opened]:
    return of_torch(lambda: Out(vision("lraspp_mobilenet_v3_large", weights_backbone=None)), (3, size, size))


def _timm(name: str, size: int) -> Callable[[Path], Opened]:
    def make() -> nn.Module:
        _declare()
        timm: Any = import_module("timm")
        sized = {"img_size": size} if name.startswith("deit") else {"resolution": size} if name.startswith("efficientformer") else {}
        return timm.create_model(name, num_classes=10, **sized)

    return of_torch(make, (3, size, size))


def _pytorchcv(name: str, size: int, kind: str) -> Callable[[Path], Opened]:
    def make() -> nn.Module:
        provider: Any = import_module("pytorchcv.model_provider")
        if kind == "classifier":
            return provider.get_model(name, pretrained=False, num_classes=10, in_size=(size, size))
        return provider.get_model(name, pretrained=False, in_size=(size, size), aux=False)

    return of_torch(make, (3, size, size))


# ── Keras ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _application(name: str, size: int, settings: dict[str, Any]) -> Callable[[Any], Any]:
    def make(keras: Any) -> Any:
        return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10, **settings)

    return make


def signal(keras: Any) -> Any:
    """A 1-D network over sensor windows."""
    layers = keras.layers
    stack = [layers.Input((128, 6)), layers.Conv1D(16, 5, strides=2, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    stack += [layers.SeparableConv1D(32, 3, padding="same", activation="relu"), layers.MaxPooling1D(2), layers.Dropout(0.2)]
    stack += [layers.Conv1D(32, 3, padding="causal", activation="elu"), layers.GlobalAveragePooling1D(), layers.Dense(3)]
    return keras.Sequential(stack, name="signal")


def two_inputs(keras: Any) -> Any:
    """A picture and readings → a class and a number."""
    layers = keras.layers
    picture, readings = layers.Input((32, 32, 3), name="picture"), layers.Input((8,), name="readings")
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(picture)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU(max_value=6.0)(layers.BatchNormalization()(layers.Conv2D(24, 1)(x)))
    x = layers.Concatenate()([layers.Flatten()(layers.AveragePooling2D(4)(x)), layers.Dense(16, activation="tanh")(readings)])
    return keras.Model([picture, readings], [layers.Dense(5, activation="softmax")(x), layers.Dense(1)(x)], name="two_inputs")


def unet(keras: Any) -> Any:
    """Segmentation."""
    layers = keras.layers
    x = start = layers.Input((48, 48, 3))
    kept = []
    for width in (8, 16):
        x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same", use_bias=False)(x)))
        kept.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    for width in (16, 8):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x) if width == 16 else layers.UpSampling2D(interpolation="bilinear")(x)
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(layers.Concatenate()([x, kept.pop()]))
    return keras.Model(start, layers.Conv2D(4, 1, activation="softmax")(x), name="unet")


def lstm(keras: Any) -> Any:
    """A sequence → three scores."""
    layers = keras.layers
    return keras.Sequential([layers.Input((24, 8)), layers.LSTM(24, return_sequences=True), layers.GRU(16), layers.Dense(3)], name="lstm")
