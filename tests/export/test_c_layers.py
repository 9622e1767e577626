"""Layers of weights in C: every support with every way of writing values, for every kind of layer, in integers and in floats."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.export import c, c_text
from karui.program.program import Affine, AffineValues, CodebookValues, Element, FloatValues, Op, Program, Weight
from karui.program.shapes import output_shapes
from karui.run import compiler
from tests.export.many import check, merged
from tests.program.single_op import affine, floats, program, tensor, weight
from tests.program.weights import SUPPORTS, VALUES, make_weight

IMAGE, SEQUENCE = (7, 6, 8), (11, 8)
LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    # name: kind, input shape, weight shape, attributes
    "linear": ("linear", (37,), (9, 37), {}),
    "tokens": ("linear", (3, 12), (6, 12), {}),
    "conv2d": ("conv2d", IMAGE, (9, 3, 2, 8), {"stride": [1, 2], "padding": [1, 0, 1, 1], "dilation": [1, 1], "groups": 1}),
    "pointwise": ("conv2d", IMAGE, (5, 1, 1, 8), {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1], "groups": 1}),
    "grouped": ("conv2d", IMAGE, (6, 3, 3, 4), {"stride": [2, 2], "padding": [2, 2, 2, 2], "dilation": [2, 2], "groups": 2}),
    "depthwise": ("conv2d", IMAGE, (8, 3, 3, 1), {"stride": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 8}),
    "multiplied": ("conv2d", IMAGE, (16, 2, 2, 1), {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 2], "groups": 8}),
    "conv1d": ("conv1d", SEQUENCE, (6, 3, 8), {"stride": 2, "padding": [1, 2], "dilation": 1, "groups": 1}),
    "depthwise1d": ("conv1d", SEQUENCE, (8, 5, 1), {"stride": 1, "padding": [2, 2], "dilation": 1, "groups": 8}),
    "transposed": (
        "conv_transpose2d",
        (3, 4, 6),
        (4, 3, 2, 3),
        {"stride": [2, 1], "padding": [1, 0, 0, 1], "dilation": [1, 2], "groups": 2, "output_padding": [1, 0]},
    ),
}


def output_shape(kind: str, x: tuple[int, ...], w: tuple[int, ...], a: dict[str, Any]) -> tuple[int, ...]:
    return output_shapes(Op(kind=kind, name="", inputs=(), outputs=("y",), attributes=a), [x], {"weight": w}, [])[0]


def one_layer(name: str, w: Weight, *, integer: bool, seed: int = 0) -> Program:
    """One layer with a bias and a clamp, around a weight."""
    kind, shape, _, attributes = LAYERS[name]
    shape = w.shape[1:] if name == "linear" else shape
    rng = np.random.default_rng(seed)
    out = output_shape(kind, shape, w.shape, attributes)
    bias = rng.standard_normal(w.shape[0]).astype(np.float32)
    clamp: list[Any] = [-0.5, 30.0]
    xq = yq = None
    if integer:
        xq, yq = affine(0.05, int(rng.integers(-20, 20))), affine(0.2, int(rng.integers(-20, 20)))
        clamp = [yq.zero_point - 30, None]
    p = program(
        kind, [tensor("x", shape, xq)], [tensor("y", out, yq)], {"weight": floats(bias), "bias": floats(bias)}, **attributes, clamp=clamp
    )
    return Program(**{**vars(p), "weights": {**p.weights, "weight": w}})


def integral(w: Weight) -> Weight:
    """The same weight where codebooks are int8 and scales are near 1, as in an integer network."""
    v = w.values
    if isinstance(v, CodebookValues) and v.codebook.dtype != np.int8:
        book = np.clip(np.rint(v.codebook * 40), -128, 127).astype(np.int8)
        return Weight(name=w.name, shape=w.shape, support=w.support, values=CodebookValues(index=v.index, codebook=book, scale=v.scale))
    return w


def all_pairs(support: str, integer: bool) -> Program:
    """Every way of writing values with one support, in every kind of layer."""
    programs = {}
    for values in VALUES:
        if integer and values == "float":
            continue
        for i, (name, (kind, _, shape, _)) in enumerate(LAYERS.items()):
            if integer and kind == "conv_transpose2d":
                continue
            for bits, density in ((8, 0.3), (4, 0.7), (2, 0.05)):
                w = make_weight(support, values, shape, seed=100 * i + bits, density=density, bits=bits, name="weight")
                programs[f"{values}{bits} {name}"] = one_layer(name, integral(w) if integer else w, integer=integer, seed=i)
    return merged(programs)


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("support", SUPPORTS)
def test_every_pair(support: str, integer: bool, tmp_path: Path) -> None:
    check(all_pairs(support, integer), tmp_path)


def test_the_pairs_reach_every_decoder_and_driver() -> None:
    used = {k for support in SUPPORTS for integer in (True, False) for k in c.model(all_pairs(support, integer)).kernels}
    kinds = ("k_where_", "k_codes_", "k_reals_", "k_dense_", "k_sparse_", "k_terms_", "k_depthwise_")
    wanted = {k for k in c_text.chunks() if k.startswith(kinds)}
    assert {k for k in wanted if not k.endswith("_huffman")} <= used  # those: test_c_huffman.py


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("support", SUPPORTS)
def test_each_pair_alone_brings_just_its_kernels(support: str, values: str, integer: bool, tmp_path: Path) -> None:
    if integer and values == "float":
        pytest.skip("floats have no codes")
    for name in ("linear", "depthwise"):
        w = make_weight(support, values, LAYERS[name][2], seed=3, name="weight")
        source = c.write(one_layer(name, integral(w) if integer else w, integer=integer), tmp_path).main
        # an unused static function or a missing one is an error here
        compiler.compile_c(["gcc"], ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", source], what=name)


def test_nothing_stored(tmp_path: Path) -> None:
    programs = {}
    for name in ("linear", "conv2d", "depthwise"):
        shape = LAYERS[name][2]
        for support in ("element", "block"):
            for integer in (True, False):
                w = make_weight(support, "affine" if integer else "float", shape, seed=1, density=0.0, name="weight")
                programs[f"{name} {support} {integer}"] = one_layer(name, w, integer=integer)
    check(merged(programs), tmp_path)


def test_codes_that_need_nine_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    programs = {}
    for name in ("linear", "conv2d", "depthwise"):
        shape = LAYERS[name][2]
        codes = rng.integers(-128, 128, shape).astype(np.int8)
        zero = np.where(np.arange(shape[0]) % 2, 127, -128).astype(np.int32)
        values = AffineValues(bits=8, codes=codes, scale=np.full(shape[0], 0.01, np.float32), zero_point=zero)
        programs[name] = one_layer(name, weight("weight", values), integer=True)
    check(merged(programs), tmp_path)


def test_rows_longer_than_16_bits_can_index(tmp_path: Path) -> None:
    shape = (2, 70_000)
    mask = np.random.default_rng(0).random(shape) < 0.001
    mask[:, -1] = True
    data = np.where(mask, 1.0, 0.0).astype(np.float32)
    w = Weight(name="weight", shape=shape, support=Element(mask=mask), values=FloatValues(data=data))
    p = program("linear", [tensor("x", (70_000,), None)], [tensor("y", (2,), None)], {"weight": floats(data)}, clamp=None)
    p = Program(**{**vars(p), "weights": {"weight": w}})
    check(p, tmp_path)
    assert "typedef uint32_t" in (tmp_path / "model.c").read_text()


def test_saturation_and_narrow_outputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = make_weight("dense", "affine", (9, 37), seed=1, name="weight")
    programs = {}
    for key, scale, bits in (("saturated", 1e-3, 8), ("coarse", 50.0, 8), ("four bits", 0.5, 4)):
        p = one_layer("linear", w, integer=True, seed=int(rng.integers(99)))
        y = Affine(bits=bits, scale=float(np.float32(scale)), zero_point=-3)
        tensors = {**p.tensors, "y": tensor("y", (9,), y)}
        ops = (replace(p.ops[0], attributes={"clamp": None}),)
        programs[key] = Program(**{**vars(p), "tensors": tensors, "ops": ops})
    check(merged(programs), tmp_path)
