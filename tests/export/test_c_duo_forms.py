"""Layers by two channels whose weights are no bytes in full: decoded some duos at a time, and fours by lists."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.export import c
from karui.program.check_weight import spread_blocks
from karui.program.program import AffineValues, Block, CodebookValues, Element, Program, SignValues, TernaryValues, Values
from tests.export.many import QUICK, merged
from tests.export.test_c_machines import WITHOUT, convolution, same
from tests.export.test_c_signs import stacked

SCALE = np.asarray(0.0123, np.float32)


def packed(p: Program, bits: int, seed: int = 0) -> Program:
    """The same layer with random weights of so many bits."""
    w, rng = p.weights["weight"], np.random.default_rng(seed)
    codes = rng.integers(-(1 << bits >> 1), 1 << bits >> 1, w.shape).astype(np.int8)
    return with_values(p, AffineValues(bits=bits, codes=codes, scale=SCALE, zero_point=np.zeros((), np.int32)))


def palette(p: Program, entries: int, seed: int = 0) -> Program:
    """The same layer with a random palette."""
    w, rng = p.weights["weight"], np.random.default_rng(seed)
    index = rng.integers(0, entries, w.shape).astype(np.uint8)
    book = rng.integers(-127, 128, entries).astype(np.int8)
    return with_values(p, CodebookValues(index=index, codebook=book, scale=SCALE))


def with_values(p: Program, values: Values) -> Program:
    return Program(**{**vars(p), "weights": {"weight": replace(p.weights["weight"], values=values)}})


LONG = convolution(1, 6, 1402, 5, kernel=(1, 1), padding=[0, 0, 0, 0], seed=1)
FORMS = {
    **{f"{bits} bits": packed(convolution(5, 5, 7, 11, seed=bits), bits, bits) for bits in range(1, 8)},
    **{f"palette of {n}": palette(convolution(5, 5, 7, 11, seed=n), n, n) for n in (2, 5, 16, 64, 100)},
    "the last but one channel of a tile before": packed(LONG, 4),
    "two pixels": packed(convolution(3, 4, 7, 17, padding=[0, 0, 0, 0], seed=6), 3),
    "seven pixels, groups": palette(convolution(1, 7, 12, 15, groups=3, seed=7), 9),
}


def linear(inputs: int, outputs: int, seed: int) -> Program:
    """A 1 × 1 convolution of one pixel."""
    return convolution(1, 1, inputs, outputs, kernel=(1, 1), padding=[0, 0, 0, 0], seed=seed)


ONE = {
    **{f"{bits} bits": packed(linear(96, 11, bits), bits, bits) for bits in (1, 2, 4)},
    "signs": with_values(
        linear(64, 6, 5), SignValues(codes=(np.arange(6 * 64) % 3 % 2 * 2 - 1).astype(np.int8).reshape(6, 1, 1, 64), scale=SCALE)
    ),
    "ternary": with_values(
        linear(48, 5, 6),
        TernaryValues(codes=(np.arange(5 * 48) % 7 % 3 - 1).astype(np.int8).reshape(5, 1, 1, 48), positive=SCALE, negative=SCALE),
    ),
    "two channels": packed(linear(8, 2, 7), 4),
}


def few(p: Program, rows: int, columns: int, share: float, seed: int = 0) -> Program:
    """The same layer without that share of its blocks."""
    w, rng = p.weights["weight"], np.random.default_rng(seed)
    there = rng.random((-(-w.shape[0] // rows), -(-int(np.prod(w.shape[1:])) // columns))) >= share
    mask = spread_blocks(there, rows, columns, w.shape)
    values = replace(w.values, codes=np.where(mask, w.values.codes, 0).astype(np.int8))
    return Program(**{**vars(p), "weights": {"weight": replace(w, support=Block(rows=rows, columns=columns, mask=mask), values=values)}})


LISTED = {
    **{
        f"{rows} x 4, {share:.0%}": few(convolution(5, 5, 16, 24, seed=rows), rows, 4, share, rows)
        for rows in (1, 2, 16)
        for share in (0.5, 0.8, 0.95)
    },
    "nothing left": few(convolution(4, 5, 16, 16, seed=2), 16, 4, 1.0),
    "odd channels": few(convolution(3, 7, 8, 11, seed=3), 2, 4, 0.7, 3),
    "three channels": few(convolution(3, 7, 8, 3, seed=4), 1, 4, 0.6, 4),
    "groups": few(convolution(5, 5, 24, 33, groups=3, seed=5), 1, 8, 0.6, 5),
    "one pixel": few(convolution(1, 1, 96, 10, kernel=(1, 1), padding=[0, 0, 0, 0], seed=6), 2, 4, 0.7, 6),
    "two pixels": few(convolution(1, 2, 96, 10, kernel=(1, 1), padding=[0, 0, 0, 0], seed=7), 2, 4, 0.7, 7),
    "runs that end in a part of a four": few(convolution(6, 6, 6, 20, dilation=[2, 2], seed=8), 4, 6, 0.7, 8),
    "as many fours as a list can step over": few(convolution(1, 4, 5460, 2, kernel=(1, 1), padding=[0, 0, 0, 0], seed=9), 2, 4, 0.99, 9),
}


@pytest.mark.parametrize("flags", [QUICK, WITHOUT, ("-O3", "-fPIC")], ids=["O1", "plain", "O3"])
def test_forms(flags: tuple[str, ...], tmp_path: Path) -> None:
    same(merged(FORMS | LISTED | {f"{name}, one pixel": p for name, p in ONE.items()}), tmp_path, "cortex-m4", flags)


def test_all_of_them_go_by_twos() -> None:
    for name, p in FORMS.items():
        assert "k_duos_coded_i8" in c.model(p, machine="cortex-m4").kernels, name


def test_one_pixel_is_not_worth_decoding() -> None:
    for name, p in ONE.items():
        assert "k_packed_one_i8" in c.model(p, machine="cortex-m4").kernels, name
    for p in (packed(linear(96, 11, 0), 3), packed(linear(12, 11, 0), 4), packed(linear(96, 1, 0), 4), packed(convolution(2, 2, 8, 8), 4)):
        assert "k_packed_one_i8" not in c.model(p, machine="cortex-m4").kernels


def test_what_is_to_spare_holds_decoded_weights() -> None:
    """Where another op takes more memory, weights are decoded in one go, and the arena stays as it is."""
    last = packed(convolution(12, 12, 32, 32, seed=1), 4)
    large = convolution(24, 24, 4, 32, seed=2), convolution(24, 24, 32, 32, stride=[2, 2], seed=3)
    found = {}
    for name, layers in {"alone": (last,), "behind": (*large, last), "int8": (*large, convolution(12, 12, 32, 32))}.items():
        built = c.model(stacked(*layers), machine="cortex-m4")
        found[name] = built.arena_bytes, [int(each) for each in re.findall(r"\.tile = (\d+)", built.source)]
    assert [tiles for _, tiles in found.values()] == [[8], [16], []]
    assert found["alone"][0] < found["behind"][0] == found["int8"][0]


def test_fours_are_listed() -> None:
    """Zeros take no time; a list is there once for all duos that have the same zeros."""
    sizes = {}
    for name, p in LISTED.items():
        built = c.model(p, machine="cortex-m4")
        assert "k_duos_listed_i8" in built.kernels, name
        sizes[name] = sum(table.size for each, table in built.tables.items() if each.endswith("duo_lists"))
    assert sizes["16 x 4, 50%"] < sizes["2 x 4, 50%"] / 2
    dense = convolution(5, 5, 16, 24)
    for p in (dense, few(dense, 1, 4, 0.1), few(dense, 1, 1, 0.7)):  # nothing to skip, little to skip, bytes lost
        assert "k_duos_listed_i8" not in c.model(p, machine="cortex-m4").kernels


def test_so_few_weights_that_a_list_is_faster() -> None:
    """What decides is the number of pixels, too: decoding in full is paid once."""
    kernels = {}
    for pixels in (1, 49):
        p = convolution(1, pixels, 128, 32, kernel=(1, 1), padding=[0, 0, 0, 0])
        w = p.weights["weight"]
        mask = np.random.default_rng(0).random(w.shape) < 0.1
        values = replace(w.values, codes=np.where(mask, w.values.codes, 0).astype(np.int8))
        sparse = Program(**{**vars(p), "weights": {"weight": replace(w, support=Element(mask=mask), values=values)}})
        kernels[pixels] = c.model(sparse, machine="cortex-m4").kernels
    assert "k_sparse_i8" in kernels[1] and "k_duos_coded_i8" in kernels[49]
