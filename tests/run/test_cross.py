"""The program around a model: what it reads, writes and measures, compiled for this machine."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from karui.errors import ToolError
from karui.export import c
from karui.program.interpreter import run
from karui.program.program import Program
from karui.run import compiler, cross, host, measure
from tests.export.many import agree, inputs_of
from tests.golden.every import every
from tests.program import builders


def compiled(p: Program, folder: Path, *, timed: bool, spoil: str = "") -> tuple[host.Signature, Path]:
    model = c.write(p, folder).main
    text = model.read_text(encoding="utf-8")
    begin = text.index("{", text.index("int model_run(")) + 1
    model.write_text(f"{text[:begin]}{spoil}{text[begin:]}", encoding="utf-8")
    signature = host.read_header(model.with_suffix(".h"))
    (folder / "main.c").write_text(cross.around(signature, timed=timed), encoding="utf-8")
    sources = [folder / "main.c", model]
    compiler.compile_c(["gcc"], [*host.STRICT, "-O1", "-o", folder / "program", *sources, "-lm"], what="program")
    return signature, folder / "program"


@pytest.mark.parametrize("timed", [False, True])
def test_answers(timed: bool, tmp_path: Path) -> None:
    p = every()  # it has a state, too, so each sample has to begin anew
    signature, program = compiled(p, tmp_path, timed=timed)
    inputs = inputs_of(p, 3)
    told = subprocess.run([program], input=cross.fed(signature, inputs), capture_output=True, check=True).stdout
    found = cross.answered(signature, told, 3)
    assert found is not None and cross.answered(signature, told[:-1], 3) is None
    agree(p, found, run(p, inputs))


def test_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    p = builders.lenet(integer=True)
    signature, program = compiled(p, tmp_path, timed=True)
    inputs = inputs_of(p, 1)
    told = subprocess.run([program, "time"], input=cross.fed(signature, inputs), capture_output=True, check=True).stdout
    there = measure.timing(np.frombuffer(told, "<f8").tolist())
    here = measure.latency(host.build(tmp_path, compiler="gcc", flags=("-O1", "-fPIC")).call(inputs), seconds=0.1)
    assert 5 <= there.runs <= 0.1 / measure.SHORTEST and there.p10 <= there.median_ms <= there.p90
    assert 0.2 < there.median_ms / here.median_ms < 5
    assert subprocess.run([program, "time"], input=b"", capture_output=True, check=False).returncode == 3


def test_it_ends_itself_where_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross, "SECONDS", 1)
    p = builders.lenet(integer=True)
    signature, program = compiled(p, tmp_path, timed=True, spoil="for (;;) { volatile int go = 1; (void)go; }")
    done = subprocess.run([program], input=cross.fed(signature, inputs_of(p, 1)), capture_output=True, check=False, timeout=30)
    assert done.returncode == -14  # SIGALRM


def test_without_ziglang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross, "find_spec", lambda _: None)
    with pytest.raises(ToolError, match="ziglang, which compiles for other processors, is missing; install it: pip install ziglang"):
        cross.compile_for(["aarch64-linux-musl"], c.write(builders.lenet(), tmp_path), tmp_path)
