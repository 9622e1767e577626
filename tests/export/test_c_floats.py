"""Layers of floats in panels: the interpreter's numbers, of every geometry, with each instruction set that this processor has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.export import c
from karui.export.machines import MACHINES
from karui.program.interpreter import run
from karui.program.program import Program
from karui.run import compiler, host
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_layers import output_shape
from tests.program.single_op import floats, normal, program, tensor

PANELS = [name for name, machine in MACHINES.items() if machine.floats]
WITHOUT = (*QUICK, "-DMODEL_PLAIN")


def layer(kind: str, shape: Sequence[int], outputs: int, kernel: Sequence[int] = (), **a: Any) -> Program:
    """One layer; some have a bias, some a clamp."""
    groups = a.get("groups", 1)
    of = (outputs, *kernel, shape[-1] // groups)
    if kind != "linear":
        two = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1], "groups": 1}
        one = {"stride": 1, "padding": [0, 0], "dilation": 1, "groups": 1}
        a = (one if kind == "conv1d" else two) | ({"output_padding": [0, 0]} if kind == "conv_transpose2d" else {}) | a
    out = output_shape(kind, tuple(shape), of, a)
    weights = {"weight": floats(normal(*of))} | ({"bias": floats(normal(outputs))} if outputs % 3 else {})
    clamp = [-1.0, 2.5] if outputs % 2 else [0.0, None]
    return program(kind, [tensor("x", shape, None)], [tensor("y", out, None)], weights, **a, clamp=clamp)


SIZES = {
    "3 x 3": layer("conv2d", (7, 6, 5), 32, (3, 3), padding=[1, 1, 1, 1]),
    "33 channels": layer("conv2d", (5, 5, 4), 33, (3, 3), padding=[0, 2, 1, 0]),
    "17 channels": layer("conv2d", (4, 4, 3), 17, (2, 3)),
    "three panels, strides": layer("conv2d", (9, 11, 3), 48, (3, 3), stride=[2, 3]),
    "dilation": layer("conv2d", (9, 9, 6), 20, (3, 3), dilation=[2, 3], padding=[2, 3, 2, 3]),
    "groups": layer("conv2d", (5, 5, 12), 54, (3, 3), groups=3, padding=[1, 1, 1, 1]),
    "groups, 1 x 1": layer("conv2d", (5, 5, 12), 36, (1, 1), groups=2),
    "1 x 1": layer("conv2d", (13, 11, 9), 24, (1, 1)),
    "1 x 1, strides": layer("conv2d", (9, 8, 7), 16, (1, 1), stride=[2, 3]),
    "1 x 1, a border": layer("conv2d", (4, 4, 5), 18, (1, 1), padding=[1, 0, 0, 1]),
    "1 x 1, a border behind": layer("conv2d", (4, 4, 5), 18, (1, 1), padding=[0, 0, 1, 2]),
    "one pixel": layer("conv2d", (3, 3, 20), 40, (3, 3)),
    "two pixels": layer("conv2d", (3, 4, 7), 17, (3, 3)),
    "more pixels than a tile": layer("conv2d", (12, 12, 3), 16, (3, 3), padding=[1, 1, 1, 1]),
    "patches of many inputs": layer("conv2d", (4, 4, 1500), 10, (3, 3), padding=[1, 1, 1, 1]),
    "few channels": layer("conv2d", (5, 5, 4), 7, (3, 3)),
    "1-D": layer("conv1d", (19, 6), 20, (5,), stride=2, padding=[1, 2]),
    "linear": layer("linear", (37,), 41),
    "linear, 4 inputs": layer("linear", (4,), 16),
    "tokens": layer("linear", (11, 30), 19),
    "transposed": layer("conv_transpose2d", (4, 5, 6), 18, (3, 2), stride=[2, 1], padding=[1, 0, 0, 1], groups=2, output_padding=[1, 0]),
    "depthwise": layer("conv2d", (7, 9, 19), 19, (3, 3), groups=19, padding=[1, 1, 1, 1], stride=[1, 2]),
    "depthwise, few channels": layer("conv2d", (4, 4, 12), 12, (3, 3), groups=12, padding=[1, 1, 1, 1]),
    "depthwise, mostly border": layer("conv2d", (1, 2, 16), 16, (3, 3), groups=16, padding=[3, 2, 2, 4], stride=[1, 2]),
    "depthwise, dilation": layer("conv2d", (9, 8, 33), 33, (3, 2), groups=33, padding=[2, 3, 0, 3], dilation=[2, 3]),
    "depthwise, 1-D": layer("conv1d", (13, 20), 20, (5,), groups=20, padding=[2, 1]),
    "depthwise, 5 x 5": layer("conv2d", (6, 7, 40), 40, (5, 5), groups=40, padding=[2, 2, 2, 2]),
}


def same(machine: str, folder: Path, flags: tuple[str, ...], command: str | None = None) -> None:
    p = merged(SIZES)
    x = inputs_of(p, 2)
    agree(p, host.build(c.write(p, folder, machine=machine), flags=flags, compiler=command).run(x), run(p, x))


@pytest.mark.parametrize("flags", [QUICK, WITHOUT, ("-O3", "-fPIC")], ids=["O1", "no sets", "O3"])
@pytest.mark.parametrize("machine", PANELS)
def test_sizes(machine: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    same(machine, tmp_path, flags)


def test_another_compiler(tmp_path: Path) -> None:
    same("x86-64-v4", tmp_path, ("-O1", "-fPIC"), " ".join(compiler.ziglang()))


def test_they_go_in_panels_where_that_pays() -> None:
    for name, p in SIZES.items():
        used, few = set(c.model(p, machine="x86-64-v3").kernels), name in ("few channels", "depthwise, few channels")
        assert bool({"k_floats_f32", "k_floats_depth_f32"} & used) != few, name
    assert not any("k_floats_f32" in c.model(p).kernels for p in SIZES.values())


@pytest.mark.parametrize("flags", [QUICK, WITHOUT], ids=["sets", "no sets"])
def test_what_is_no_number_stays_so(flags: tuple[str, ...], tmp_path: Path) -> None:
    p = merged({"dense": layer("linear", (5,), 33), "depthwise": SIZES["depthwise"]})
    x = inputs_of(p, 1)
    x[0][0, 2], x[1][0, 0, 0, 0] = np.nan, np.inf
    agree(p, host.build(c.write(p, tmp_path, machine="x86-64-v4"), flags=flags).run(x), run(p, x))


def test_the_same_sums_whatever_is_beside_them(tmp_path: Path) -> None:
    p = layer("conv2d", (1, 13, 8), 24, (1, 1))
    library = host.build(c.write(p, tmp_path, machine="x86-64-v4"), flags=QUICK)
    x = inputs_of(p, 1)[0]
    whole, turned = library.run([x])[0], library.run([np.ascontiguousarray(x[:, :, ::-1])])[0]
    assert np.array_equal(whole, turned[:, :, ::-1])
