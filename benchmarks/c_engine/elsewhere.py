"""Peers that need an environment of their own: a process of that Python makes and times what it is given.

``KARUI_DEEPSPARSE`` and ``KARUI_LARQ`` name the Pythons: ``python -m venv runs/NAME; runs/NAME/bin/pip install …`` with
``deepsparse==1.8.0``, or ``larq-compute-engine==0.16.0 larq==0.13.3 tensorflow-cpu==2.16.2 tf-keras==2.16.0``.
This file runs there, too, with nothing of karui.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np


def deepsparse(file: Path, size: tuple[int, ...], seconds: float) -> float | str:
    """Median milliseconds of a sample of this size on one core; or why there are none."""
    found = _told("DEEPSPARSE", ["deepsparse", str(file), str(seconds), *map(str, size)])
    return found if isinstance(found, str) else float(found["ms"])


def larq(weights: np.ndarray, x: np.ndarray, seconds: float) -> dict[str, Any] | str:
    """A 3 × 3 layer of −1 and +1 without a border in larq-compute-engine; or why there is none.

    weights: int8 ``[O, 3, 3, C]``. x: int8 ``[1, H, W, C]``. Gives its file's ``bytes``, ``ms``, and ``sums``
    int32 ``[1, H−2, W−2, O]``.
    """
    with TemporaryDirectory() as scratch:
        files = [Path(scratch) / name for name in ("weights.npy", "x.npy", "sums.npy")]
        for file, array in zip(files, (weights, x), strict=False):
            np.save(file, array)
        found = _told("LARQ", ["larq", *map(str, files), str(seconds)])
        return found if isinstance(found, str) else {**found, "sums": np.load(files[2]).astype(np.int32)}


def _told(name: str, arguments: list[str]) -> dict[str, Any] | str:
    """What this file says in that environment; or why it doesn't."""
    python = os.environ.get(f"KARUI_{name}")
    if not python:
        return f"{name.lower()} has an environment of its own; name its Python in KARUI_{name}"
    quiet = {"NM_DISABLE_ANALYTICS": "1", "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([python, __file__, *arguments], capture_output=True, text=True, env={**os.environ, **quiet}, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:200]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ── what runs there ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _deepsparse(file: str, seconds: str, *size: str) -> dict[str, Any]:
    from deepsparse import Engine

    engine = Engine(file, batch_size=1, num_cores=1)
    x = [np.random.default_rng(0).standard_normal((1, *map(int, size))).astype(np.float32)]
    return {"ms": _median_ms(lambda: engine.run(x), float(seconds))}


def _larq(weights: str, x: str, sums: str, seconds: str) -> dict[str, Any]:
    import larq
    import larq_compute_engine
    import tensorflow

    w, codes = np.load(weights).astype(np.float32), np.load(x).astype(np.float32)
    signs: dict[str, Any] = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
    layer = larq.layers.QuantConv2D(len(w), 3, padding="valid", use_bias=False, **signs)
    image = tensorflow.keras.Input(codes.shape[1:])
    model = tensorflow.keras.Model(image, layer(image))
    layer.set_weights([w.transpose(1, 2, 3, 0)])
    file = larq_compute_engine.convert_keras_model(model)
    runner = larq_compute_engine.testing.Interpreter(file, num_threads=1)
    np.save(sums, runner.predict(codes))
    return {"bytes": len(file), "ms": _median_ms(lambda: runner.predict(codes), float(seconds))}


def _median_ms(call: Callable[[], object], seconds: float) -> float:
    for _ in range(5):
        call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


if __name__ == "__main__":
    print(json.dumps({"deepsparse": _deepsparse, "larq": _larq}[sys.argv[1]](*sys.argv[2:])))
