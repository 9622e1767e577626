"""The scripts in examples/ run as a reader would run them, with the argument that makes them short."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = {"01_compress_lenet.py": "0.02", "02_own_training_loop.py": "1", "03_sensor_to_device.py": "2"}


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error:::__main__", str(EXAMPLES / script), QUICK[script]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in:\n{text}"
    return float(found[1].replace(",", ""))


def test_every_example_is_tested_and_short() -> None:
    found = {path.name: path.read_text(encoding="utf-8").splitlines() for path in EXAMPLES.glob("*.py")}
    assert found.keys() == QUICK.keys()
    assert max(map(len, found.values())) <= 60


def test_compress_lenet(tmp_path: Path) -> None:
    text = run("01_compress_lenet.py", tmp_path)
    assert number(r"after .* ([\d,]+) bytes", text) < number(r"before .* ([\d,]+) bytes", text) / 15
    assert (tmp_path / "runs/lenet/report.html").stat().st_size > 10_000
    command = text.partition("on a device: ")[2]
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    answers = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert done.returncode == 0 and len(answers) == 3, done.stdout + done.stderr
    assert sum(Path(name).stem == label for label, _, _, name in answers) >= 2, answers


def test_own_training_loop(tmp_path: Path) -> None:
    text = run("02_own_training_loop.py", tmp_path)
    assert number(r"compressed: ([\d.]+) %", text) > 50
    assert "in runs/mine: c, device, network.pt2" in text
    assert (tmp_path / "runs/mine/c/model.c").exists()


def test_sensor_to_device(tmp_path: Path) -> None:
    text = run("03_sensor_to_device.py", tmp_path)
    assert number(r"% in ([\d,]+) bytes of C", text) < number(r"% in ([\d,]+) bytes →", text) / 2
    answer, truth = re.findall(r"→ (\w+)\t0\.\d+\t[\d.]+ ms   \(it was: (\w+)\)", text)[0]
    assert answer == truth
