"""The rooms after the waist work where torch can't be imported: every module loads; a Program is saved, exported, run and reported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

BLOCK = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoTorch())
"""

IMPORT_ALL = """
import importlib, pkgutil
count = 0
for room in ("errors", "pixels", "budget", "workspace", "program", "export", "run", "verify", "report"):
    module = importlib.import_module(f"karui.{room}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"karui.{room}."):
        importlib.import_module(found.name)
        count += 1
assert count > 20, count
"""

WALK = """
from pathlib import Path
import numpy as np
from karui.export import c
from karui.program import codec, interpreter
from karui.report import page, record
from karui.run import host
from tests.program import builders
from tests.report.sample import sample

folder = Path(sys.argv[1])
codec.save(builders.lenet(integer=True, pixels=True, sparsity=0.8), folder / "model.karui")
program = codec.load(folder / "model.karui")
inputs = builders.sample(program, 8)
expected = interpreter.run(program, inputs)
found = host.build(c.write(program, folder / "c")).run(inputs)
assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
record.write(sample(), folder)
assert "Inside the budget" in page.write(folder).read_text()
"""


def run(code: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code + "\nassert 'torch' not in sys.modules", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_block_blocks() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCK + "import torch"], capture_output=True, text=True)
    assert done.returncode != 0 and "torch is blocked" in done.stderr


def test_every_module_loads() -> None:
    run(IMPORT_ALL)


def test_from_program_to_report(tmp_path: Path) -> None:
    run(WALK, str(tmp_path))
