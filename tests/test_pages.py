"""What the pages under docs show runs as it stands: commands and Python, in order, in one empty folder a page."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import KARUI, blocks_of

PAGES = [Path(__file__).parents[1] / "docs" / f"{name}.md" for name in ("pruning", "quantization", "distillation", "doors", "c")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page(page: Path, tmp_path: Path) -> None:
    ran = 0
    for kind, text in blocks_of(page):
        lines = text.splitlines() if kind == "sh" else []
        commands = [[*KARUI, *shlex.split(line, comments=True)[1:]] for line in lines if line.startswith("karui ")]
        for command in [[sys.executable, "-c", text]] if kind == "python" else commands:
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran
