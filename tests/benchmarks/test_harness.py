"""Some lines of a benchmark measured again: the others stay, unless timings of two machines would stand side by side."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Row, at_most, main
from karui.errors import DataError
from karui.run.machine import machine


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


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "found.json"
    call(monkeypatch, 1.0, "--json", str(file))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"machine": {"cpu": "another", "cores": "1"}}))
    return file


def again(monkeypatch: pytest.MonkeyPatch, file: Path, line: str, timings: list[str]) -> dict[str, Any]:
    monkeypatch.setattr("benchmarks.harness.require_quiet", lambda: None)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--only", line, "--json", str(file)])
    with pytest.raises(SystemExit):
        main("benchmark", lines(2.0), timings=timings)
    return json.loads(file.read_text())


def test_timings_of_two_machines_are_not_mixed(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="measure those of all lines here: 1 2"):
        again(monkeypatch, elsewhere, "1", ["1", "2"])
    assert json.loads(elsewhere.read_text())["machine"]["cpu"] == "another"


def test_a_line_without_timings_is_measured_on_any_machine(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = again(monkeypatch, elsewhere, "1", ["2"])
    assert found["machine"]["cpu"] == "another"  # it is the timings' machine
    assert [row["value"] for row in found["rows"]] == [2.0, 1.0]


def test_the_machine_is_this_one_where_all_timings_are_new(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert again(monkeypatch, elsewhere, "2", ["2"])["machine"] == machine()
