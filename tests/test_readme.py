"""What the README shows runs as it stands: its blocks, in order, in one empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
KARUI = [sys.executable, "-m", "karui"]


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The blocks of a page: their language and their text."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


BLOCKS = blocks_of(README)


def name_of(text: str) -> str | None:
    """The file that a block is, if its first line is a comment that says so."""
    found = re.match(r"# (\S+\.(?:py|toml))\n", text)
    return found[1] if found else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README names."""
    folder = tmp_path_factory.mktemp("readme")
    for _, text in BLOCKS:
        if name := name_of(text):
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_example_of_ones_own_is_short() -> None:
    """Network, data and metric, without the lines that train the network on the spot, and blank ones: about twenty."""
    module = next(text for _, text in BLOCKS if name_of(text) == "mine.py")
    lines = [
        line
        for line in module.partition("    optimizer =")[0].splitlines()
        if line.strip() and not line.startswith(("#", "import", "from"))
    ]
    assert len(lines) <= 20


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python" and not name_of(text)])
def test_python(text: str, folder: Path) -> None:
    run([sys.executable, "-c", text], folder)


def test_the_commands(folder: Path) -> None:
    commands = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.startswith("karui ")]
    assert len(commands) >= 3
    for line in commands:
        run([*KARUI, *shlex.split(line, comments=True)[1:]], folder)
    assert (folder / "runs/recipe/report.html").stat().st_size > 10_000
    assert (folder / "speeds-c").is_dir()
