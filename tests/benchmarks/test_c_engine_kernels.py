"""Line 0 of benchmarks.c_engine: its layers are what they are called, and give the interpreter's numbers."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.c_engine import kernels, signs_elsewhere
from karui.export import c
from karui.program.interpreter import run
from karui.run import host
from tests.export.many import QUICK, agree, inputs_of, merged


@pytest.mark.parametrize("machine", ["portable", "x86-64-v3", "x86-64-v4"])
def test_every_kind_like_the_interpreter(machine: str, tmp_path: Path) -> None:
    p = merged({f"p{i}": make() for i, make in enumerate(kernels.KINDS.values())})
    x = inputs_of(p, 1)
    agree(p, host.build(c.write(p, tmp_path, machine=machine), flags=QUICK).run(x), run(p, x))


def test_a_kernel_that_is_the_portable_one_is_called_so(tmp_path: Path) -> None:
    sparse = kernels.KINDS["float, single weights, 90% zeros, 3x3"]()
    rows = {row.case: row.value for row in kernels.on_host("zeros", sparse, tmp_path, 0.05)}
    assert set(rows.values()) - {rows["0 zeros, portable"]} <= {"portable"}


def test_zeros_are_as_many_as_the_name_says() -> None:
    for name, share in {"blocks of 16x4, 80% zeros, 3x3": 0.8, "single weights, 90% zeros, 3x3": 0.9, "2 of 4, 3x3": 0.5}.items():
        mask = kernels.KINDS[name]().weights["weight"].mask
        assert abs(1 - mask.mean() - share) < 0.03, name


def test_a_layer_beside_larq_never_meets_its_threshold_evenly() -> None:
    p, bias = signs_elsewhere.layer(5, 16)
    x = inputs_of(p, 1)
    windows = np.lib.stride_tricks.sliding_window_view(x[0][0].astype(np.int32), (3, 3), (0, 1))
    sums = np.einsum("yxcij,oijc->yxo", windows, p.weights["weight"].codes().astype(np.int32))
    assert np.array_equal(run(p, x)[0][0], np.where(sums / 2 + bias > -0.5, 0, -1))
