"""DeepSparse, which needs an environment of its own: a process of that Python times a file.

``KARUI_DEEPSPARSE`` names the Python: ``python -m venv runs/deepsparse-env; runs/deepsparse-env/bin/pip install deepsparse==1.8.0``.
This file runs there, too, with nothing of karui: ``PYTHON elsewhere.py FILE SECONDS SIZE…`` prints the median in milliseconds.
"""

import os
import subprocess
import sys
import time
from pathlib import Path


def deepsparse(file: Path, size: tuple[int, ...], seconds: float) -> float | str:
    """Median milliseconds of a sample of this size on one core; or why there are none."""
    python = os.environ.get("KARUI_DEEPSPARSE")
    if not python:
        return "deepsparse has an environment of its own; name its Python in KARUI_DEEPSPARSE"
    command = [python, __file__, str(file), str(seconds), *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NM_DISABLE_ANALYTICS": "1"}, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:200]
    return float(done.stdout.splitlines()[-1])


def _timed(file: str, seconds: float, size: tuple[int, ...]) -> float:
    import numpy as np
    from deepsparse import Engine

    engine = Engine(file, batch_size=1, num_cores=1)
    x = [np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)]
    for _ in range(5):
        engine.run(x)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        engine.run(x)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


if __name__ == "__main__":
    print(_timed(sys.argv[1], float(sys.argv[2]), tuple(map(int, sys.argv[3:]))))
