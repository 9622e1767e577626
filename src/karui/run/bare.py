"""Artefacts of target ``c`` on processors without a system, Cortex-M: compiled by ziglang, run and counted on a board of QEMU.

QEMU counts instructions, exactly and the same each time; how many cycles they take on a device (memory that waits, two at a time on a
Cortex-M7) it doesn't know. The board's start code, its memory and the little that stands in for a C library are in the folder ``board``.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import ClassVar

import numpy as np

from karui.errors import RecipeError, ToolError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import compiler as compilers
from karui.run import cross, host, laps
from karui.run.cross import FLAGS, SECONDS
from karui.run.elf import sections

EMULATOR = "qemu-system-arm"
CURE = "install it (Debian: apt install qemu-system-arm), or choose another processor"
SHIFT = 6  # of -icount: an instruction takes 2^6 ns …
TICK = 40  # … and the boards' clock goes on every 40 ns
PAINT, PAINTED = 0xC5, 64 << 10  # the byte and the bytes by which a run's stack is told
STOPPED = {
    97: "it doesn't know an instruction of this program; export it for that machine",
    98: "the program reads between words where that isn't allowed",
    99: "the program reaches for memory that isn't there",
    100: "the processor stopped it",
}


@dataclass(frozen=True, kw_only=True)
class Processor:
    """One that a board of QEMU has. target: what the compiler is told."""

    name: str
    about: str
    target: tuple[str, ...]
    board: str


PROCESSORS = {
    each.name: each
    for each in (
        Processor(
            name="cortex-m4", about="ARMv7E-M", target=("thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp"), board="mps2-an386"
        ),
        Processor(
            name="cortex-m7", about="ARMv7E-M", target=("thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16sp"), board="mps2-an500"
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Counted(laps.Counted):
    """stack: bytes beneath the caller's frame that the deepest run has written."""

    stack: int


@dataclass(frozen=True, kw_only=True)
class Bare(host.Compiled):
    """A compiled model and the processor that runs it. layers: (name, kind) of the ops that are counted one by one."""

    processor: Processor
    binary: Path
    layers: tuple[tuple[str, str], ...]
    _kept: tempfile.TemporaryDirectory[str]
    runs_on: ClassVar[str] = "qemu"

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs ``[N, *shape]`` of N samples ``[N, *shape]``, each by itself. Raises ToolError where processor or model refuses."""
        return self.count(inputs).outputs

    def count(self, inputs: Sequence[Array]) -> Counted:
        """The same, with what it took."""
        ports, count = self.signature.outputs, len(inputs[0])
        answers = sum(int(np.prod(port.shape)) * np.dtype(port.dtype).itemsize for port in ports)
        length = answers + 4 * (2 + laps.AROUND + len(self.layers))
        rows = np.frombuffer(self._answers(cross.fed(self.signature, inputs), count * length), np.uint8).reshape(count, length)
        outputs = cross.answered(self.signature, rows[:, :answers].tobytes(), count)
        assert outputs is not None  # the length was checked
        numbers = rows[:, answers:]
        told = np.ascontiguousarray(numbers).view(np.uint32)
        ticks, stack = told[:, 0], int(told[:, 1].max())
        each = tuple((name, kind, _instructions(took)) for name, kind, took in laps.per_layer(told[0, 2:].tolist(), self.layers))
        return Counted(outputs=outputs, instructions=tuple(map(_instructions, ticks.tolist())), layers=each, stack=stack)

    def _answers(self, samples: bytes, length: int) -> bytes:
        """What the program writes when it reads these samples."""
        where = f"'{self.signature.name}' on '{self.processor.name}'"
        command = [EMULATOR, "-M", self.processor.board, "-display", "none", "-serial", "none", "-monitor", "none"]
        command += ["-semihosting-config", "enable=on,target=native", "-icount", f"shift={SHIFT}", "-kernel", str(self.binary)]
        with tempfile.TemporaryDirectory(prefix="karui-") as scratch:
            folder = Path(scratch)
            (folder / "in.bin").write_bytes(samples)
            try:
                done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
            except OSError as error:
                raise ToolError(f"'{EMULATOR}' can't be started ({error.strerror}); {CURE}") from error
            except subprocess.TimeoutExpired as error:
                raise ToolError(f"{where} didn't end within {SECONDS} s; give it fewer samples") from error
            answers = folder / "out.bin"
            found = answers.read_bytes() if answers.exists() else b""
        if done.returncode in STOPPED:
            raise ToolError(f"{where}: {STOPPED[done.returncode]}")
        if done.returncode or len(found) != length:
            raise ToolError(f"{where} failed with status {done.returncode}: {cross.last_line(done.stderr)}")
        return found


def build(artifact: Artifact, processor: str, *, flags: Sequence[str] = FLAGS, layers: bool = False) -> Bare:
    """Compile an artefact of target ``c`` for a processor, with a program around it that reads samples and writes answers.

    layers: count each op by itself, too; for that a call stands before each, which ``bytes`` and ``instructions`` then hold as well.

    Raises:
        RecipeError: a processor that isn't known.   ToolError: no ziglang, no QEMU, or the compiler fails.
    """
    if processor not in PROCESSORS:
        raise RecipeError(f"processor '{processor}' is unknown; choose from {', '.join(PROCESSORS)}")
    found = PROCESSORS[processor]
    if shutil.which(EMULATOR) is None:
        raise ToolError(f"'{EMULATOR}' was not found; {CURE}")
    header = artifact.main.with_suffix(".h")
    signature, text = host.read_header(header), artifact.main.read_text(encoding="utf-8")
    text, ops = laps.with_laps(text, signature.name) if layers else (text, ())
    kept = tempfile.TemporaryDirectory(prefix="karui-")
    folder = Path(kept.name)
    (folder / artifact.main.name).write_text(text, encoding="utf-8")
    (folder / "main.c").write_text(around(signature, ops=len(ops)), encoding="utf-8")
    command = cross.compiler_for(found.target)
    with as_file(files("karui.run") / "board") as board:
        common: list[str | Path] = [*flags, "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-sanitize=all"]
        common += ["-ffunction-sections", "-fdata-sections", "-I", header.parent, "-isystem", board]
        for source in (folder / artifact.main.name, folder / "main.c", board / "start.c"):
            ours = source.parent == folder  # a device's compiler knows memcpy; what memcpy is made of may not become calls of it
            how = [*host.STRICT, "-fhosted"] if ours else ["-std=c99", "-fno-builtin"]
            out = folder / f"{source.stem}.o"
            compilers.compile_c(command, [*how, *common, "-c", "-o", out, source], what=f"'{source.name}' of '{artifact.folder}'")
        model = [folder / f"{artifact.main.stem}.o", *host.weights_objects(command, header, flags, folder)]
        objects = [folder / "start.o", folder / "main.o", *model]
        link: list[str | Path] = ["-static", "-Wl,--gc-sections", "-T", board / "board.ld", "-o", folder / "program"]
        compilers.compile_c(command, [*link, *objects], what=f"'{artifact.main}'")
    return Bare(signature=signature, sections=sections(*model), processor=found, binary=folder / "program", layers=ops, _kept=kept)


def around(signature: host.Signature, ops: int = 0) -> str:
    """A program that reads samples from ``in.bin``, as they lie in memory, and writes to ``out.bin``, for each: its answers, then as uint32
    the ticks and the stack's bytes of its run, and the ticks at two laps before the run and at its ops' ends.
    """
    name, upper = signature.name, signature.name.upper()
    ports = [*signature.inputs, *signature.outputs]
    buffers = "\n".join(f"static {cross.C_TYPES[port.dtype]} {port.name}[{upper}_{port.name.upper()}_COUNT];" for port in ports)
    reads = " && ".join(f"board_read(from, {port.name}, sizeof {port.name})" for port in signature.inputs)
    writes = " && ".join(f"board_write(to, {port.name}, sizeof {port.name})" for port in signature.outputs)
    reset = f"        {name}_reset(arena);\n" if signature.stateful else ""
    return f"""\
#include "board.h"
#include "{name}.h"

static int32_t arena[({upper}_ARENA_BYTES + 3) / 4];
{buffers}
static uint32_t facts[2 + {laps.AROUND} + {ops}], *lap;

void {laps.CALL}(void);
void {laps.CALL}(void)
{{
    *lap++ = board_ticks();
}}

/* Paints what lies beneath its frame, and tells afterwards how much of it was written. */
static __attribute__((noinline)) uint32_t deepest(int32_t paint)
{{
    volatile uint8_t *const end = (volatile uint8_t *)__builtin_frame_address(0) - 64;
    volatile uint8_t *at = end - {PAINTED};
    if (paint)
        for (; at < end; at++)
            *at = {PAINT};
    else
        while (at < end && *at == {PAINT})
            at++;
    return (uint32_t)(end - at) + 64;
}}

int main(void)
{{
    const int32_t from = board_input(), to = board_output();
    board_start_clock();
    while ({reads}) {{
        uint32_t start;
        int failed;
{reset}        deepest(1);
        lap = facts + 2;
        {laps.CALL}();
        {laps.CALL}();
        start = board_ticks();
        failed = {name}_run({", ".join([*(port.name for port in ports), "arena"])});
        facts[0] = board_ticks() - start;
        {laps.CALL}();
        facts[1] = deepest(0);
        if (failed)
            return 2;
        if (!({writes} && board_write(to, facts, sizeof facts)))
            return 3;
    }}
    return 0;
}}
"""


def _instructions(ticks: int) -> int:
    return round(int(ticks) * TICK / (1 << SHIFT))
