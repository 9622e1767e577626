"""Finding and calling the C compiler, and what is said where there is none or it fails."""

import sys
from pathlib import Path

import pytest

from karui.errors import ToolError
from karui.export import c
from karui.run import compiler, host
from tests.program import builders


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without CC and with an empty path."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def tool(folder: Path, name: str, text: str = "exit 0") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_order_is_argument_environment_cc_ziglang(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_spec", lambda name: object())
    assert compiler.find() == [sys.executable, "-m", "ziglang", "cc"]
    tool(nowhere, "cc")
    assert compiler.find() == ["cc"]
    tool(nowhere, "mine")
    monkeypatch.setenv("CC", "mine -m32")
    assert compiler.find() == ["mine", "-m32"]
    assert compiler.find("cc -O1") == ["cc", "-O1"]


def test_none_at_all_says_what_to_install(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"apt install gcc.*pip install ziglang.*CC") as raised:
        host.build(c.write(builders.sensor(), nowhere / "c"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("asked", ["icc-that-is-not-here -O2", " "])
def test_the_one_asked_for_must_be_there(nowhere: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("CC", asked)
    with pytest.raises(ToolError, match="was not found"):
        compiler.find()


def test_its_first_complaint_in_one_line(nowhere: Path) -> None:
    tool(nowhere, "bad", "echo 'note: x' >&2; echo 'model.c:3: error: no' >&2; echo 'more' >&2; exit 1")
    with pytest.raises(ToolError) as raised:
        compiler.compile_c([str(nowhere / "bad")], [], what="'model.c'")
    assert "model.c:3: error: no" in str(raised.value) and "\n" not in str(raised.value)
    tool(nowhere, "full", "echo 'model.c:9:1: fatal error: error writing to /tmp/cc.s: No space left on device' >&2; exit 1")
    with pytest.raises(ToolError, match=r"disk is full \(error writing to /tmp/cc\.s: No space .*TMPDIR"):
        compiler.compile_c([str(nowhere / "full")], [], what="'model.c'")
    tool(nowhere, "silent", "exit 3")
    with pytest.raises(ToolError, match="exit status 3"):
        compiler.compile_c([str(nowhere / "silent")], [], what="'model.c'")
