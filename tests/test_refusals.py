"""What karui refuses, as a user meets it: one line on stderr that names the thing and the cure, an exit code, and nothing half-written.

Each case is a process of its own, so that stderr holds all that torch and C libraries may print, too. The mistakes that need no process
(misspelt options, unknown names) are in ``cli/test_messages.py``.
"""

import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.numpy
import torch

from karui.program import codec
from tests import forked
from tests.forked import RECIPE, Done, Karui, Trap

COMMAND = "compress recipe.toml -o run -q"
MORE = """
def nan(part, what=0):
    parts = {name: list(samples(n)) for name, n in (("train", 96), ("validation", 32), ("test", 31), ("calibration", 40))}
    parts[part][0][17, 0, 3, 3] = float("nan")
    return karui.Data.of(**{name: tuple(held) for name, held in parts.items()})

def nan_train(): return nan("train")
def nan_test(): return nan("test")

class Batches:
    def __iter__(self):
        x, y = samples(96)
        x[80] = float("inf")
        yield from zip(x.split(16), y.split(16))

def loader(): return karui.Data.of(train=Batches(), validation=samples(32), test=samples(31))

class Breaks:
    def __iter__(self):
        yield samples(16)
        raise KeyError("row 17")

def broken_loader(): return karui.Data.of(train=Breaks(), validation=samples(32), test=samples(31))

def metric():
    metric = karui.Metric(name="share", function=lambda outputs, targets: outputs[0].argmax(1) / 0 / {}["a"])
    return karui.Data.of(train=samples(96), validation=samples(32), test=samples(31), metric=metric)

def loss():
    return karui.Data.of(train=samples(96), validation=samples(32), test=samples(31), loss=lambda outputs, targets: {}["weight"])

def quits(): raise SystemExit(0)

def nan_network():
    made = network()
    with torch.no_grad():
        made.head.weight[1, 2] = float("nan")
    return made

class Svd(Net):
    def forward(self, x):
        return torch.linalg.svd(super().forward(x)[:, :, None])[0][:, :, 0]

class Branches(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else -x

class Sized(Net):
    def forward(self, x):
        return super().forward(x) + torch.zeros(2, 3)
"""
RECIPES = {
    "toml": "network = [",
    "setting": RECIPE.replace("samples = 32", "sampels = 32"),
    "technique": RECIPE.replace("quantize.int8", "quantise.int8"),
    "range": RECIPE.replace("pruning_ratio = 0.3", "pruning_ratio = 3"),
    "type": RECIPE.replace("steps = 6", "steps = 'six'"),
    "budget": RECIPE.replace("drop = 100", "bytes = -1"),
    "both": f"{RECIPE}\n[[techniques]]\ntechnique = 'quantize.int8'\n",
    "steep": RECIPE.replace("lr = 1e-3", "lr = 1e30"),
    "tiny": RECIPE.replace("drop = 100", "bytes = 10"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """A user's folder with all that can be wrong in it."""
    folder = forked.user(tmp_path_factory.mktemp("refusals") / "user", MORE)
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text)
    (folder / "empty").touch()
    _networks(folder, (undisturbed / "original.pt2").read_bytes())
    _programs(folder, (undisturbed / "program.karui").read_bytes())
    return folder


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def _networks(folder: Path, good: bytes) -> None:
    (folder / "short.pt2").write_bytes(good[: len(good) // 2])
    (folder / "endless.pt2").symlink_to("/dev/zero")
    (folder / "pickle.pt2").write_bytes(pickle.dumps(Evil()))
    torch.save(Evil(), folder / "saved.pt2")
    config = "archive/data/weights/model_weights_config.json"
    _rewritten(folder / "weight.pt2", good, {config: lambda text: text.replace(b'"use_pickle": false', b'"use_pickle": true', 1)})
    _rewritten(
        folder / "op.pt2", good, {"archive/models/model.json": lambda text: text.replace(b"torch.ops.aten.relu.default", b"os.system")}
    )
    damaged = bytearray(good)
    damaged[good.index(b"archive/data/weights/weight_0") + 200] ^= 4
    (folder / "flipped.pt2").write_bytes(damaged)
    with zipfile.ZipFile(folder / "flipped.pt2") as archive, pytest.raises(zipfile.BadZipFile):
        archive.read("archive/data/weights/weight_0")  # the right byte was hit


def _rewritten(path: Path, good: bytes, changes: dict) -> None:
    path.write_bytes(good)
    with zipfile.ZipFile(path) as old:
        held = {name: old.read(name) for name in old.namelist()}
    for name, change in changes.items():
        assert change(held[name]) != held[name]
        held[name] = change(held[name])
    with zipfile.ZipFile(path, "w") as new:
        for name, data in held.items():
            new.writestr(name, data)


def _programs(folder: Path, good: bytes) -> None:
    (folder / "short.karui").write_bytes(good[:-5])
    (folder / "endless.karui").symlink_to("/dev/zero")
    (folder / "pickle.karui").write_bytes(pickle.dumps(Evil()))
    (folder / "other.karui").write_bytes(safetensors.numpy.save({}))
    weights = len(safetensors.numpy.load(good)["weights"])
    damaged = bytearray(good)
    damaged[-weights // 2] ^= 1  # the code of a weight becomes its neighbour: nothing else would notice
    (folder / "flipped.karui").write_bytes(damaged)
    assert codec.decode(good)


def one_line(done: Done, *words: str) -> None:
    assert done.code > 0 and done.out == ""
    assert len(done.error) == 1, "\n".join(done.error)
    (line,) = done.error
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert "Traceback" not in line and "fault of karui's" not in line and "karui-tmp" not in line


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize(
    ("words", "names", "cure"),
    [
        ("compress toml.toml -o run", "toml.toml", "not TOML"),
        ("compress setting.toml -o run", "phases[1].techniques[0].sampels", "did you mean 'samples'"),
        ("compress technique.toml -o run", "phases[1].techniques[0].technique", "did you mean 'quantize.int8'"),
        ("compress range.toml -o run", "phases[0].techniques[0]: pruning_ratio", "in [0, 1)"),
        ("compress type.toml -o run", "phases[0].training.steps", "expected a whole number"),
        ("compress budget.toml -o run", "bytes = -1", "give"),
        ("compress both.toml -o run", "techniques", "move it into [[phases]]"),
        ("compress none.toml -o run", "none.toml", "check the path"),
        ("compress recipe.toml -n none.pt2 -o run", "none.pt2", "give a .pt2, .onnx or .tflite file"),
        ("compress recipe.toml -n short.pt2 -o run", "short.pt2", "save the network again"),
        ("compress recipe.toml -n flipped.pt2 -o run", "flipped.pt2", "save the network again"),
        ("compress recipe.toml -n endless.pt2 -o run", "endless.pt2", "give a .pt2 file"),
        ("compress recipe.toml -n pickle.pt2 -o run", "pickle.pt2", "save the network again"),
        ("compress recipe.toml -n saved.pt2 -o run", "saved.pt2", "not safe to open"),
        ("compress recipe.toml -n weight.pt2 -o run", "weight.pt2", "would run code"),
        ("compress recipe.toml -n op.pt2 -o run", "os.system", "not safe to open"),
        ("compress recipe.toml -n user:Svd -o run", "linalg_svd", "write it with ops that have a rule"),
        ("compress recipe.toml -n user:Branches -o run", "user.py:", "try torch.where"),
        ("compress recipe.toml -n user:Sized -o run", "user.py:", "use x.size(0)"),
        ("compress recipe.toml -n user:nan_network -o run", "head.weight", "take weights from before"),
        ("compress recipe.toml -n user:quits -o run", "user:quits", "run it by itself"),
        ("compress recipe.toml -d user:nan_train -o run", "train: input 0: sample 17", "clean the data"),
        ("compress recipe.toml -d user:nan_test -o run", "test: input 0: sample 17", "clean the data"),
        ("compress recipe.toml -o empty", "'empty'", "choose another path"),
        ("compress recipe.toml -o empty/run", "empty/run", "choose another path"),
        ("export none.karui -o run", "none.karui", "check the path"),
        ("export empty.karui -o run", "empty.karui", "check the path"),
        ("export short.karui -o run", "short.karui", "copy it again"),
        ("export flipped.karui -o run", "flipped.karui", "copy it again"),
        ("export endless.karui -o run", "endless.karui", "give one that 'karui compress' made"),
        ("export pickle.karui -o run", "pickle.karui", "give one that 'karui compress'"),
        ("export other.karui -o run", "other.karui", "give one that 'karui compress' made"),
    ],
)
def test_refused_before_anything_is_made(words: str, names: str, cure: str, karui: Karui, folder: Path) -> None:
    before = files(folder)
    one_line(karui(f"{words} -q" if words.startswith("compress") else words, folder), names, cure)
    assert files(folder) == before


@pytest.mark.parametrize(
    ("words", "names", "cure"),
    [
        ("compress recipe.toml -d user:loader", "train: batch 5: sample 0", "clean the data"),
        ("compress recipe.toml -d user:broken_loader", "train: the loader failed at batch 1: KeyError: 'row 17'", "run it by itself"),
        ("compress recipe.toml -d user:metric", "metric 'share' failed", "check it and the targets"),
        ("compress recipe.toml -d user:loss", "KeyError: 'weight'", "check targets and loss"),
        ("compress steep.toml", "the loss is nan", "lower lr"),
        ("compress tiny.toml", "no candidate keeps bytes ≤ 10", "raise that limit"),
    ],
)
def test_refused_on_the_way(words: str, names: str, cure: str, karui: Karui, folder: Path, tmp_path: Path) -> None:
    one_line(karui(f"{words} -o {tmp_path}/run -q", folder), names, cure)
    left = files(tmp_path / "run")
    assert forked.leftovers(tmp_path) == [] and not left & {"program.karui", "network.pt2", "export"}
    assert ("report.html" in left) == (words == "compress tiny.toml")  # what was tried, and why nothing fits, is worth a report


def test_without_a_compiler_nothing_is_trained(karui: Karui, folder: Path, tmp_path: Path) -> None:
    one_line(karui(f"compress recipe.toml -o {tmp_path}/run -q", folder, CC="nocc"), "nocc", "apt install gcc")
    assert not (tmp_path / "run" / "candidates").exists()


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, where the system lets us mount one; else an ordinary folder."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["sh", "-c", 'mount -t tmpfs -o size=3m tmpfs "$0"', str(place)], capture_output=True, check=False)
    try:
        yield forked.user(place)
    finally:
        if mount.returncode == 0:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


# where the disk becomes full; and, for a disk that can't be filled, the write that fails then
FULL = {
    "run/karui-run.json": ("karui.workspace:Run.create", r"run/\.karui-run"),
    "01.checkpoint": ("karui.finetune.checkpoint:Checkpoints.save", r"01\.checkpoint"),
    "02.pt2": ("karui.finetune.phases:_finish", r"02\.pt2"),
    "run/export/c": ("karui.export.targets:write_all", r"run/export/\.c"),
    "report.json": ("karui.report.record:write", r"run/\.report\.json"),
}


def full(karui: Karui, disk: Path, where: str, write: str, words: str = COMMAND, **environment: str) -> Done:
    """Run on a disk that is full from the first call of ``where`` on; the space is there again afterwards."""
    ballast = disk / "ballast"
    count = 2 if where.endswith(":_finish") else 1
    filled = Trap(event="call", where=where, count=count, then="fill", ballast=str(ballast))
    done = karui(words, disk, filled if disk.is_mount() else Trap(event="write", where=write, then="full"), **environment)
    ballast.unlink(missing_ok=True)
    return done


def test_a_disk_that_is_full_again_and_again(karui: Karui, disk: Path, undisturbed: Path) -> None:
    for names, (where, write) in FULL.items():
        one_line(full(karui, disk, where, write), names, "the disk is full", "free some space and run the same command again")
        assert forked.leftovers(disk) == []
        assert (disk / "run").exists() == (names != "run/karui-run.json")
    done = karui(COMMAND, disk)
    assert (done.code, done.error) == (0, [])
    assert forked.contents(disk / "run") == forked.contents(undisturbed)


def test_an_export_to_a_full_disk(karui: Karui, disk: Path, undisturbed: Path) -> None:
    words = f"export {undisturbed} --to c -o out"
    one_line(full(karui, disk, "karui.export.targets:write_all", r"out/\.c", words), "'out/c'", "the disk is full", "free some space")
    assert not (disk / "out").exists()
    assert karui(words, disk).code == 0
    assert forked.contents(disk / "out" / "c") == forked.contents(undisturbed / "export" / "c")


def test_a_full_disk_for_the_compiler(karui: Karui, disk: Path, undisturbed: Path) -> None:
    if not disk.is_mount():
        pytest.skip("needs a disk that can be filled, and no right to mount one here")
    done = full(karui, disk, "karui.run.compiler:compile_c", "", COMMAND.replace("run", str(disk.parent / "run")), TMPDIR=str(disk))
    one_line(done, "No space left on device", "set TMPDIR to another directory")
    assert files(disk) == {"user.py", "recipe.toml"}


# ── Ctrl-C ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

INTERRUPTED = "error: interrupted; the same command goes on where this one stopped"


def test_interrupted_again_and_again(karui: Karui, undisturbed: Path, tmp_path: Path) -> None:
    run = forked.user(tmp_path / "user") / "run"
    for trap in (
        Trap(event="call", where="karui.resolve:capture", then="interrupt"),
        Trap(event="call", where="karui.finetune.loop:_step", count=3, then="interrupt"),
        Trap(event="write", where=r"01\.checkpoint", then="interrupt"),
        Trap(event="call", where="karui.run.compiler:compile_c", count=3, then="interrupt"),
        Trap(event="write", where=r"run/export/.*main\.c", then="interrupt"),
    ):
        done = karui(COMMAND, run.parent, trap)
        assert (done.code, done.out, done.error) == (130, "", [INTERRUPTED])
        assert forked.leftovers(run) == [] and not (run / "report.html").exists()
    assert karui(COMMAND, run.parent).code == 0
    assert forked.contents(run) == forked.contents(undisturbed)


def test_interrupted_as_it_starts(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(f"import os, signal\nos.kill(os.getpid(), {signal.SIGINT.value})\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])}
    done = subprocess.run([sys.executable, "-m", "karui", "list"], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (130, "", [INTERRUPTED])
