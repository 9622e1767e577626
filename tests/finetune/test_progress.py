"""The bar at a terminal, the lines elsewhere."""

import io

import pytest
from rich.console import Console

from karui.finetune.progress import SILENT, RichProgress


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stretch_of_steps(terminal: bool) -> None:
    out = io.StringIO()
    with RichProgress(Console(file=out, force_terminal=terminal, width=120)) as progress:
        progress.start(10, "phase 1 of 2", done=4)
        for _ in range(6):
            progress.advance("loss 0.5")
        progress.advance("accuracy 91.00 %", steps=0)
        progress.note("a note [with] brackets")
        progress.finish()
        progress.finish()
    assert "phase 1 of 2: accuracy 91.00 %" in out.getvalue()
    assert "a note [with] brackets" in out.getvalue()


def test_silence() -> None:
    SILENT.start(1, "x")
    SILENT.advance()
    SILENT.note("x")
    SILENT.finish()
