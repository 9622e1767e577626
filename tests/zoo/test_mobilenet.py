import pytest

from karui.zoo.mobilenet import scaled


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.0, 32), (32, 0.25, 8), (64, 0.25, 16), (16, 0.35, 8), (24, 0.35, 8), (32, 0.35, 16), (96, 0.35, 32), (1280, 1.4, 1792)],
)
def test_widths_are_multiples_of_eight(channels: int, width: float, expected: int) -> None:
    """The published networks' own widths (Sandler et al. 2018's code gives 8, 8, 16, 32 at 0.35)."""
    assert scaled(channels, width) == expected
    assert expected % 8 == 0 and expected >= 0.9 * channels * width
