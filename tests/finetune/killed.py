"""A run of two phases that kills itself (SIGKILL, as the kernel would) where it is told to; started by test_resume.py.

Each attempt is a fork of one process that has imported torch and started no thread. Arguments: a folder, then attempts, each a kind of
event and which of them to die at. After each death the run is gone on with; one JSON line per attempt says how it ended.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from karui.finetune import loop, phases
from karui.finetune.loop import Training
from karui.finetune.phases import Phase, run_phases
from tests.finetune import tiny

PHASES = (
    Phase(techniques=(tiny.Cut(), tiny.Lean()), training=Training(steps=6, batch_size=20, lr=0.05)),
    Phase(techniques=(tiny.Round(), tiny.Lean()), training=Training(steps=6, batch_size=20, lr=0.02, optimizer="adamw", early_stop=1)),
)


def run(folder: Path) -> str:
    result = run_phases(tiny.network(), tiny.data(), PHASES, seed=4, directory=folder, checkpoint_seconds=0.0)
    told = [[phase.techniques, phase.facts, phase.history.to_json()] for phase in result.phases]
    return json.dumps([result.network.fingerprint(), told])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_at(kind: str, count: int) -> None:
    """Die at the ``count``-th event of this kind."""
    left = [count]

    def counted(real: Callable[..., Any], half: Callable[..., None] = lambda *args: None) -> Callable[..., Any]:
        def wrapped(*args: Any, **settings: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                half(*args)
                die()
            return real(*args, **settings)

        return wrapped

    def half_written(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])

    if kind == "step":
        loop._step = counted(loop._step)
    elif kind == "write":
        Path.write_bytes = counted(Path.write_bytes, half_written)  # type: ignore[method-assign]
    elif kind == "rename":
        os.replace = counted(os.replace)
    elif kind == "finish":
        phases._finish = counted(phases._finish)


def attempt(folder: Path, kind: str, count: int) -> dict[str, Any]:
    """Die once, then go on; whether it died, and what came out."""
    first = os.fork()
    if first == 0:
        dying_at(kind, count)
        run(folder)
        os._exit(0)
    died = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == -signal.SIGKILL
    left = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, run(folder).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        found = answer.read()
    os.wait()
    return {"kind": kind, "count": count, "died": died, "left": left, "result": found, "end": sorted(p.name for p in folder.iterdir())}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    print(json.dumps({"result": run(place / "whole")}), flush=True)
    for number, what in enumerate(sys.argv[2:]):
        event, _, at = what.partition(":")
        print(json.dumps(attempt(place / str(number), event, int(at))), flush=True)
