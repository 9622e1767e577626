"""``kill -9`` at the worst moments of a whole run; the same call again ends with the same bits, and leaves nothing half-written."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# The child dies by its own hand inside of the named function, before or after it did its work, at the n-th call.
CHILD = """
import importlib, os, signal, sys
import karui
from karui import api
from tests import flow

out, where, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if where:
    module, owner, name = where.split(":")
    home = importlib.import_module(module)
    home = getattr(home, owner) if owner else home
    inner, calls = getattr(home, name), [0]

    def dying(*args, **kwargs):
        calls[0] += 1
        if calls[0] >= count:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)

    setattr(home, name, dying)
training = karui.Training(steps=24, optimizer="adamw", lr=1e-3)
recipe = [
    karui.Phase(techniques=(karui.Prune(sparsity=0.6), karui.Distill()), training=training),
    karui.Phase(techniques=(karui.Quantize(samples=64), karui.Distill()), training=training),
]
api.compress(flow.network(), flow.data(), karui.Budget(drop=50), recipe, out=out, name="small")
"""
MOMENTS = {
    "in the first phase": ("karui.finetune.loop::_epoch", 1),
    "in the second phase": ("karui.finetune.loop::_epoch", 3),
    "during a checkpoint's write": ("karui.workspace::_flush", 4),
    "during the export": ("karui.workspace::_flush", 40),
    "before the report": ("karui.report.record::write", 1),
}


def run(out: Path, where: str = "", count: int = 0) -> int:
    done = subprocess.run([sys.executable, "-c", CHILD, str(out), where, str(count)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The program of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(out) == 0
    return (out / "program.karui").read_bytes()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_bits(moment: str, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, *MOMENTS[moment]) == -signal.SIGKILL
    assert not (out / "report.html").exists()
    assert run(out) == 0
    assert (out / "program.karui").read_bytes() == whole
    assert (out / "report.html").exists() and (out / "export" / "c" / "model.c").exists()
    assert not list(out.rglob("*.karui-tmp"))
