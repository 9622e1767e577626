from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from karui.errors import UnsupportedOp
from karui.export import c
from karui.export.artifact import Artifact
from karui.export.targets import targets
from karui.program.program import Array, Program
from karui.run import host
from karui.run.runners import runner, runners
from karui.testing.subjects import small_programs
from karui.testing.targets import Run, check_target
from karui.workspace import atomic_write


def in_c(artifact: Artifact, inputs: Sequence[Array]) -> list[Array]:
    return host.build(artifact, flags=("-O1", "-fPIC")).run(inputs)


def runs_where_it_can(name: str) -> Run | None:
    """A target's runner; the model in a device's folder is C."""
    if name not in runners():
        return in_c if name == "device" else None
    return lambda artifact, inputs: runner(name)(artifact).run(inputs)


@pytest.mark.parametrize("name", targets())
def test_every_target_keeps_the_contract(name: str) -> None:
    check_target(targets()[name], run=runs_where_it_can(name), exact=name not in ("onnx", "litert"))


def test_every_runner_has_its_target() -> None:
    assert set(runners()) <= set(targets())


def forgets_a_file(program: Program, folder: Path) -> Artifact:
    artifact = named(program, folder)
    return replace(artifact, files=artifact.files[1:])


def differs_each_time(program: Program, folder: Path) -> Artifact:
    artifact = named(program, folder)
    atomic_write(artifact.main, f"{artifact.main.read_text()}/* {folder} */\n")
    return artifact


def clears_the_folder(program: Program, folder: Path) -> Artifact:
    for path in folder.glob("*"):
        path.unlink()
    return named(program, folder)


def takes_anything(program: Program, folder: Path) -> Artifact:
    try:
        return named(program, folder)
    except UnsupportedOp:
        return named(small_programs()["float"], folder)


def half_written(program: Program, folder: Path) -> Artifact:
    atomic_write(folder / "model.c", "/* soon */")
    return named(program, folder)


def named(program: Program, folder: Path) -> Artifact:
    """Target ``c`` under the name of this file, as if it were the target's."""
    return replace(c.write(program, folder), target="test_targets")


def off_by_one(artifact: Artifact, inputs: Sequence[Array]) -> list[Array]:
    return [y if y.dtype == "float32" else y ^ 1 for y in in_c(artifact, inputs)]


@pytest.mark.parametrize(
    ("write", "run", "message"),
    [
        (c.write, off_by_one, "away from the interpreter at output"),
        (forgets_a_file, None, "leaves .* in the folder, its artefact tells of"),
        (differs_each_time, None, "writes another 'model.c' the second time"),
        (clears_the_folder, None, "mine.txt|No such file"),
        (takes_anything, None, "takes an op that it doesn't know"),
        (half_written, None, "leaves files behind where it refuses"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_suite_catches(write: Callable[[Program, Path], Artifact], run: Run | None, message: str) -> None:
    with pytest.raises((AssertionError, OSError), match=message):
        check_target(write, run=run)
