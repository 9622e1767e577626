"""Target ``c`` for processors that aren't this one: compiled by ziglang, with a program around the model that is fed through its streams.

One static program for Linux: nothing has to be there to run it, neither a compiler nor a library.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path

import numpy as np

from karui.errors import ToolError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import compiler as compilers
from karui.run import host, laps, measure
from karui.run.elf import Sections, sections

FLAGS = ("-O3",)
SECONDS = 600  # that a program may take
C_TYPES = {dtype: name for name, dtype in host.DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """A compiled program. sections: of the model alone; binary: the program's file; layers: (name, kind) of ops with a lap before each."""

    signature: host.Signature
    sections: Sections
    binary: Path
    layers: tuple[tuple[str, str], ...] = ()


def compiler_for(triple: Sequence[str]) -> list[str]:
    """The command that compiles for a processor. Raises ToolError without ziglang."""
    if find_spec("ziglang") is None:
        raise ToolError("ziglang, which compiles for other processors, is missing; install it: pip install ziglang")
    return [*compilers.ziglang(), "-target", *triple]


def compile_for(
    triple: Sequence[str],
    artifact: Artifact,
    folder: Path,
    *,
    timed: bool = False,
    lapped: bool = False,
    layers: bool = False,
    flags: Sequence[str] = FLAGS,
) -> Crossed:
    """Compile an artefact of target ``c`` into ``folder``. triple: what ziglang is told of the processor. timed, lapped: as ``around``.
    layers: with a lap before each op, too.

    Raises ToolError without ziglang, or where the compiler fails.
    """
    command = compiler_for(triple)
    header, ops = laps.copied(artifact, folder) if layers else (artifact.main.with_suffix(".h"), ())
    signature = host.read_header(header)
    (folder / "main.c").write_text(around(signature, timed=timed, lapped=lapped), encoding="utf-8")
    model, main = host.objects(command, header, flags, folder), folder / "main.o"
    compilers.compile_c(
        command, [*host.STRICT, *flags, "-I", header.parent, "-c", "-o", main, folder / "main.c"], what=f"'{folder}/main.c'"
    )
    compilers.compile_c(command, ["-static", "-o", folder / "program", *model, main], what=f"'{artifact.main}'")
    return Crossed(signature=signature, sections=sections(*model), binary=folder / "program", layers=ops)


# ── The program ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

TIMED = """\
#define _POSIX_C_SOURCE 200112L
#include <time.h>
#include <unistd.h>
"""
MEASURE = """\
static double now(void)
{{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}}

/* Seconds of a call, one number a measurement, as karui.run.measure takes them. */
static int measured(void)
{{
    static double times[{most}];
    double begin, spent, shortest = 1.0, end = now() + {warm_up};
    long i, repeats = 1, count = 0;
    do {{
        begin = now();
        if (run())
            return 2;
        spent = now() - begin;
        if (spent < shortest)
            shortest = spent;
    }} while (now() < end);
    if (shortest < {least})
        repeats = 1 + (long)({least} / (shortest > 1e-9 ? shortest : 1e-9));
    end = now() + {seconds};
    while (count < 5 || (count < {most} && now() < end)) {{
        begin = now();
        for (i = 0; i < repeats; i++)
            run();
        times[count++] = (now() - begin) / (double)repeats;
    }}
    return fwrite(times, sizeof *times, (size_t)count, stdout) == (size_t)count ? 0 : 3;
}}

"""
LAP = """\
void {call}(void);
__attribute__((noinline)) void {call}(void)
{{
    __asm__ volatile("");
}}

"""
CHOICE = """\
    alarm({seconds}); /* whoever waits for it may be gone */
    if (argc > 1) {{
        (void)argv;
        if (!({reads}))
            return 3;
{reset}        return measured();
    }}
"""


def around(signature: host.Signature, *, timed: bool = False, lapped: bool = False) -> str:
    """A program that reads samples from standard input, as they lie in memory, and writes answers likewise.

    timed: it needs POSIX, ends itself after ``SECONDS``, and called with an argument it reads one sample and writes the seconds that its
    calls took, as doubles. lapped: it has the function that ``laps`` counts by, and calls it twice before each run and once after.
    """
    name, upper = signature.name, signature.name.upper()
    ports = [*signature.inputs, *signature.outputs]
    buffers = "\n".join(f"static {C_TYPES[port.dtype]} {port.name}[{upper}_{port.name.upper()}_COUNT];" for port in ports)
    reads = " && ".join(f"fread({port.name}, sizeof {port.name}, 1, stdin) == 1" for port in signature.inputs)
    writes = "\n".join(f"        fwrite({port.name}, sizeof {port.name}, 1, stdout);" for port in signature.outputs)
    reset = f"        {name}_reset(arena);\n" if signature.stateful else ""
    parts = {"seconds": measure.SECONDS, "warm_up": measure.WARM_UP, "least": measure.SHORTEST}
    parts["most"] = ceil(measure.SECONDS / measure.SHORTEST)
    lap = f"        {laps.CALL}();\n" if lapped else ""
    choice = CHOICE.format(seconds=SECONDS, reads=reads, reset=reset) if timed else ""
    more = (MEASURE.format(**parts) if timed else "") + (LAP.format(call=laps.CALL) if lapped else "")
    return f"""\
{TIMED if timed else ""}#include <stdio.h>

#include "{name}.h"

static int32_t arena[({upper}_ARENA_BYTES + 3) / 4];
{buffers}

static int run(void)
{{
    return {name}_run({", ".join([*(port.name for port in ports), "arena"])});
}}

{more}int main({"int argc, char **argv" if timed else "void"})
{{
{choice}    while ({reads}) {{
{reset}{lap}{lap}        if (run())
            return 2;
{lap}{writes}
    }}
    return 0;
}}
"""


def fed(signature: host.Signature, inputs: Sequence[Array]) -> bytes:
    """Samples ``[N, *shape]`` as that program reads them."""
    count = len(inputs[0])
    samples = [np.ascontiguousarray(a).reshape(count, -1).view(np.uint8) for a in inputs]
    return np.hstack(samples).tobytes()


def answered(signature: host.Signature, told: bytes, count: int) -> list[Array] | None:
    """Outputs ``[N, *shape]`` of ``count`` samples, as that program writes them; None where there are more or fewer bytes."""
    sizes = [int(np.prod(port.shape)) * np.dtype(port.dtype).itemsize for port in signature.outputs]
    if len(told) != count * sum(sizes):
        return None
    parts = np.split(np.frombuffer(told, np.uint8).reshape(count, -1), np.cumsum(sizes)[:-1], axis=1)
    pairs = zip(parts, signature.outputs, strict=True)
    return [np.ascontiguousarray(part).view(port.dtype).reshape(count, *port.shape) for part, port in pairs]


def last_line(text: bytes) -> str:
    """What a program said at the end."""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "it says nothing"
