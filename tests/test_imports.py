"""Modules that use karui's own ops as they are imported bring those ops along, so that any of them may be the first one imported."""

import os
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"

EACH = """
import importlib, os, sys
import torch
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(f"{name}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_any_module_may_be_the_first() -> None:
    paths = [path for path in (SRC / "karui").rglob("*.py") if "torch.ops.karui" in path.read_text(encoding="utf-8")]
    names = [".".join(path.relative_to(SRC).with_suffix("").parts) for path in paths]
    assert len(names) > 3
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", EACH, *names], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr
