"""Command lines of karui as processes of their own that may be killed: each a fork of one process that has imported everything already.

``Karui`` starts ``python -m tests.forked``, which reads one command a line (JSON) and answers with its exit status. A command may carry a
trap: at the n-th event of a kind the process dies (``kill -9``), is interrupted (Ctrl-C), or meets a full disk. What a command prints is
kept as the process wrote it, with all that torch and C libraries may add.
"""

import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from karui.workspace import LOCK, TEMPORARY

ROOT = Path(__file__).parents[1]

USER = """
import torch
from torch import nn
import karui

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.Linear(54, 3)
    def forward(self, x):
        return self.head(torch.relu(self.bn(self.conv(x))).flatten(1))

def samples(n):
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))
    return x, (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 0).long()

def data():
    return karui.Data.of(train=samples(96), validation=samples(32), test=samples(31))

def network():
    torch.manual_seed(0)
    return Net()
"""
RECIPE = """
network = "user:network"
data = "user:data"
budget = { drop = 100 }

[[phases]]
training = { steps = 6, batch_size = 32, optimizer = "adamw", lr = 1e-3 }
techniques = [{ technique = "prune.channels", pruning_ratio = 0.3 }, { technique = "distill.hinton" }]

[[phases]]
training = { steps = 6, batch_size = 32, optimizer = "adamw", lr = 1e-3 }
techniques = [{ technique = "quantize.int8", samples = 32 }, { technique = "distill.hinton" }]
"""


@dataclass(frozen=True, kw_only=True)
class Trap:
    """What shall happen at the ``count``-th event.

    event: "call" of a function (``module:name`` or ``module:Class.name``); "write" of a file whose path ``where`` (a regular expression)
    is found in, when half of it is written; "rename" to such a path. then: "kill", "interrupt", "full" (this one write meets a full disk),
    or "fill" (the disk is filled up, with the file ``ballast``, and the work goes on).
    """

    event: str
    where: str
    count: int = 1
    then: str = "kill"
    ballast: str = ""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended. code: as ``subprocess`` has it, −9 after ``kill -9``; error: the lines of its stderr."""

    code: int
    out: str
    error: list[str]


class Karui:
    """The process that forks. Use it in a ``with`` block. folder: where stdout and stderr are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen([sys.executable, "-m", "tests.forked"], cwd=ROOT, stdin=-1, stdout=-1, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.communicate()

    def __call__(self, words: str, cwd: Path, trap: Trap | None = None, **environment: str) -> Done:
        """Run ``karui WORDS`` in the directory ``cwd``."""
        out, error = self._folder / "out", self._folder / "error"
        command = {"words": words.split(), "cwd": str(cwd), "out": str(out), "error": str(error), "environment": environment}
        assert self._server.stdin and self._server.stdout
        print(json.dumps(command | {"trap": asdict(trap) if trap else None}), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        return Done(code=code, out=out.read_text(), error=error.read_text().splitlines())


def user(folder: Path, more: str = "") -> Path:
    """A user's folder: their code (and ``more`` of it), and a recipe of two phases."""
    folder.mkdir(exist_ok=True)
    (folder / "user.py").write_text(USER + more)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def leftovers(folder: Path) -> list[str]:
    """What a killed process leaves half-written."""
    return [path.name for path in folder.rglob(f"*{TEMPORARY}")]


def contents(run: Path) -> dict[str, Any]:
    """All that is in a run's folder, without times, dates and the numbers that torch draws for a file's identity: path → content."""
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file() and path.name != LOCK}
    return {name: _content(path) for name, path in sorted(files.items())}


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".pt2":
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if not name.endswith("serialization_id")}
        return {name: re.sub(rb'graph_id\\+": \d+', b"", data) for name, data in members.items()}
    return None if path.name == "report.html" else path.read_bytes()


def _timeless(value: Any) -> Any:
    times = ("created", "seconds", "latency_ms", "median_ms", "p10_ms", "p90_ms", "runs")
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in times}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


# ── in the server ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def serve() -> None:
    warm()
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = work(command)
            except BaseException:  # nothing of the child may go on in this loop
                traceback.print_exc()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def warm() -> None:
    """Import all that a run needs and start no thread; checkpoints come at every step, and timings (which no test looks at) are brief."""
    import torch

    from karui import api, capture  # noqa: F401
    from karui.finetune import phases
    from karui.report import page, terminal  # noqa: F401
    from karui.run import measure

    torch.set_num_threads(1)
    capture(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.zeros(2, 2))
    phases.run_phases.__kwdefaults__["checkpoint_seconds"] = 0.0
    measure.interleaved.__kwdefaults__["seconds"] = measure.latency.__kwdefaults__["seconds"] = 0.0
    measure.WARM_UP = 0.0
    for name in ("onnx", "onnxruntime"):
        importlib.import_module(name)


def work(command: dict[str, Any]) -> int:
    """The command, in the child."""
    from karui.cli import main

    for stream, handle in (("out", 1), ("error", 2)):
        os.dup2(os.open(command[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
    os.chdir(command["cwd"])
    os.environ.update(command["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if command["trap"]:
        lay(Trap(**command["trap"]))
    code = main(command["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def lay(trap: Trap) -> None:
    left = [trap.count]

    def due() -> bool:
        left[0] -= 1
        return left[0] == 0

    if trap.event == "call":
        owner, name = _owner(trap.where)
        real = getattr(owner, name)

        def called(*args: Any, **settings: Any) -> Any:
            if due():
                spring(trap)
            return real(*args, **settings)

        setattr(owner, name, called)
    elif trap.event == "write":
        write: Callable[[Path, bytes], int] = Path.write_bytes

        def written(path: Path, content: bytes) -> int:
            if re.search(trap.where, str(path)) and due():
                write(path, content[: len(content) // 2])
                spring(trap)
            return write(path, content)

        Path.write_bytes = written  # type: ignore[method-assign, assignment]
    else:
        rename = os.replace

        def renamed(old: Any, new: Any) -> None:
            if re.search(trap.where, str(new)) and due():
                spring(trap)
            rename(old, new)

        os.replace = renamed  # type: ignore[assignment]


def _owner(where: str) -> tuple[Any, str]:
    module, _, names = where.partition(":")
    owner: Any = importlib.import_module(module)
    *inner, name = names.split(".")
    for each in inner:
        owner = getattr(owner, each)
    return owner, name


def spring(trap: Trap) -> None:
    if trap.then == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if trap.then == "fill":
        fill(Path(trap.ballast))
    else:
        os.kill(os.getpid(), signal.SIGKILL if trap.then == "kill" else signal.SIGINT)


def fill(ballast: Path) -> None:
    """Take all the space there is."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error


if __name__ == "__main__":
    serve()
