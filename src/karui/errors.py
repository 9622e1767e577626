"""Everything that karui refuses, as one tree; a message is one line that names the thing, what was expected, and what to try.

KaruiError
├── CaptureError        the network can't become a graph
├── UnsupportedOp       an op that a room has no rule for; names layer, op and room
├── RecipeError         a recipe, a setting or a combination that makes no sense
├── DataError           data that is missing, malformed or not finite
├── FileError           a file that is missing, damaged, of another kind, or not safe to open
├── BudgetError         no candidate fits the budget; names the limit and what came nearest
├── ToolError           an outside tool (compiler, runtime, optional package) is missing or failed
└── RunError            a run directory that can't be used or gone on with
"""


def first_line(error: BaseException) -> str:
    """What somebody else's error says, on one line: its kind and the first line of its words."""
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


class KaruiError(Exception):
    """The root: the command line prints its message on one line and exits with ``exit_code``."""

    exit_code = 1


class CaptureError(KaruiError):
    """The network can't be captured as one graph."""


class UnsupportedOp(KaruiError):
    """A room meets an op that it has no rule for."""


class RecipeError(KaruiError):
    """A recipe or a technique's setting is wrong."""

    exit_code = 2


class DataError(KaruiError):
    """Data is missing, malformed or not finite."""


class FileError(KaruiError):
    """A file is missing, truncated, of another kind, or would run code."""


class BudgetError(KaruiError):
    """Nothing fits the budget."""

    exit_code = 3


class ToolError(KaruiError):
    """A compiler, a runtime or an optional package is missing or failed."""


class RunError(KaruiError):
    """A run directory can't be used: it belongs to another run, or lacks a part."""
