"""The wheel holds everything that the package needs at run time, and works outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree and unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("karui-*.whl")
    assert wheel.stat().st_size < 15e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_every_file_of_the_package_is_in_it(installed: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "src/karui"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    missing = [name for name in listed if (ROOT / name).exists() and not (installed / Path(name).relative_to("src")).exists()]
    assert missing == []


@pytest.mark.slow
def test_it_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    code = (
        "import karui, karui.report.page as page; from karui.cli import main; print(karui.__file__); "
        "page.html({'name': 'x', 'created': '', 'network': '', 'data': '', 'verdict': {'ok': True}}); assert main(['list']) == 0; "
        "from karui import resolve; assert len(resolve.data_of('fashion-mnist:sample').test) == 10_000; resolve.network_of('zoo:lenet5')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))


@pytest.mark.slow
def test_it_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-m", "karui", "demo", "--quiet"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "inside the budget" in done.stdout, done.stderr
    left = tmp_path / "runs" / "demo"
    assert all((left / name).exists() for name in ("report.html", "export/c/model.c", "export/onnx/model.onnx", "export/device/Makefile"))
