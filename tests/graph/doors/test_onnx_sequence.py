"""Recurrent layers, attention, embeddings, and onnxruntime's own ops, against onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from karui.errors import UnsupportedOp
from karui.graph.doors.onnx import read
from karui.lower.lower import lower
from karui.program.interpreter import run
from tests.graph.doors.onnx_models import check, expected, model, ops_of, saved

N, F = helper.make_node, np.float32
RNG = np.random.default_rng(3)
STEPS, INPUT, WIDTH = 5, 4, 3


def real(*shape: int) -> np.ndarray:
    return RNG.uniform(-1, 1, shape).astype(F)


def recurrent(kind: str, direction: str = "forward", *, bias: bool = True, starts: bool = False, ends: str = "Y") -> Any:
    """x [batch, steps, features] → transposed → the layer → transposed back, or its last state."""
    sides, gates = 2 if direction == "bidirectional" else 1, 4 if kind == "LSTM" else 3
    constants = {"w": real(sides, gates * WIDTH, INPUT), "r": real(sides, gates * WIDTH, WIDTH)}
    inputs = ["t", "w", "r"]
    if bias or starts:
        constants["b"] = real(sides, 2 * gates * WIDTH)
        inputs.append("b")
    if starts:
        constants |= {"h": real(sides, 1, WIDTH), "c": real(sides, 1, WIDTH)}
        inputs += ["", "h"] + (["c"] if kind == "LSTM" else [])
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    outputs = ["s", "last"] if ends == "Y" else ["", "last"]
    nodes = [
        N("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        N(kind, inputs, outputs, name="rnn", hidden_size=WIDTH, direction=direction, **more),
    ]
    if ends == "Y":
        nodes += [N("Transpose", ["s"], ["p"], perm=[2, 0, 1, 3]), N("Reshape", ["p", "shape"], ["y"])]
        constants["shape"] = np.array([0, 0, -1], np.int64)
    else:
        nodes += [N("Transpose", ["last"], ["y"], perm=[1, 0, 2])]
    return nodes, constants


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("ends", ["Y", "Y_h"])
@pytest.mark.parametrize("first", ["N", 1])
def test_recurrent_layers(kind: str, direction: str, ends: str, first: Any, tmp_path: Path) -> None:
    nodes, constants = recurrent(kind, direction, ends=ends)
    network = check(model(nodes, {"x": [first, STEPS, INPUT]}, constants), tmp_path, [real(3, STEPS, INPUT)])
    assert f"{kind.lower()}.input" in ops_of(network)
    assert "rnn.weight_ih_l0" in network.parameters()
    x = real(1, STEPS, INPUT)
    (found,) = run(lower(network), [x])
    np.testing.assert_allclose(found, expected(tmp_path / "net.onnx", [x])[0].reshape(found.shape), atol=1e-5)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_without_a_bias_and_from_a_state(kind: str, tmp_path: Path) -> None:
    for options in ({"bias": False}, {"starts": True}):
        nodes, constants = recurrent(kind, **options)
        x = [1, STEPS, INPUT] if "starts" in options else ["N", STEPS, INPUT]
        check(model(nodes, {"x": x}, constants), tmp_path, [real(3, STEPS, INPUT)])


def test_what_torch_has_no_layer_for_is_refused(tmp_path: Path) -> None:
    for change, words in ((("linear_before_reset", 0), "linear_before_reset = 0"), (("clip", 1.0), "a clip")):
        nodes, constants = recurrent("GRU")
        nodes[1].attribute.extend([helper.make_attribute(*change)])
        if change[0] == "linear_before_reset":
            nodes[1].attribute.remove(next(a for a in nodes[1].attribute if a.name == "linear_before_reset" and a.i))
        with pytest.raises(UnsupportedOp, match=f"'rnn' has .*{words}"):
            read(saved(model(nodes, {"x": ["N", STEPS, INPUT]}, constants), tmp_path))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(flat: bool, causal: int, tmp_path: Path) -> None:
    shape: list[Any] = ["N", 6, 8] if flat else ["N", 2, 6, 4]
    heads = {"q_num_heads": 2, "kv_num_heads": 2} if flat else {}
    nodes = [N("Attention", ["q", "k", "v"], ["y"], is_causal=causal, scale=0.4, **heads)]
    given = [real(3, *shape[1:]) for _ in range(3)]
    network = check(model(nodes, dict.fromkeys("qkv", shape), opset=23), tmp_path, given)
    assert "scaled_dot_product_attention" in ops_of(network)


def test_an_embedding(tmp_path: Path) -> None:
    nodes = [N("Gather", ["emb.weight", "x"], ["g"]), N("ReduceMean", ["g"], ["y"], axes=[1], keepdims=0)]
    x = RNG.integers(0, 9, (3, 5))
    proto = model(nodes, {"x": ["N", 5]}, {"emb.weight": real(9, 4)}, kinds={"x": TensorProto.INT64})
    network = check(proto, tmp_path, [x])
    assert ops_of(network)[0] == "embedding" and set(network.parameters()) == {"emb.weight"}


MICROSOFT: dict[str, tuple[Any, dict[str, np.ndarray]]] = {
    "Gelu": (N("Gelu", ["x"], ["y"], domain="com.microsoft"), {}),
    "FastGelu": (N("FastGelu", ["x", "b"], ["y"], domain="com.microsoft"), {"b": real(6)}),
    "BiasGelu": (N("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft"), {"b": real(6)}),
    "QuickGelu": (N("QuickGelu", ["x"], ["y"], domain="com.microsoft"), {}),
    "FusedMatMul": (N("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transB=1, alpha=0.5), {"w": real(5, 6)}),
    "SkipLayerNormalization": (
        N("SkipLayerNormalization", ["x", "x", "g", "h", "b"], ["y"], domain="com.microsoft", epsilon=1e-5),
        {"g": real(6), "h": real(6), "b": real(6)},
    ),
}


@pytest.mark.parametrize("kind", MICROSOFT)
def test_onnxruntimes_own_ops(kind: str, tmp_path: Path) -> None:
    node, constants = MICROSOFT[kind]
    check(model([node], {"x": ["N", 4, 6]}, constants), tmp_path, [real(3, 4, 6)])


def test_a_fused_convolution(tmp_path: Path) -> None:
    node = N("FusedConv", ["x", "w", "b"], ["y"], domain="com.microsoft", activation="Relu")
    check(model([node], {"x": ["N", 2, 5, 5]}, {"w": real(3, 2, 3, 3), "b": real(3)}), tmp_path, [real(3, 2, 5, 5)])
