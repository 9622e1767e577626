"""Figures as people read them."""

import pytest

from karui.report import words


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.number(1234.4), "1,234"),
        (words.number(999.96), "1,000"),
        (words.number(12.34), "12.3"),
        (words.number(0.01234), "0.0123"),
        (words.number(0), "0"),
        (words.number(1.23e-7), "1.23e-07"),
        (words.size(812), "812 B"),
        (words.size(86_123), "86.1 kB"),
        (words.size(1_720_000), "1.72 MB"),
        (words.amount(431_080), "431 k"),
        (words.milliseconds(0.0042), "4.20 µs"),
        (words.milliseconds(12.0), "12.0 ms"),
        (words.seconds(59.6), "1 min 0 s"),
        (words.seconds(7500), "2 h 5 min"),
        (words.points(-0.12, "%"), "−0.12 points"),
        (words.points(0.5, "mm"), "+0.5 mm"),
        (words.points(0.0, "%"), "±0.00 points"),
        (words.score(91.4, "%"), "91.40 %"),
        (words.percent(0.951), "95.1 %"),
        (words.percent(0.5), "50 %"),
        (words.ratio(words.times(100, 5)), "20.0×"),
        (words.ratio(words.times(100, None)), "—"),
        (words.ratio(words.times(100, 0)), "—"),
    ],
)
def test_words(written: str, expected: str) -> None:
    assert written == expected
