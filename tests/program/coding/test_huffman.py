import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.program.coding.huffman import LONGEST, canonical, code_lengths, decode, encode, encoded_size


@given(st.lists(st.integers(0, 255), max_size=300), st.booleans())
def test_round_trip_and_predicted_size(symbols, narrow):
    array = np.array(symbols, np.uint8) // (16 if narrow else 1)
    data = encode(array)
    assert np.array_equal(decode(data, len(array)), array)
    assert len(data) == encoded_size(np.bincount(array, minlength=256))


def plain_huffman_bits(counts):
    """The cost of an unlimited Huffman code, by the textbook's heap."""
    heap = [int(c) for c in counts if c]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        total += pair
        heapq.heappush(heap, pair)
    return total


@given(st.lists(st.integers(0, 60), max_size=40))  # too few for a code of 16 bits, which takes Fibonacci(18) = 2584 symbols
def test_lengths_are_as_good_as_an_unlimited_code_where_it_is_short(some):
    counts = np.zeros(256, np.int64)
    counts[: len(some)] = some
    if (counts > 0).sum() > 1:
        lengths = code_lengths(counts).astype(np.int64)
        assert (lengths * counts).sum() == plain_huffman_bits(counts)


def test_a_skewed_alphabet_stays_within_fifteen_bits():
    counts = np.zeros(256, np.int64)
    counts[:40] = 1.7 ** np.arange(40)
    lengths = code_lengths(counts)
    assert lengths.max() == LONGEST
    canonical(lengths)  # complete


def test_codes_are_numbered_by_length_then_symbol():
    lengths = np.zeros(256, np.uint8)
    lengths[[3, 5, 7, 9]] = [2, 1, 3, 3]
    codes = canonical(lengths)
    assert [int(codes[s]) for s in (5, 3, 7, 9)] == [0b0, 0b10, 0b110, 0b111]


def test_one_symbol_takes_one_bit_each():
    data = encode(np.full(80, 7, np.uint8))
    assert len(data) == 3 + 10
    assert (decode(data, 80) == 7).all()


def test_long_streams_cross_the_steps():
    symbols = np.clip(np.random.default_rng(0).standard_normal(300_000) * 30 + 128, 0, 255).astype(np.uint8)
    assert np.array_equal(decode(encode(symbols), len(symbols)), symbols)


def table(lengths, stream=b"\0\0"):
    packed = [a | b << 4 for a, b in zip(lengths[::2], lengths[1::2] + [0])]
    return bytes([0, len(lengths) - 1, *packed]) + stream


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (table([1, 2]), 1, "incomplete"),
        (table([1, 1, 1]), 1, "overcomplete"),
        (table([2]), 1, "incomplete"),
        (table([1, 0]), 1, "ends"),
        (table([1, 1]), 17, "can't lie in"),
        (table([2, 2, 2, 2]), 9, "ends early"),
        (table([1, 1]), 8, "behind"),
        (table([1, 1], b"\x01"), 7, "behind"),
        (table([1], b"\x80"), 8, "no Huffman code"),
        (b"\5\4\0\0", 1, "cut off"),
        (b"\0\xff\0", 1, "bytes for"),
        (b"", 1, "cut off"),
        (b"\0", 0, "isn't empty"),
    ],
)
def test_bad_tables_and_streams_are_refused(data, count, message):
    with pytest.raises(ValueError, match=message):
        decode(data, count)
