"""Artefacts of target ``c`` on processors that aren't here: compiled by ziglang, run in QEMU.

It computes what the processor would, and refuses what it would refuse; how long it takes says nothing of the processor.
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
from karui.run import compiler as compilers
from karui.run import host
from karui.run.elf import sections

FLAGS = ("-O3",)
SECONDS = 600
CURE = "install it (Debian: apt install qemu-user), or choose another processor"
C_TYPES = {dtype: name for name, dtype in host.DTYPES.items()}


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
        ports, count = self.signature.outputs, len(inputs[0])
        samples = [np.ascontiguousarray(a).reshape(count, -1).view(np.uint8) for a in inputs]
        command = [self.processor.emulator, "-cpu", self.processor.name, str(self.binary)]
        try:
            done = subprocess.run(command, input=np.hstack(samples).tobytes(), capture_output=True, timeout=SECONDS, check=False)
        except OSError as error:
            raise ToolError(f"'{self.processor.emulator}' can't be started ({error.strerror}); {CURE}") from error
        if done.returncode in (-signal.SIGILL, 128 + signal.SIGILL):
            raise ToolError(f"processor '{self.processor.name}' doesn't know an instruction of this program; export it for that machine")
        sizes = [int(np.prod(port.shape)) * np.dtype(port.dtype).itemsize for port in ports]
        if done.returncode or len(done.stdout) != count * sum(sizes):
            raise ToolError(
                f"'{self.signature.name}' failed on '{self.processor.name}' with status {done.returncode}: {_last(done.stderr)}"
            )
        rows = np.frombuffer(done.stdout, np.uint8).reshape(count, -1)
        parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
        pairs = zip(parts, ports, strict=True)
        return [np.ascontiguousarray(part).view(port.dtype).reshape(count, *port.shape) for part, port in pairs]


def build(artifact: Artifact, processor: str, *, flags: Sequence[str] = FLAGS) -> Emulated:
    """Compile an artefact of target ``c`` for a processor, with a program around it that reads samples and writes answers.

    Raises:
        RecipeError: a processor that isn't known.   ToolError: no ziglang, no QEMU, or the compiler fails.
    """
    if processor not in PROCESSORS:
        raise RecipeError(f"processor '{processor}' is unknown; choose from {', '.join(PROCESSORS)}")
    found = PROCESSORS[processor]
    if shutil.which(found.emulator) is None:
        raise ToolError(f"'{found.emulator}' was not found; {CURE}")
    header = artifact.main.with_suffix(".h")
    signature = host.read_header(header)
    command = [*compilers.ziglang(), "-target", found.triple]
    kept = tempfile.TemporaryDirectory(prefix="karui-")
    folder = Path(kept.name)
    (folder / "main.c").write_text(around(signature), encoding="utf-8")
    for source in (artifact.main, folder / "main.c"):
        arguments: list[str | Path] = [*host.STRICT, *flags, "-I", header.parent, "-c", "-o", folder / f"{source.stem}.o", source]
        compilers.compile_c(command, arguments, what=f"'{source}'")
    objects = [folder / f"{artifact.main.stem}.o", folder / "main.o"]
    link: list[str | Path] = ["-static", "-o", folder / "program", *objects]
    compilers.compile_c(command, link, what=f"'{artifact.main}'")
    return Emulated(signature=signature, sections=sections(objects[0]), processor=found, binary=folder / "program", _kept=kept)


def around(signature: host.Signature) -> str:
    """A program that reads samples from standard input, as they lie in memory, and writes answers likewise."""
    name, upper = signature.name, signature.name.upper()
    ports = [*signature.inputs, *signature.outputs]
    buffers = "\n".join(f"static {C_TYPES[port.dtype]} {port.name}[{upper}_{port.name.upper()}_COUNT];" for port in ports)
    reads = " && ".join(f"fread({port.name}, sizeof {port.name}, 1, stdin) == 1" for port in signature.inputs)
    writes = "\n".join(f"        fwrite({port.name}, sizeof {port.name}, 1, stdout);" for port in signature.outputs)
    reset = f"        {name}_reset(arena);\n" if signature.stateful else ""
    return f"""\
#include <stdio.h>

#include "{name}.h"

static int32_t arena[({upper}_ARENA_BYTES + 3) / 4];
{buffers}

int main(void)
{{
    while ({reads}) {{
{reset}        if ({name}_run({", ".join([*(port.name for port in ports), "arena"])}))
            return 2;
{writes}
    }}
    return 0;
}}
"""


def _last(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else "it says nothing"
