"""The C compiler of this machine: found, called, and its complaints made into one line."""

import errno
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from karui.errors import ToolError

CURE = "install one (Debian: apt install gcc; anywhere: pip install ziglang), or set CC to its command"
SECONDS = 600


def find(compiler: str | None = None) -> list[str]:
    """The command that compiles C: ``compiler``, else $CC, else ``cc``, else the ziglang package of this Python.

    Raises ToolError, naming what to install, where there is none or where the one asked for isn't there.
    """
    asked = compiler or os.environ.get("CC")
    if asked:
        command = shlex.split(asked)
        if not command or shutil.which(command[0]) is None:
            raise ToolError(f"C compiler '{asked}' was not found; {CURE}")
        return command
    if shutil.which("cc"):
        return ["cc"]
    if find_spec("ziglang"):
        return ziglang()
    raise ToolError(f"no C compiler was found; {CURE}")


def ziglang() -> list[str]:
    """Clang as a wheel."""
    return [sys.executable, "-m", "ziglang", "cc"]


def compile_c(command: Sequence[str], arguments: Sequence[str | Path], *, what: str) -> None:
    """Run the compiler; raises ToolError with its first complaint."""
    line = [*command, *map(str, arguments)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except OSError as error:
        raise ToolError(f"C compiler '{command[0]}' can't be started ({error.strerror or error}); {CURE}") from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{what}: the C compiler took more than {SECONDS} s; try another one by setting CC") from error
    if done.returncode:
        lines = [text.strip() for text in done.stderr.splitlines() if text.strip()]
        first = next((text for text in lines if "error" in text.lower()), lines[0] if lines else f"exit status {done.returncode}")
        if full := next((text for text in lines if os.strerror(errno.ENOSPC) in text), ""):
            reason = full.rpartition("error: ")[2][-300:]
            raise ToolError(f"{what}: the disk is full ({reason}); free some space there, or set TMPDIR to another directory")
        raise ToolError(f"{what}: {' '.join(command)} failed: {first[:300]}; try another compiler by setting CC")
