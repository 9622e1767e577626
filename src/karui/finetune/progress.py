"""Who is told how training goes: nobody, or a person at a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Hears of training and says nothing. Subclasses tell someone."""

    def start(self, total: int, label: str, done: int = 0) -> None:
        """A stretch of ``total`` steps begins; a resumed one has ``done`` of them behind it."""

    def advance(self, facts: str = "", steps: int = 1) -> None:
        """``steps`` were made (0: only news). facts: a few words on how it stands (``"loss 0.31"``)."""

    def finish(self) -> None:
        """The stretch is over, before its end or at it."""

    def note(self, message: str) -> None:
        """Something worth a line of its own."""


SILENT = Progress()


class RichProgress(Progress):
    """A bar with the time that is left, on stderr; plain lines where that is no terminal. Use it in a ``with`` block."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._label, self._facts = "", ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def start(self, total: int, label: str, done: int = 0) -> None:
        self._label, self._facts = label, ""
        self._task = self._bar.add_task(label, total=total, completed=done, facts="")

    def advance(self, facts: str = "", steps: int = 1) -> None:
        self._facts = facts or self._facts
        if self._task is not None:
            self._bar.update(self._task, advance=steps, facts=self._facts)

    def finish(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
            self.note(f"{self._label}: {self._facts or 'done'}")

    def note(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False)
