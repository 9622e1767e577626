"""``kill -9`` at the worst moments of ``karui compress RECIPE.toml -o RUN``; the same command again ends with the same bits.

What is compared is everything that a run leaves: the program, the networks' tensors and graphs, the artefacts and every figure of the
record; only times, dates and the identities that torch gives its files differ.
"""

import itertools
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forked
from tests.forked import Karui, Trap

COMMAND = "compress recipe.toml -o run -q"
STEP = "karui.finetune.loop:_step"  # each phase makes six
MOMENTS = {
    "in the first phase": Trap(event="call", where=STEP, count=4),
    "in the second phase": Trap(event="call", where=STEP, count=9),
    "in a checkpoint's write": Trap(event="write", where=r"01\.checkpoint", count=3),
    "in the export": Trap(event="write", where=r"run/export/.*main\.c"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_command_ends_with_the_same_bits(moment: str, karui: Karui, undisturbed: Path, tmp_path: Path) -> None:
    trap, run = MOMENTS[moment], forked.user(tmp_path / "user") / "run"
    assert karui(COMMAND, run.parent, trap).code == -signal.SIGKILL
    assert bool(forked.leftovers(run)) == (trap.event != "call")  # it did die in the middle of a write
    assert not (run / "report.html").exists()
    done = karui(COMMAND, run.parent)
    assert (done.code, done.error) == (0, [])
    assert forked.leftovers(run) == []
    assert forked.contents(run) == forked.contents(undisturbed)


def test_killed_again_and_again_as_the_end_is_written(karui: Karui, undisturbed: Path, tmp_path: Path) -> None:
    run = forked.user(tmp_path / "user") / "run"
    shutil.copytree(undisturbed, run)
    for name in ("report.json", "report.html"):
        (run / name).unlink()
    for name in ("report.json", "report.html"):
        assert karui(COMMAND, run.parent, Trap(event="write", where=rf"run/\.{name}")).code == -signal.SIGKILL
        assert len(forked.leftovers(run)) == 1 and not (run / name).exists()
    # and between the two renames that put a new export in place of an old one
    assert karui(COMMAND, run.parent, Trap(event="rename", where=r"run/export/onnx$")).code == -signal.SIGKILL
    assert not (run / "export" / "onnx").exists() and (run / "export" / "c" / "model.c").exists()
    assert karui(COMMAND, run.parent).code == 0
    assert forked.leftovers(run) == []
    assert forked.contents(run) == forked.contents(undisturbed)


def test_an_export_by_itself(karui: Karui, undisturbed: Path, tmp_path: Path) -> None:
    words = f"export {undisturbed} --to c,device -o out"
    assert karui(words, tmp_path, Trap(event="write", where=r"out/.*device.*main\.c")).code == -signal.SIGKILL
    assert forked.leftovers(tmp_path)
    assert karui(words, tmp_path).code == 0
    assert forked.leftovers(tmp_path) == []
    for target in ("c", "device"):
        assert forked.contents(tmp_path / "out" / target) == forked.contents(undisturbed / "export" / target)


def test_interrupted_from_outside(karui: Karui, undisturbed: Path, tmp_path: Path) -> None:
    """Ctrl-C to a process that knows nothing of tests, when its first phase is over."""
    run = forked.user(tmp_path / "user") / "run"
    process = subprocess.Popen([sys.executable, "-m", "karui", *COMMAND.split()], cwd=run.parent, stdout=-1, stderr=-1, text=True)
    while not (run / "candidates" / "recipe" / "phases" / "01.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "error: interrupted; the same command goes on where this one stopped\n")
    assert process.returncode == 130 and forked.leftovers(run) == []
    assert karui(COMMAND, run.parent).code == 0
    assert forked.contents(run) == forked.contents(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("event", ["write", "rename"])
def test_killed_anywhere(event: str, karui: Karui, undisturbed: Path, tmp_path: Path) -> None:
    """At every fifth write and rename of a run."""
    for count in itertools.count(1, 5):
        run = forked.user(tmp_path / str(count)) / "run"
        if karui(COMMAND, run.parent, Trap(event=event, where="run/", count=count)).code != -signal.SIGKILL:
            break
        assert karui(COMMAND, run.parent).code == 0
        assert forked.leftovers(run) == []
        assert forked.contents(run) == forked.contents(undisturbed), f"{event} {count}"
    assert count > 40
