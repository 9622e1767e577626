"""Which support a mask gets: its pattern, where the file gains by it; and nothing else than single elements where there is none."""

import numpy as np
import pytest

from karui.program.coding.reading import Sections
from karui.program.coding.runs import decode_runs, encode_runs
from karui.program.coding.weight import decode_weight, encode_weight, index_bytes
from karui.program.passes.support import support_of
from karui.program.program import Array, Block, Dense, Element, FloatValues, NofM, Weight


def n_of_m(n: int, m: int, shape: tuple[int, ...]) -> Array:
    order = np.random.default_rng(0).random((*shape[:-1], shape[-1] // m, m)).argsort(-1)
    return (order < n).reshape(shape)


def blocks(rows: int, columns: int, shape: tuple[int, int], kept: float = 0.4) -> Array:
    small = np.random.default_rng(1).random((-(-shape[0] // rows), -(-shape[1] // columns))) < kept
    return small.repeat(rows, 0).repeat(columns, 1)[: shape[0], : shape[1]]


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4)])
@pytest.mark.parametrize("shape", [(64, 64), (32, 3, 3, 16)], ids=str)
def test_n_of_m(n: int, m: int, shape: tuple[int, ...]) -> None:
    mask = n_of_m(n, m, shape)
    found = support_of(mask)
    assert isinstance(found, NofM) and (found.n, found.m) == (n, m) and found.mask is mask
    assert index_bytes(found) < index_bytes(Element(mask=mask))


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (4, 1), (2, 4), (4, 4)])
@pytest.mark.parametrize("shape", [(64, 64), (66, 63)], ids=str)
def test_blocks(rows: int, columns: int, shape: tuple[int, int]) -> None:
    mask = blocks(rows, columns, shape)
    found = support_of(mask)
    assert isinstance(found, Block) and (found.rows, found.columns) == (rows, columns)
    assert index_bytes(found) < index_bytes(Element(mask=mask))


def test_all_is_dense_and_chance_is_no_pattern() -> None:
    assert isinstance(support_of(np.ones((8, 8), bool)), Dense)
    rng = np.random.default_rng(2)
    almost = n_of_m(2, 4, (64, 64))
    almost[63, 63] = ~almost[63, 63]
    masks = [rng.random((64, 64)) < 0.5, np.zeros((64, 64), bool), rng.random(64) < 0.5, blocks(1, 4, (2, 8)), almost]
    assert all(isinstance(support_of(mask), Element) for mask in masks)


@pytest.mark.parametrize(("n", "m", "shape"), [(1, 4, (6, 8)), (2, 4, (3, 2, 8)), (3, 8, (5, 16)), (1, 1, (3, 3)), (4, 4, (2, 4))])
def test_runs_come_back(n: int, m: int, shape: tuple[int, ...]) -> None:
    mask = n_of_m(n, m, shape)
    data = encode_runs(mask, n, m)
    assert data is not None and np.array_equal(decode_runs(data, n, m, shape), mask)


@pytest.mark.parametrize(
    ("n", "m", "shape"), [(2, 4, (3, 6)), (2, 17, (1, 17)), (8, 16, (1, 16)), (5, 4, (1, 4))], ids=["cut off", "long", "many", "n > m"]
)
def test_runs_that_nobody_writes_are_refused(n: int, m: int, shape: tuple[int, ...]) -> None:
    assert encode_runs(np.ones(shape, bool), n, m) is None
    with pytest.raises(ValueError, match="runs of"):
        decode_runs(bytes(8), n, m, shape)


def test_a_number_that_is_no_choice_and_a_false_count_are_refused() -> None:
    with pytest.raises(ValueError, match="a choice of number 7 among 6"):
        decode_runs(b"\x07", 2, 4, (1, 4))
    mask = n_of_m(2, 4, (64, 64))
    weight = Weight(name="w", shape=mask.shape, support=NofM(n=2, m=4, mask=mask), values=FloatValues(data=mask.astype(np.float32)))
    entry, data = encode_weight(weight)
    assert entry["support"]["coding"] == "runs"
    assert np.array_equal(decode_weight(entry, Sections(data)).mask, mask)
    entry["support"]["stored"] -= 1
    with pytest.raises(ValueError, match="2048 places, expected 2047"):
        decode_weight(entry, Sections(data))
