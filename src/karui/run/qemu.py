"""Artefacts of target ``c`` on processors that aren't here: compiled by ziglang, run in QEMU.

It computes what the processor would, and refuses what it would refuse; how long it takes says nothing of the processor. Those without a
system are in ``bare.py``.
"""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from karui.errors import RecipeError, ToolError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import bare, cross, host
from karui.run.cross import FLAGS, SECONDS

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
    """A compiled model and the processor that runs it."""

    processor: Processor
    binary: Path
    _kept: tempfile.TemporaryDirectory[str]
    runs_on: ClassVar[str] = "qemu"

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs ``[N, *shape]`` of N samples ``[N, *shape]``, each by itself. Raises ToolError where processor or model refuses."""
        command = [self.processor.emulator, "-cpu", self.processor.name, str(self.binary)]
        try:
            done = subprocess.run(command, input=cross.fed(self.signature, inputs), capture_output=True, timeout=SECONDS, check=False)
        except OSError as error:
            raise ToolError(f"'{self.processor.emulator}' can't be started ({error.strerror}); {CURE}") from error
        if done.returncode in (-signal.SIGILL, 128 + signal.SIGILL):
            raise ToolError(f"processor '{self.processor.name}' doesn't know an instruction of this program; export it for that machine")
        outputs = None if done.returncode else cross.answered(self.signature, done.stdout, len(inputs[0]))
        if outputs is None:
            said = f"with status {done.returncode}: {cross.last_line(done.stderr)}"
            raise ToolError(f"'{self.signature.name}' failed on '{self.processor.name}' {said}")
        return outputs


def build(artifact: Artifact, processor: str, *, flags: Sequence[str] = FLAGS) -> Emulated | bare.Bare:
    """Compile an artefact of target ``c`` for a processor, with a program around it that reads samples and writes answers.

    Raises:
        RecipeError: a processor that isn't known.   ToolError: no ziglang, no QEMU, or the compiler fails.
    """
    if processor in bare.PROCESSORS:
        return bare.build(artifact, processor, flags=flags)
    if processor not in PROCESSORS:
        raise RecipeError(f"processor '{processor}' is unknown; choose from {', '.join((*PROCESSORS, *bare.PROCESSORS))}")
    found = PROCESSORS[processor]
    if shutil.which(found.emulator) is None:
        raise ToolError(f"'{found.emulator}' was not found; {CURE}")
    kept = tempfile.TemporaryDirectory(prefix="karui-")
    made = cross.compile_for([found.triple], artifact, Path(kept.name), flags=flags)
    return Emulated(signature=made.signature, sections=made.sections, processor=found, binary=made.binary, _kept=kept)
