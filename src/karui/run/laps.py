"""Instructions of a model and of each of its ops: before each stands a call of a function that does nothing; there a count is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import compiler as compilers
from karui.run import host

CALL = "karui_lap"  # laps.c knows it, too
AROUND = 3  # laps of a run that aren't ops': two before it, which tell what a lap itself takes, and one after it
_OP = re.compile(r"^    /\* (?P<name>.+): (?P<kind>\w+), \S+.* → .*\*/\n", re.M)  # what the exporter writes before each op


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What runs came to. instructions: of ``run``, one number a sample. layers: (name, kind, instructions of the first sample), where they
    were asked for.
    """

    outputs: list[Array]
    instructions: tuple[int, ...]
    layers: tuple[tuple[str, str, int], ...]


def with_laps(text: str, name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The source of a model with a call before each op, and the ops' names and kinds."""
    start = text.index(f"int {name}_run(")
    head, body = text[:start], text[start:]
    ops = tuple((found["name"], found["kind"]) for found in _OP.finditer(body))
    return f"{head}void {CALL}(void);\n" + _OP.sub(lambda found: f"{found[0]}    {CALL}();\n", body), ops


def copied(artifact: Artifact, folder: Path) -> tuple[Path, tuple[tuple[str, str], ...]]:
    """The header of a copy of a model that has these calls, and the ops' names and kinds."""
    header = artifact.main.with_suffix(".h")
    text, ops = with_laps(artifact.main.read_text(encoding="utf-8"), header.stem)
    (folder / artifact.main.name).write_text(text, encoding="utf-8")
    for file in (header, *host.weights_of(header)):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / header.name, ops


def per_layer(laps: Sequence[int], ops: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, int], ...]:
    """(name, kind, count) of each op. laps: counts at the ``AROUND + len(ops)`` laps of a run."""
    empty, begins = laps[1] - laps[0], laps[2:]
    return tuple((*op, begins[i + 1] - begins[i] - empty) for i, op in enumerate(ops))


def plugin(folder: Path) -> Path:
    """laps.c as QEMU wants it, compiled for this machine. Raises ToolError without a compiler."""
    made = folder / "laps.so"
    with as_file(files("karui.run") / "laps.c") as source:
        flags = ["-std=c99", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
        compilers.compile_c(compilers.find(), [*flags, "-o", made, source], what=f"'{source.name}', which counts instructions")
    return made
