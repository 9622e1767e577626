"""The contract of targets as a suite: ``check_target(write)`` has one write small programs and says which promise it breaks.

A target written outside proves itself with the same call: ``check_target(my_target.write, run=my_runner)``.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from karui.errors import KaruiError, UnsupportedOp
from karui.export.artifact import Artifact
from karui.export.targets import Write
from karui.program.interpreter import run as interpret
from karui.program.program import Array, Program
from karui.testing.subjects import small_inputs, small_programs
from karui.verify.parity import compare

Run = Callable[[Artifact, Sequence[Array]], Sequence[Array]]
DIFFERING = 0.1  # share of the codes that may differ, by two at most, where a runtime has an arithmetic of its own


def check_target(write: Write, *, run: Run | None = None, exact: bool = True) -> None:
    """Run every check; raises AssertionError in one line that names the target and the promise it breaks.

    Args:
        write: the target's ``write(program, folder)``.
        run: gives the outputs ``[N, *shape]`` of an artefact for inputs ``[N, *shape]``, in the program's layouts; None: it can't run here.
        exact: integers equal the interpreter's bit for bit; False: for a runtime that rounds its own way, a tenth may be off a little.
    """
    for program in small_programs().values():
        with tempfile.TemporaryDirectory(prefix="karui-") as folder:
            artifact = check_files(write, program, Path(folder))
            if run is not None:
                check_answers(write, artifact, program, run, exact=exact)
    check_refusal(write)


def check_files(write: Write, program: Program, folder: Path) -> Artifact:
    """The artefact tells the truth about its files; they're the same each time; what else lies in the folder stays."""
    promise = _promise(write)
    once, twice = folder / "once", folder / "twice"
    once.mkdir()
    (once / "mine.txt").write_text("mine", encoding="utf-8")
    artifact, again = write(program, once), write(program, twice)
    promise(artifact.target == write.__module__.rpartition(".")[2], f"calls its artefact '{artifact.target}', not after its file")
    promise(artifact.folder == once and artifact.program == program.name, "names another folder or another program in its artefact")
    promise(artifact.main in artifact.files, "doesn't count its main file among its files")
    found = {path for path in once.rglob("*") if path.is_file()} - {once / "mine.txt"}
    promise(found == set(artifact.files), f"leaves {_names(found)} in the folder, its artefact tells of {_names(artifact.files)}")
    promise((once / "mine.txt").read_text(encoding="utf-8") == "mine", "changes a file that was in the folder before")
    promise(json.loads(json.dumps(dict(artifact.facts))) == artifact.facts, "tells facts that aren't plain JSON values")
    for path in artifact.files:
        same = path.read_bytes() == (twice / path.relative_to(once)).read_bytes()
        promise(same, f"writes another '{path.name}' the second time, from the same program")
    promise(again.files != artifact.files, "ignores the folder that it is given")
    return artifact


def check_answers(write: Write, artifact: Artifact, program: Program, run: Run, *, exact: bool = True) -> None:
    """It answers as the interpreter does: floats within 1e-4 of the largest, integers as ``exact`` says."""
    promise = _promise(write)
    inputs = small_inputs(program)
    for out, found, expected in zip(program.outputs, run(artifact, inputs), interpret(program, inputs), strict=True):
        where = f"at output '{out.name}' of '{program.name}'"
        promise(found.shape == expected.shape, f"gives {list(found.shape)} {where}, the interpreter {list(expected.shape)}")
        promise(found.dtype == expected.dtype, f"gives {found.dtype} {where}, the interpreter {expected.dtype}")
        integer = expected.dtype != np.float32
        seen = compare(found, expected, rule="exact" if integer else "tolerance")
        near = integer and not exact and seen.max_error <= 2 and seen.differing <= DIFFERING
        promise(seen.ok or near, f"is {seen.max_error:g} away from the interpreter {where}, {seen.differing:.1%} of the values differ")


def check_refusal(write: Write) -> None:
    """An op that it has no kernel for is refused by layer and kind, before anything is written."""
    promise = _promise(write)
    program = small_programs()["float"]
    strange = replace(program.ops[1], kind="divination", name="head.oracle")
    with tempfile.TemporaryDirectory(prefix="karui-") as folder:
        try:
            write(replace(program, ops=(program.ops[0], strange, *program.ops[2:])), Path(folder) / "new")
        except UnsupportedOp as error:
            promise("head.oracle" in str(error) and "divination" in str(error), f"refuses an op without its layer and kind: {error}")
        except (KaruiError, KeyError, ValueError) as error:
            promise(False, f"refuses an op that it doesn't know with {type(error).__name__}, not UnsupportedOp")
        else:
            promise(False, "takes an op that it doesn't know")
        promise(not [p for p in Path(folder).rglob("*") if p.is_file()], "leaves files behind where it refuses")


# ── how it is said ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _promise(write: Write) -> Callable[[bool, str], None]:
    def promise(kept: bool, broken: str) -> None:
        if not kept:
            raise AssertionError(f"{write.__module__}.{write.__qualname__} {broken}")

    return promise


def _names(paths: Sequence[Path] | set[Path] | tuple[Path, ...]) -> str:
    return ", ".join(sorted(path.name for path in paths)) or "nothing"
