from itertools import product
from pathlib import Path

import pytest

from karui.lower.lower import lower
from tests.graph.doors.tflite_files import Build, agrees

CASES = list(product((2, 3, 4), (1, 2, 3), (0, 1), ((8, 9),)))


@pytest.mark.parametrize("kernel, stride, padding, size", CASES)
@pytest.mark.parametrize("kind", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_pools(tmp_path: Path, kind: str, kernel: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    b = Build()
    y = b.op(kind, [b.input([1, *size, 3])], "Pool2DOptions", filterHeight=kernel, filterWidth=kernel, strideH=stride, strideW=stride,
             padding=padding, fusedActivationFunction=2)  # fmt: skip
    network = agrees(b, tmp_path / "a.tflite", y)
    code = str(network.module.graph)
    assert ("avg_pool2d" if kind == "AVERAGE_POOL_2D" else "max_pool2d") in code and "permute" not in code
    lower(network)


@pytest.mark.parametrize("kind", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_windows_of_two_sizes(tmp_path: Path, kind: str) -> None:
    b = Build()
    y = b.op(kind, [b.input([1, 12, 5, 2])], "Pool2DOptions", filterHeight=4, filterWidth=2, strideH=3, strideW=1)
    agrees(b, tmp_path / "a.tflite", y)
