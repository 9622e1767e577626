"""The record: written and read back equal; damage is named."""

import json
from pathlib import Path

import pytest

from karui.errors import FileError
from karui.report import record
from tests.report.sample import sample


def test_round_trip(tmp_path: Path) -> None:
    facts = record.of(sample())
    path = record.write(facts, tmp_path)
    assert path.name == "report.json"
    assert record.read(tmp_path) == record.read(path) == facts
    assert record.of(record.to_dict(facts)) == facts


def test_a_run_away_loss_is_not_a_number(tmp_path: Path) -> None:
    facts = sample()
    facts["history"] = [{"epoch": 1.0, "loss": float("nan"), "metric": float("inf")}]
    record.write(facts, tmp_path)
    (point,) = record.read(tmp_path).history
    assert point.loss is None and point.metric is None
    json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"verdict": {"ok": "perhaps"}}, "verdict.ok"),
        ({"layers": [{"op": "conv2d"}]}, "layers.0.name"),
        ({"format_version": 99}, "format_version 99"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(FileError, match=named) as caught:
        record.of(sample() | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"name": "a"', b"[]", b"\xff\xfe\x00", b'{"name": "a"}'])
def test_damage(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(FileError):
        record.read(tmp_path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="karui compress -o"):
        record.read(tmp_path)
