"""Line 8 of benchmarks.c_engine: what a command takes, and what becomes of one that fails or doesn't end."""

import sys

import pytest

from benchmarks.c_engine import large
from karui.errors import ToolError


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_seconds_and_memory_are_the_commands_own() -> None:
    held = bytearray(300_000_000)  # of this process, which the command must not be charged for
    little = large.effort(python("pass"))
    much = large.effort(python("import time; x = bytearray(200_000_000); time.sleep(0.3)"))
    assert little.peak < 100e6 < 200e6 < much.peak < 300e6 <= len(held)
    assert much.seconds >= 0.3


def test_what_fails_and_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError, match="it is so"):
        large.effort(python("import sys; sys.exit('why\\nit is so')"))
    monkeypatch.setattr(large, "STOP", 0.2)
    with pytest.raises(ToolError, match="it took more than 0.2 s"):
        large.effort(python("import time; time.sleep(20)"))
