"""Artefacts of target ``c`` on processors that aren't here: compiled by ziglang, run in QEMU.

It computes what the processor would, and refuses what it would refuse. How long it takes says nothing of the processor; how many
instructions it runs is counted, exactly and the same each time, by a plugin of ours, ``laps.c``. Those without a system: ``bare.py``.
"""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from karui.errors import RecipeError, ToolError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import bare, cross, host, laps
from karui.run.cross import FLAGS, SECONDS

COUNTS = "install a QEMU with plugins, from version 4.2 on (Debian: apt install qemu-user)"
CURE = "install it (Debian: apt install qemu-user), or choose another processor"


@dataclass(frozen=True, kw_only=True)
class Processor:
    """One that QEMU knows. triple: what the compiler is told; the program needs no system's libraries."""

    name: str
    about: str
    triple: str
    emulator: str


PROCESSORS = {
    each.name: each
    for each in (
        Processor(name="cortex-a72", about="Raspberry Pi 4", triple="aarch64-linux-musl", emulator="qemu-aarch64"),
        Processor(name="cortex-a76", about="Raspberry Pi 5", triple="aarch64-linux-musl", emulator="qemu-aarch64"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Emulated(host.Compiled):
    """A compiled model and the processor that runs it. layers: (name, kind) of the ops that are counted one by one."""

    processor: Processor
    binary: Path
    layers: tuple[tuple[str, str], ...]
    _kept: tempfile.TemporaryDirectory[str]
    runs_on: ClassVar[str] = "qemu"

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs ``[N, *shape]`` of N samples ``[N, *shape]``, each by itself. Raises ToolError where processor or model refuses."""
        return self._told(inputs, (), self.binary.parent)

    def count(self, inputs: Sequence[Array]) -> laps.Counted:
        """The same, with what it took. Raises ToolError also where instructions can't be counted."""
        with tempfile.TemporaryDirectory(prefix="karui-") as scratch:
            folder = Path(scratch)
            made, written = laps.plugin(folder), folder / "laps.bin"
            try:
                outputs = self._told(inputs, ("-plugin", f"./{made.name}"), folder)
            except ToolError as error:
                if written.exists():
                    raise
                raise ToolError(
                    f"'{self.processor.emulator}' doesn't take the plugin that counts instructions ({error}); {COUNTS}"
                ) from error
            rows = np.fromfile(written, np.uint64).astype(np.int64).reshape(len(inputs[0]), laps.AROUND + len(self.layers))
        whole = rows[:, -1] - rows[:, 1] - (rows[:, 1] - rows[:, 0])
        return laps.Counted(outputs=outputs, instructions=tuple(whole.tolist()), layers=laps.per_layer(rows[0].tolist(), self.layers))

    def _told(self, inputs: Sequence[Array], options: Sequence[str], folder: Path) -> list[Array]:
        """What the program answers in a folder, with options of the emulator."""
        command = [self.processor.emulator, *options, "-cpu", self.processor.name, str(self.binary)]
        fed, where = cross.fed(self.signature, inputs), f"'{self.signature.name}' on '{self.processor.name}'"
        try:
            done = subprocess.run(command, input=fed, cwd=folder, capture_output=True, timeout=SECONDS, check=False)
        except OSError as error:
            raise ToolError(f"'{self.processor.emulator}' can't be started ({error.strerror}); {CURE}") from error
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{where} didn't end within {SECONDS} s; give it fewer samples") from error
        if done.returncode in (-signal.SIGILL, 128 + signal.SIGILL):
            raise ToolError(f"processor '{self.processor.name}' doesn't know an instruction of this program; export it for that machine")
        outputs = None if done.returncode else cross.answered(self.signature, done.stdout, len(inputs[0]))
        if outputs is None:
            raise ToolError(f"{where} failed with status {done.returncode}: {cross.last_line(done.stderr)}")
        return outputs


def build(artifact: Artifact, processor: str, *, flags: Sequence[str] = FLAGS, layers: bool = False) -> Emulated | bare.Bare:
    """Compile an artefact of target ``c`` for a processor, with a program around it that reads samples and writes answers.

    layers: count each op by itself, too; for that a call stands before each, which ``bytes`` and ``instructions`` then hold as well.

    Raises:
        RecipeError: a processor that isn't known.   ToolError: no ziglang, no QEMU, or the compiler fails.
    """
    if processor in bare.PROCESSORS:
        return bare.build(artifact, processor, flags=flags, layers=layers)
    if processor not in PROCESSORS:
        raise RecipeError(f"processor '{processor}' is unknown; choose from {', '.join((*PROCESSORS, *bare.PROCESSORS))}")
    found = PROCESSORS[processor]
    if shutil.which(found.emulator) is None:
        raise ToolError(f"'{found.emulator}' was not found; {CURE}")
    kept = tempfile.TemporaryDirectory(prefix="karui-")
    made = cross.compile_for([found.triple], artifact, Path(kept.name), lapped=True, layers=layers, flags=flags)
    return Emulated(signature=made.signature, sections=made.sections, processor=found, binary=made.binary, layers=made.layers, _kept=kept)
