import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.program.coding.gaps import from_gaps, to_gaps
from karui.program.coding.index import CODINGS, decode_index, encode_index, index_sizes


@given(st.integers(1, 12), st.integers(1, 400), st.sampled_from((0.0, 0.003, 0.05, 0.5, 1.0)), st.integers(0, 2**32 - 1))
def test_every_coding_round_trips_in_the_bytes_it_predicts(rows, columns, density, seed):
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    sizes = index_sizes(mask)
    for coding in CODINGS:
        name, data = encode_index(mask, coding)
        assert (name, len(data)) == (coding, sizes[coding])
        assert np.array_equal(decode_index(coding, data, mask.shape, int(mask.sum())), mask)
    assert len(encode_index(mask)[1]) == min(sizes.values())


def test_each_coding_wins_somewhere():
    rng = np.random.default_rng(0)
    won = {
        encode_index(rng.random((rows, columns)) < d)[0]
        for d in (0, 0.001, 0.01, 0.05, 0.1, 0.5)
        for rows, columns in ((4, 50), (200, 400))
    }
    wide = np.zeros((2, 65536), bool)
    wide[:, ::9000] = True
    won.add(encode_index(wide)[0])
    won.add(encode_index(np.arange(300)[None] % 7 == 0)[0])
    small = np.zeros((1, 120), bool)
    small[0, ::13] = True
    won.add(encode_index(small)[0])
    assert {"bitmask", "gaps8", "rows", "huffman"} <= won


def test_a_wide_gap_takes_escapes():
    symbols = to_gaps(np.array([0, 16, 17, 62]), 15)
    assert symbols.tolist() == [0, 15, 0, 0, 15, 15, 14]
    assert from_gaps(symbols, 15, 4, 63).tolist() == [0, 16, 17, 62]


@pytest.mark.parametrize(
    ("coding", "data", "stored"),
    [
        ("bitmask", b"\x0f\x00", 3),  # four are set
        ("bitmask", b"\x0f", 4),  # cut off
        ("gaps8", b"\x00\x0f", 2),  # beyond the end
        ("gaps8", b"\x00\xff", 1),  # ends with an escape
        ("gaps8", b"\x00", 2),  # one is missing
        ("gaps4", b"\x01\x00\x00", 1),  # cut off
        ("gaps4", b"\xff\xff\xff\xff\x00", 1),  # a count that lies
        ("huffman", b"\xff\xff\xff\xff\x00\x00\x01\x00", 1),
        ("rows", b"\x09\x00", 1),  # rows of another sum
        ("rows", b"\x02\x00", 2),  # the same column twice
        ("zip", b"", 0),
        ("gaps8", b"", 17),  # more than there are
    ],
)
def test_bad_bytes_are_refused(coding, data, stored):
    with pytest.raises(ValueError):
        decode_index(coding, data, (2, 8), stored)
