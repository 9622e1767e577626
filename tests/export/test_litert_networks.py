"""Whole networks of the zoo, quantized, in LiteRT: bit for bit, with its reference kernels and with XNNPACK's."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from karui.export import litert as target
from karui.lower.lower import lower
from karui.program.interpreter import Arithmetic, run
from karui.program.program import Program
from karui.run.litert import load
from karui.zoo.catalogue import build
from tests.lower.quantized import quantized
from tests.program.builders import sample

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (karui[litert])")

NETWORKS = {
    "resnet8": ({}, (3, 32, 32)),
    "ds_cnn": ({}, (1, 49, 10)),
    "mobilenet_v1_025": ({"size": 48}, (3, 48, 48)),
    "mobilenet_v2": ({"width": 0.25, "classes": 10, "size": 32}, (3, 32, 32)),
    "cnn1d": ({}, (6, 128)),
}


@cache
def int8(name: str) -> Program:
    settings, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = build(name, **settings)
    for _ in range(3):  # statistics that aren't trivial
        module(torch.randn(8, *shape))
    return lower(quantized(module.eval(), torch.randn(8, *shape)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("arithmetic", ["litert_ref", "xnnpack"])
def test_bit_for_bit(name: str, arithmetic: Arithmetic, tmp_path: Path) -> None:
    p = int8(name)
    inputs = sample(p, 3, seed=1)
    found = load(target.write(p, tmp_path), reference=arithmetic == "litert_ref").run(inputs)[0]
    expected = run(p, inputs, arithmetic=arithmetic)[0]
    assert expected.dtype == np.int8 and expected.std() > 5, "a constant output proves nothing"
    assert np.array_equal(found, expected), f"{(found != expected).sum()} of {found.size} differ"
