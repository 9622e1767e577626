"""Two threads: the same integers, no races, and a second caller who finds them at work does without."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from karui.export import c
from karui.program.interpreter import run
from karui.run import compiler, cross, host
from tests.export.many import QUICK, agree, inputs_of, merged
from tests.export.test_c_few import of
from tests.export.test_c_machines import convolution

MACHINE = "x86-64-v3"
TWO = ("-DMODEL_THREADS=2", "-pthread")
LAYERS = {
    "many pixels": convolution(28, 28, 32, 48, seed=1),
    "odd": convolution(29, 27, 31, 33, seed=2),
    "few pixels": convolution(3, 3, 256, 136, seed=3),
    "groups": convolution(19, 19, 64, 96, groups=2, seed=4),
    "small": convolution(4, 4, 8, 16, seed=5),
    "few bits": of(convolution(28, 27, 32, 56, seed=6), "4-bit"),
    "few bits, one pixel": of(convolution(1, 1, 2048, 1040, kernel=(1, 1), padding=[0, 0, 0, 0], seed=7), "sign"),
}


def test_the_same_integers_also_for_two_callers(tmp_path: Path) -> None:
    p = merged(LAYERS)
    inputs = inputs_of(p, count=4, seed=1)
    artefact = c.write(p, tmp_path, machine=MACHINE)
    expected = run(p, inputs)
    library = host.build(artefact, flags=(*QUICK, *TWO))
    agree(p, library.run(inputs), expected)
    with ThreadPoolExecutor(3) as callers:
        for found in callers.map(lambda _: library.run(inputs), range(6)):
            agree(p, found, expected)


def test_threads_are_only_where_they_are_asked_for(tmp_path: Path) -> None:
    source = c.model(merged(LAYERS), machine=MACHINE).source
    assert source.count("#if defined(MODEL_THREADS)") == source.count("MODEL_THREADS)")
    assert "pthread" not in c.model(LAYERS["small"]).source, "portable C has none"


def test_no_races(tmp_path: Path) -> None:
    """ThreadSanitizer watches two threads, and as many callers."""
    p = merged({name: LAYERS[name] for name in ("odd", "few bits")})
    artefact = c.write(p, tmp_path, machine=MACHINE)
    (tmp_path / "main.c").write_text(cross.around(host.read_header(artefact.main.with_suffix(".h"))), encoding="utf-8")
    program = tmp_path / "program"
    flags = ["-std=c99", "-O1", "-g", "-fsanitize=thread", *TWO]
    made = subprocess.run([*compiler.find(), *flags, "-o", program, artefact.main, tmp_path / "main.c", "-lm"], capture_output=True)
    if made.returncode:
        pytest.skip("the compiler has no ThreadSanitizer")
    x = inputs_of(p, count=1, seed=3)
    done = subprocess.run([program], input=b"".join(each.tobytes() for each in x), capture_output=True)
    if b"unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer doesn't bear this kernel's memory map")
    assert done.returncode == 0 and b"data race" not in done.stderr, done.stderr.decode()[:2000]
    assert np.array_equal(np.frombuffer(done.stdout, np.int8), np.concatenate([y.reshape(-1) for y in run(p, x)]))
