"""kill -9 at any moment, the same call again: the same bits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
IN_PHASE_1, IN_PHASE_2 = 4, 9  # of the twelve steps; the first phase changes the network's structure before its fourth


def attempts(folder: Path, *events: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.finetune.killed", str(folder), *events]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(whole: dict[str, Any], killed: list[dict[str, Any]]) -> None:
    for each in killed:
        where = f"{each['kind']} {each['count']}"
        assert each["died"], f"{where}: the run ended before it could be killed"
        assert each["result"] == whole["result"], f"{where}: another result"
        assert each["end"] == [".lock", "01.json", "01.pt2", "02.json", "02.pt2", "karui-run.json"], where


def test_killed_in_each_phase_and_in_a_write(tmp_path: Path) -> None:
    events = [f"step:{IN_PHASE_1}", f"step:{IN_PHASE_2}", "write:3", "finish:0"]
    whole, *killed = attempts(tmp_path, *events)
    check(whole, killed)
    first, second, write, finish = killed
    assert "01.checkpoint" in first["left"] and "01.pt2" not in first["left"]
    assert "02.checkpoint" in second["left"] and "01.json" in second["left"]
    assert any(name.endswith(".karui-tmp") for name in write["left"])
    assert "01.checkpoint" in finish["left"] and "01.pt2" not in finish["left"]


@pytest.mark.slow
def test_killed_anywhere(tmp_path: Path) -> None:
    events = [f"step:{n}" for n in range(0, 12, 2)] + [f"{kind}:{n}" for kind in ("write", "rename") for n in range(0, 17)] + ["finish:1"]
    whole, *killed = attempts(tmp_path, *events)
    check(whole, killed)
