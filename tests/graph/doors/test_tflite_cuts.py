from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.lower.lower import lower
from tests.graph.doors.test_tflite_shapes import image, ints
from tests.graph.doors.tflite_files import Build, agrees

rng = np.random.default_rng(4)
# begin, end, strides and the masks' bits of x[1, 4, 6, 8]
SLICES: dict[str, tuple[Any, Any, Any, dict[str, int]]] = {
    "plain": ((0, 1, 2, 0), (1, 3, 6, 8), (1, 1, 1, 1), {}),
    "steps": ((0, 0, 1, 0), (1, 4, 6, 8), (1, 2, 3, 1), {}),
    "backwards": ((0, 3, 0, 7), (1, 0, 6, 0), (1, -1, 1, -2), {"endMask": 8}),
    "negative": ((0, -3, 0, -4), (0, -1, 0, 0), (1, 1, 1, 1), {"endMask": 0b1101}),
    "single": ((0, 2, 0, 0), (0, 3, 0, 0), (1, 1, 1, 1), {"beginMask": 0b1101, "endMask": 0b1101, "shrinkAxisMask": 2}),
    "channel": ((0, 0, 0, -1), (0, 0, 0, 0), (1, 1, 1, 1), {"beginMask": 0b111, "endMask": 0b111, "shrinkAxisMask": 8}),
    "ellipsis": ((0, 0, 3), (1, 0, 6), (1, 1, 1), {"ellipsisMask": 2}),
    "short": ((0, 1), (1, 3), (1, 1), {}),
    "new": ((0, 0, 1), (1, 0, 3), (1, 1, 1), {"newAxisMask": 2}),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_of_images(tmp_path: Path, name: str) -> None:
    begin, end, strides, masks = SLICES[name]
    b = Build()
    y = b.op("STRIDED_SLICE", [image(b), *(b.constant(ints(v)) for v in (begin, end, strides))], "StridedSliceOptions", rank=4, **masks)
    network = agrees(b, tmp_path / "a.tflite", y, images=name != "new")
    if name in ("plain", "steps", "ellipsis"):
        assert "permute" not in str(network.module.graph)
        lower(network)


@pytest.mark.parametrize("begin, size, shape", [((0, 1, 2, 0), (1, 2, 4, 8), (1, 2, 4, 8)), ((0, 1, 0, 3), (-1, -1, 6, -1), (1, 3, 6, 5))])
def test_slices(tmp_path: Path, begin: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    b = Build()
    y = b.op("SLICE", [image(b), b.constant(ints(begin)), b.constant(ints(size))], "SliceOptions", shape=shape)
    lower(agrees(b, tmp_path / "a.tflite", y))


@pytest.mark.parametrize("axis, places", [(3, [5, 0, 0]), (1, [1]), (-2, [[0, 1], [5, 2]]), (2, 4)])
def test_gathers(tmp_path: Path, axis: int, places: Any) -> None:
    b = Build()
    y = b.op("GATHER", [image(b), b.constant(ints(places))], "GatherOptions", axis=axis, rank=4)
    agrees(b, tmp_path / "a.tflite", y)


def test_gather_nd_of_a_constant(tmp_path: Path) -> None:
    b = Build()
    table = b.constant(rng.random((3, 4, 5)).astype(np.float32))
    y = b.op("MUL", [b.input([1, 5]), b.op("GATHER_ND", [table, b.constant(ints([[2, 1]]))], "GatherNdOptions")], "MulOptions")
    agrees(b, tmp_path / "a.tflite", y)


@pytest.mark.parametrize("axes", [[3], [1]])
def test_reversal(tmp_path: Path, axes: list[int]) -> None:
    b = Build()
    agrees(b, tmp_path / "a.tflite", b.op("REVERSE_V2", [image(b), b.constant(ints(axes))], "ReverseV2Options", rank=4))


@pytest.mark.parametrize("pads", [((0, 0), (1, 2), (0, 3), (0, 0)), ((0, 0), (0, 0), (0, 0), (2, 1)), ((0, 0), (0, 0), (0, 0), (0, 0))])
@pytest.mark.parametrize("value", [None, -1.5])
def test_pads(tmp_path: Path, pads: tuple[tuple[int, int], ...], value: float | None) -> None:
    b = Build()
    more = [] if value is None else [b.constant(value)]
    y = b.op("PAD" if value is None else "PADV2", [image(b), b.constant(ints(pads)), *more], rank=4)
    network = agrees(b, tmp_path / "a.tflite", y)
    assert "permute" not in str(network.module.graph)
    lower(network)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("pads", [((0, 0), (1, 2), (0, 3), (0, 0)), ((0, 0), (0, 0), (0, 0), (2, 1))])
def test_mirrored_pads(tmp_path: Path, mode: int, pads: tuple[tuple[int, int], ...]) -> None:
    b = Build()
    lower(agrees(b, tmp_path / "a.tflite", b.op("MIRROR_PAD", [image(b), b.constant(ints(pads))], "MirrorPadOptions", mode=mode, rank=4)))


SIZES = [(8, 12), (7, 9), (2, 3), (1, 1)]
WAYS = [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("corners, centres", WAYS)
@pytest.mark.parametrize(
    "kind, options", [("RESIZE_BILINEAR", "ResizeBilinearOptions"), ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")]
)
def test_sizes(tmp_path: Path, size: tuple[int, int], corners: bool, centres: bool, kind: str, options: str) -> None:
    b = Build()
    y = b.op(kind, [image(b), b.constant(ints(size))], options, alignCorners=corners, halfPixelCenters=centres, rank=4)
    network = agrees(b, tmp_path / "a.tflite", y)
    assert "permute" not in str(network.module.graph)
    lower(network)
