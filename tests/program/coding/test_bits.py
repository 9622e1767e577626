import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.program.coding.bits import pack, pack_base3, packed_size, unpack, unpack_base3, width_of


@given(st.integers(1, 32), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_round_trip(width, count, seed):
    symbols = np.random.default_rng(seed).integers(0, 1 << width, count, dtype=np.uint64).astype(np.uint32)
    data = pack(symbols, width)
    assert len(data) == packed_size(count, width)
    assert np.array_equal(unpack(data, width, count), symbols)


def test_the_first_of_two_nibbles_is_the_low_half():
    assert pack(np.array([1, 2, 3]), 4) == bytes([0x21, 0x03])


def test_long_arrays_are_cut_at_whole_bytes():
    symbols = np.arange((1 << 20) + 5) % 8
    assert np.array_equal(unpack(pack(symbols, 3), 3, len(symbols)), symbols)


@pytest.mark.parametrize(("data", "width", "count"), [(b"\0", 4, 3), (b"\0\0", 4, 2), (b"\x10", 4, 1)])
def test_wrong_lengths_and_bits_behind_the_end_are_refused(data, width, count):
    with pytest.raises(ValueError):
        unpack(data, width, count)


@pytest.mark.parametrize(("entries", "width"), [(1, 1), (2, 1), (3, 2), (16, 4), (17, 5), (256, 8)])
def test_width_of(entries, width):
    assert width_of(entries) == width


@given(st.lists(st.integers(0, 2), max_size=40))
def test_base3_round_trip(digits):
    packed = pack_base3(np.array(digits, np.uint8))
    assert len(packed) == -(-len(digits) // 5)
    assert unpack_base3(packed, len(digits)).tolist() == digits


@pytest.mark.parametrize(("packed", "count"), [([243], 5), ([0, 0], 5), ([81], 4)])
def test_bad_base3_is_refused(packed, count):
    with pytest.raises(ValueError):
        unpack_base3(np.array(packed, np.uint8), count)
