"""Some lines of a benchmark measured again: the others stay, unless another machine wrote them."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.harness import Row, at_most, main
from karui.errors import DataError


def lines(value: float):
    return {
        "1": lambda quick: iter([Row(case="1 a", figure="f", value=value)]),
        "2": lambda quick: iter([at_most("2 b", "g", value, 5.0, seeds=3)]),
    }


def call(monkeypatch: pytest.MonkeyPatch, value: float, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(SystemExit) as ended:
        main("benchmark", lines(value), timings=False)
    return int(ended.value.code or 0)


def test_only_measures_some_lines_and_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found.json"
    assert call(monkeypatch, 1.0, "--json", str(file)) == 0
    assert call(monkeypatch, 9.0, "--only", "2", "--json", str(file)) == 1  # a goal was missed
    rows = json.loads(file.read_text())["rows"]
    assert [(row["case"], row["value"], row["ok"]) for row in rows] == [("1 a", 1.0, None), ("2 b", 9.0, False)]
    assert call(monkeypatch, 2.0, "--only", "2", "1", "--json", str(file)) == 0
    assert [row["value"] for row in json.loads(file.read_text())["rows"]] == [2.0, 2.0]


def test_lines_of_another_machine_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found.json"
    call(monkeypatch, 1.0, "--json", str(file))
    held = json.loads(file.read_text())
    file.write_text(json.dumps(held | {"machine": {"cpu": "another"}}))
    monkeypatch.setattr(sys, "argv", ["benchmark", "--only", "1", "--json", str(file)])
    with pytest.raises(DataError, match="measure all lines here, without --only"):
        main("benchmark", lines(2.0), timings=False)
    assert json.loads(file.read_text())["machine"] == {"cpu": "another"}
