"""From arguments to an exit code: a message is one line on stderr, and no traceback ever reaches a user (``KARUI_DEBUG=1`` shows it).

0 well · 1 failed · 2 a mistake in the call or the recipe · 3 no candidate fits the budget · 130 interrupted.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from karui.errors import KaruiError

if TYPE_CHECKING:
    from typer.exceptions import TyperException

INTERRUPTED, PIPE_CLOSED = 130, 141
STOPPED = "interrupted; the same command goes on where this one stopped", INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. ``arguments`` None: those of the process."""
    debug = os.environ.get("KARUI_DEBUG", "") not in ("", "0")
    try:
        from karui.cli.verbs import app  # not above: ^C while it is imported ends in one line, too

        code = app(args=None if arguments is None else list(arguments), standalone_mode=False, prog_name="karui")
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer's word for ^C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # `karui list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _failed(*STOPPED)
    except Exception as error:
        if debug:
            raise
        return _failed(*_explained(error))


def _explained(error: Exception) -> tuple[str, int]:
    """What to tell the user, and the exit code."""
    from typer.exceptions import Abort, TyperException

    if isinstance(error, KaruiError):
        return str(error), error.exit_code
    if isinstance(error, Abort):
        return STOPPED
    if isinstance(error, TyperException):
        return _usage(error), 2
    if isinstance(error, OSError):
        return _system(error), 1
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or take a smaller network or batch", 1
    return f"{type(error).__name__}: {error} (a fault of karui's: KARUI_DEBUG=1 shows where; please report it)", 1


def _usage(error: "TyperException") -> str:
    context = getattr(error, "ctx", None)
    verb = context.command_path if context is not None else "karui"
    message = error.format_message().strip().rstrip(".")
    return f"{message[:1].lower()}{message[1:]}{' Try' if message.endswith('?') else '; try'}: {verb} --help"


def _system(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    where = f"'{error.filename}': " if error.filename else ""
    return f"{where}{error.strerror or error}; check the path and the permissions"


def _failed(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
