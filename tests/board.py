"""A board as far as the device folder can tell: a compiler and make, no Python."""

import shutil
import subprocess
from pathlib import Path

from karui.program.program import Array

TOOLS = ("make", "cc", "as", "ld", "sh", "rm")


def environment(folder: Path) -> dict[str, str]:
    """An environment of two variables; its path is ``folder``, which is filled with links to the tools and nothing else."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"the tests of the device folder need '{tool}'"
        (folder / tool).symlink_to(found)
    return {"PATH": str(folder), "CFLAGS": "-O1"}


def make(folder: Path, board: dict[str, str]) -> None:
    done = subprocess.run(["make"], cwd=folder, env=board, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def call(folder: Path, board: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["./model", *map(str, arguments)], cwd=folder, env=board, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """One line of error, exit code 1, no answer."""
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def picture(path: Path, pixels: Array) -> Path:
    """Pixels ``[H, W, C]`` as a binary PGM or PPM file."""
    h, w, channels = pixels.shape
    path.write_bytes(f"P{6 if channels == 3 else 5}\n# made by a test\n{w} {h}\n255\n".encode() + pixels.tobytes())
    return path
