"""kill -9 at any moment, the same call again: the same bits."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from karui.compress.distill.hinton import Distill
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.finetune import loop
from karui.finetune.loop import Training
from karui.finetune.phases import Phase, run_phases
from tests.finetune import tiny

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


CHANNELS = Phase(techniques=(PruneChannels(pruning_ratio=0.3),), training=Training(steps=6, batch_size=20))
CUBIC = Phase(techniques=(Prune(sparsity=0.8), Distill()), training=Training(steps=8, batch_size=20))
ROUNDS = Phase(techniques=(Prune(sparsity=0.8, schedule="iterative"),), training=Training(steps=8, batch_size=20, optimizer="adamw"))
INT8 = Phase(techniques=(Quantize(), Distill()), training=Training(steps=6, batch_size=20))
LEARNED = Phase(techniques=(Quantize(learn_scales=True),), training=Training(steps=6, batch_size=20))


@pytest.mark.parametrize("phases, step", [((CHANNELS, CUBIC), 9), ((ROUNDS, INT8), 4), ((CUBIC, INT8), 11), ((LEARNED,), 3)])
def test_karui_s_own_techniques(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phases: tuple[Phase, ...], step: int) -> None:
    data = tiny.data()
    whole = run_phases(tiny.network(), data, phases, seed=1)
    count, real = itertools.count(), loop._step

    def stop(*args: Any) -> None:
        if next(count) == step:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_step", stop)
        run_phases(tiny.network(), data, phases, seed=1, directory=tmp_path, checkpoint_seconds=0.0)
    resumed = run_phases(tiny.network(), data, phases, seed=1, directory=tmp_path)
    assert resumed.network.fingerprint() == whole.network.fingerprint()
    assert resumed.phases == whole.phases
    assert repr(resumed.phases) == repr(whole.phases)  # the order of facts, too


@pytest.mark.slow
def test_killed_anywhere(tmp_path: Path) -> None:
    events = [f"step:{n}" for n in range(0, 12, 2)] + [f"{kind}:{n}" for kind in ("write", "rename") for n in range(0, 17)] + ["finish:1"]
    whole, *killed = attempts(tmp_path, *events)
    check(whole, killed)
