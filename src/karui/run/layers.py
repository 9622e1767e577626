"""How long each op of a model in C takes on this machine: a copy of its source that reads the clock after each op is compiled and run.

The copy computes what the model computes; the artefact itself has no clock in it.
"""

import ctypes
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from karui.errors import FileError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import host

SECONDS, LEAST, LOW = 0.5, 7, 20  # of running, runs, and the percentile that others of the machine leave alone
_OP = re.compile(r"^    /\* .*: \w+, .* \*/$", re.M)  # what the exporter writes before each op
_CLOCK = """
uint64_t {name}_clock[{count}];

static void {name}_mark(int i)
{{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    {name}_clock[i] = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}}

"""


def layer_times(artifact: Artifact, inputs: Sequence[Array], *, seconds: float = SECONDS) -> NDArray[np.float64]:
    """Nanoseconds of each op, in the program's order: the 20th percentile of the runs of the first sample that fit into ``seconds``.

    Each op meets caches as the ones before it left them. Reading the clock takes some 30 ns, which are in it.

    Raises:
        FileError: an artefact that isn't C of karui's.   ToolError: no compiler, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="karui-") as scratch:
        library, count = _clocked(artifact, Path(scratch))
        clock = (ctypes.c_uint64 * (count + 1)).in_dll(library._code, f"{library.signature.name}_clock")
        once = library.call(inputs)
        once()
        found: list[NDArray[np.float64]] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(found) < LEAST:
            once()
            found.append(np.array(clock[:], np.float64))
    return np.asarray(np.percentile(np.diff(found, axis=1), LOW, axis=0))


def _clocked(artifact: Artifact, folder: Path) -> tuple[host.Library, int]:
    """The copy, compiled, and how many ops it has."""
    source, name = artifact.main.read_text(encoding="utf-8"), artifact.main.stem
    head, run, body = source.partition(f"int {name}_run(")
    count = len(_OP.findall(body))
    if not run or not count or not body.endswith("    return 0;\n}\n"):
        raise FileError(f"'{artifact.main}' is not C that karui wrote; export it again")
    numbers = iter(range(count))
    body = _OP.sub(lambda found: f"{found[0]}\n    {name}_mark({next(numbers)});", body)
    body = body.removesuffix("    return 0;\n}\n") + f"    {name}_mark({count});\n    return 0;\n}}\n"
    head = f"#define _POSIX_C_SOURCE 199309L\n#include <time.h>\n{head}{_CLOCK.format(name=name, count=count + 1)}"
    header = artifact.main.with_suffix(".h")
    for file in (header, *host.weights_of(header)):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / artifact.main.name).write_text(head + run + body, encoding="utf-8")
    return host.build(folder), count
