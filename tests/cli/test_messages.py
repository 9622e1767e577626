"""What goes wrong for users, for real: one line that names the thing, an exit code, no traceback, and nothing half-written."""

import errno
import os
import zipfile
from pathlib import Path

import pytest

from karui import workspace
from karui.cli import main

USER = """
import torch
from torch import nn
import karui

def samples(n, bad=False):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    if bad:
        x[n // 2, 3] = float("nan")
    return x, (x[:, 0] > 0).long()

def data():
    return karui.Data.of(train=samples(64), validation=samples(32), test=samples(32))

def nan_data():
    return karui.Data.of(train=samples(64, bad=True), validation=samples(32), test=samples(32))

def broken_data():
    raise ValueError("no such table")

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        return torch.linalg.svd(self.head(x)[:, :, None])[0][:, :, 0] + self.head(x)

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        return self.head(x) if x.sum() > 0 else -self.head(x)

def odd():
    return Odd()

def branching():
    return Branching()
"""

RECIPE = """
network = "user:network"
data = "user:data"
[training]
steps = 2
[[techniques]]
technique = "quantize.int8"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, and the working directory."""
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "good.toml").write_text(RECIPE)
    (tmp_path / "not.toml").write_text("network = [")
    (tmp_path / "key.toml").write_text(RECIPE.replace("steps", "stepps"))
    (tmp_path / "technique.toml").write_text(RECIPE.replace("quantize.int8", "quantise.int8"))
    (tmp_path / "negative.toml").write_text("network = 'user:network'\ndata = 'user:data'\n[budget]\nbytes = -1\n")
    (tmp_path / "noise.pt2").write_bytes(os.urandom(200))
    (tmp_path / "noise.karui").write_bytes(os.urandom(200))
    (tmp_path / "empty.karui").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "odd.pt2", "w") as archive:
        archive.writestr("evil/data.pkl", b"cos\nsystem\n(S'touch hacked'\ntR.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "user", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compress not.toml -o run", "not.toml"),
        ("compress key.toml -o run", "did you mean 'steps'"),
        ("compress technique.toml -o run", "did you mean 'quantize.int8'"),
        ("compress negative.toml -o run", "bytes = -1"),
        ("compress none.toml -o run", "none.toml"),
        ("compress -n none.pt2 -d user:data -o run", "none.pt2"),
        ("compress -n noise.pt2 -d user:data -o run", "noise.pt2"),
        ("compress -n odd.pt2 -d user:data -o run", "odd.pt2"),
        ("compress -n zoo:lenet6 -d user:data -o run", "lenet5"),
        ("compress -n user:network -d digitz -o run", "digitz"),
        ("compress -n user:netwrk -d user:data -o run", "netwrk"),
        ("compress -n usr:network -d user:data -o run", "usr"),
        ("compress -n user:network -d user:nan_data -o run", "NaN"),
        ("compress -n user:network -d user:broken_data -o run", "no such table"),
        ("compress -n user:odd -d user:data -o run", "svd"),
        ("compress -n user:branching -d user:data -o run", "user.py"),
        ("sensitivity user:network -d user:data -o run --levels 0.5,1.5", "got 1.5"),
        ("sensitivity user:network -d user:data -o run --include 0,hed", "'hed'"),
        ("sensitivity user:network -d user:data -o run --samples 0", "samples"),
        ("sensitivity user:network -d user:data -o .", "not a karui run"),
        ("sensitivity user:network -d user:nan_data -o run", "NaN"),
        ("sensitivity zoo:lenet5 -d user:data -o run", "takes float32 [1, 28, 28]"),
        ("sensitivity none.pt2 -d user:data -o run", "none.pt2"),
        ("analyse zoo:lenet6", "lenet5"),
        ("analyse noise.pt2", "noise.pt2"),
        ("export none --to c", "none"),
        ("export noise.karui --to c", "noise.karui"),
        ("export empty.karui --to c", "empty.karui"),
        ("bench none", "none"),
        ("report none", "none"),
        ("report .", "not a karui run"),
    ],
)
def test_message(here: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path for path in here.rglob("*") if "__pycache__" not in path.parts}
    code = main([*words.split(), *(["-q"] if words.startswith(("compress", "sensitivity")) else [])])
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert code in (1, 2), captured.err
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], captured.err
    assert "fault of karui's" not in lines[0]
    assert captured.out == ""
    left = {path.name for path in here.rglob("*") if path.is_file() and "__pycache__" not in path.parts} - {path.name for path in before}
    assert not any(workspace.TEMPORARY in name for name in left)
    assert not left & {"report.json", "report.html", "program.karui", "model.c", "sensitivity.json", "sensitivity.html", "cells.json"}


def test_a_full_disk(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workspace, "_flush", full)
    assert main(["compress", "good.toml", "-o", "run", "-q"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "the disk is full" in lines[0]
    assert [path for path in here.rglob("*") if workspace.TEMPORARY in path.name] == []


def test_a_run_of_another_recipe_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run").mkdir()
    (here / "run" / "thesis.txt").write_text("mine")
    assert main(["compress", "good.toml", "-o", "run", "-q"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert (here / "run" / "thesis.txt").read_text() == "mine"
