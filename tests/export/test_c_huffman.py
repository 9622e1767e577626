"""Huffman codes in C: what is a palette is read from them, row after row, wherever they are shorter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.export.c_weights import Coded, _huffman, coded
from karui.program.program import CodebookValues, Dense, Element, Weight
from tests.export.many import check, merged
from tests.export.test_c_layers import one_layer

WIDE = {"linear": (40, 300), "conv2d": (9, 3, 2, 8), "depthwise": (8, 3, 3, 1), "grouped": (6, 3, 3, 4)}


def skewed(shape: tuple[int, ...], *, sparse: bool, integer: bool, seed: int = 0) -> Weight:
    """A codebook of 32 whose first entries are the usual ones; stored weights come in long runs."""
    rng = np.random.default_rng(seed)
    mask = np.ones(shape, bool)
    if sparse:
        mask = (np.cumsum(rng.random(int(np.prod(shape))) < 0.04) % 4 == 0).reshape(shape)
    index = np.where(mask, np.minimum(rng.geometric(0.6, shape) - 1, 31), 0).astype(np.uint8)
    book = rng.integers(-100, 100, 32).astype(np.int8) if integer else rng.standard_normal(32).astype(np.float32)
    support = Element(mask=mask) if sparse else Dense()
    return Weight(name="weight", shape=shape, support=support, values=CodebookValues(index=index, codebook=book, scale=np.float32(0.5)[()]))


def spelled(w: Coded) -> set[str]:
    return {str(value) for value in w.fields.values() if str(value).startswith("k_")}


@pytest.mark.parametrize("integer", [True, False], ids=["int8", "float"])
def test_layers_read_them(integer: bool, tmp_path: Path) -> None:
    programs, used = {}, set()
    for name, shape in WIDE.items():
        for sparse in (True, False):
            w = skewed(shape, sparse=sparse, integer=integer)
            used |= spelled(coded(w, integer=integer))
            programs[f"{name} {sparse}"] = one_layer(name, w, integer=integer)
    assert {"k_codes_huffman" if integer else "k_reals_huffman", "k_where_huffman"} <= used
    check(merged(programs), tmp_path)


def test_the_shorter_spelling_is_taken_and_an_embedding_can_seek() -> None:
    w = skewed((40, 300), sparse=True, integer=False)
    short, plain = coded(w, integer=False), coded(w, integer=False, in_order=False)
    assert spelled(plain) == {"k_reals_table", "k_where_gaps"} or spelled(plain) == {"k_reals_table", "k_where_bitmask"}
    sizes = [sum(table.nbytes for table in each.tables.values()) for each in (short, plain)]
    assert sizes[0] < sizes[1]
    even = replace(w, values=replace(w.values, index=np.where(w.mask, np.arange(12000).reshape(40, 300) % 32, 0).astype(np.uint8)))
    assert "k_reals_table" in spelled(coded(even, integer=False))


@given(symbols=st.lists(st.integers(0, 255), min_size=1, max_size=400), rare=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_reader_of_the_book_finds_every_symbol(symbols: list[int], rare: int) -> None:
    numbers = np.asarray(symbols) // rare
    found = _huffman(numbers)
    assert found is not None
    stream, book = found
    bits, at = np.unpackbits(stream), 0
    for expected in numbers:
        beyond, symbol = 0, 15
        for length in range(15):
            beyond, at = 2 * beyond + int(bits[at]), at + 1
            if beyond < book[length]:
                break
            beyond, symbol = beyond - int(book[length]), symbol + int(book[length])
        assert book[symbol + beyond] == expected
    assert len(bits) - at < 8


def test_no_book_for_nothing_or_for_what_bytes_cannot_count() -> None:
    assert _huffman(np.zeros(0, np.uint8)) is None
    assert _huffman(np.arange(256)) is None
