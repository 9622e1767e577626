"""Keras 3 models: the graph of their PyTorch twin, with their own names."""

import os
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import karui
from karui.errors import CaptureError, ToolError
from karui.graph.doors import keras as door
from karui.graph.fidelity import difference
from karui.graph.network import Network
from karui.lower.lower import lower

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed (karui[keras])")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

L = keras.layers


def ops(network: Network) -> list[str]:
    return [str(n.target).removeprefix("aten.").split(".")[0] for n in network.module.graph.nodes if n.op == "call_function"]


def agrees(network: Network, model: object, *inputs: Tensor) -> None:
    """The network, fed with channels first, gives what the model gives."""
    first = [x.movedim(-1, 1) if tuple(x.shape[1:]) != spec.shape else x for spec, x in zip(network.inputs, inputs, strict=True)]
    with torch.no_grad():
        expected = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)  # type: ignore[operator]
        found = network.eval()(*first)
    expected = expected if isinstance(expected, list | tuple) else [expected]
    for a, b in zip(found, expected, strict=True):
        b = b.movedim(-1, 1) if b.dim() == 4 else b
        assert difference(a, b) < 1e-5


def trained(model: object) -> object:
    """With statistics that aren't trivial."""
    keras.utils.set_random_seed(0)
    for variable in model.variables:  # type: ignore[attr-defined]
        variable.assign(np.random.default_rng(len(variable.path)).uniform(0.2, 0.6, variable.shape))
    return model


def small() -> object:
    x = keras.Input((16, 16, 3), name="picture")
    y = L.ReLU(6.0)(L.BatchNormalization(name="bn")(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)))
    z = L.Activation("gelu")(L.DepthwiseConv2D(3, padding="same", name="depth")(y))
    z = L.Add()([y, L.Conv2D(8, 1, name="point")(z)])
    z = L.Dropout(0.5)(L.GlobalAveragePooling2D()(L.MaxPooling2D()(L.ZeroPadding2D(1)(z))))
    return trained(keras.Model(x, L.Dense(5, activation="softmax", name="head")(z)))


def test_the_graph_of_a_twin() -> None:
    model = small()
    network = karui.capture(model)
    assert ops(network) == "pad conv2d batch_norm relu6 conv2d gelu conv2d add pad max_pool2d mean dropout linear softmax".split()
    assert network.inputs[0].shape == (3, 16, 16)
    assert network.get("stem.kernel").shape == (8, 3, 3, 3) and network.get("head.kernel").shape == (5, 8)
    assert set(network.parameters()) == {
        "stem.kernel", "bn.gamma", "bn.beta", "depth.kernel", "depth.bias", "point.kernel", "point.bias", "head.kernel", "head.bias",
    }  # fmt: skip
    layers = {network.layer_of(n) for n in network.module.graph.nodes if n.op == "call_function"}
    assert {"stem", "bn", "depth", "point", "head"} <= layers
    agrees(network, model, torch.rand(3, 16, 16, 3))


def test_the_users_model_is_left_alone() -> None:
    model = small()
    before = [v.numpy().copy() for v in model.variables]  # type: ignore[attr-defined]
    network = karui.capture(model).train()
    network(torch.rand(4, 3, 16, 16))[0].sum().backward()
    with torch.no_grad():
        for p in network.parameters().values():
            p.add_(1.0)
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.variables, strict=True))  # type: ignore[attr-defined]
    assert all("call" not in layer.__dict__ for layer in model.layers)  # type: ignore[attr-defined]


def test_batch_norm_learns_in_training() -> None:
    network = karui.capture(small()).train()
    before = network.get("bn.moving_mean").clone()
    x = torch.rand(8, 3, 16, 16)
    assert not torch.equal(network(x)[0], network(x)[0]), "dropout drops"
    assert not torch.equal(network.get("bn.moving_mean"), before)


def test_it_lowers_without_transposes() -> None:
    kinds = [op.kind for op in lower(karui.capture(small())).ops]
    assert "transpose" not in kinds and kinds.count("conv2d") == 3


def stack(shape: tuple[int, ...], *layers: object, dtype: str = "float32") -> object:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


MODELS = {
    "sequence": lambda: stack((20, 6), L.Conv1D(8, 3, activation="relu"), L.MaxPooling1D(), L.Flatten(), L.Dense(3)),
    "separable": lambda: stack((8, 8, 4), L.SeparableConv2D(6, 3), L.Conv2DTranspose(3, 2, strides=2)),
    "norms": lambda: stack((9, 8), L.LayerNormalization(), L.Dense(4, activation="silu")),
    "embedding": lambda: stack((7,), L.Embedding(11, 6), L.GlobalAveragePooling1D(), L.Dense(2), dtype="int32"),
    "upsampling": lambda: stack((6, 6, 3), L.UpSampling2D(), L.Conv2D(2, 3, padding="same"), L.LeakyReLU()),
    "scaling": lambda: stack((6, 6, 3), L.Rescaling(1 / 127.5, offset=-1), L.Conv2D(2, 3), L.PReLU(), L.Flatten(), L.Dense(2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_other_layers(name: str) -> None:
    model = trained(MODELS[name]())
    network = karui.capture(model)
    shape = tuple(model.inputs[0].shape[1:])  # type: ignore[attr-defined]
    agrees(network, model, torch.randint(11, (3, *shape), dtype=torch.int32) if name == "embedding" else torch.rand(3, *shape))


def test_two_inputs_and_outputs() -> None:
    a, b = keras.Input((8, 8, 2), name="a"), keras.Input((4,), name="b")
    both = L.Concatenate()([L.Flatten()(L.Conv2D(3, 3)(a)), L.Dense(5)(b)])
    model = trained(keras.Model([a, b], [L.Dense(2)(both), L.Dense(3)(both)]))
    network = karui.capture(model)
    assert [spec.shape for spec in network.inputs] == [(2, 8, 8), (4,)]
    agrees(network, model, torch.rand(3, 8, 8, 2), torch.rand(3, 4))


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(CaptureError, match="call it once on an example"):
        karui.capture(keras.Sequential([L.Dense(3)]))


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ToolError, match="KERAS_BACKEND=torch"):
        door.twin_of(small())
