"""The run directory: whole files or none, one process at a time, and the right refusals."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from karui import workspace
from karui.errors import FileError, RunError
from karui.workspace import Run, alone_in, atomic_write, config_hash, load_arrays, replacing, replacing_folder, save_arrays


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_atomic_write_makes_parents_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.txt"
    atomic_write(file, "one")
    atomic_write(file, b"two \xff")
    assert file.read_bytes() == b"two \xff"
    assert names(file.parent) == {"b.txt"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    file = tmp_path / "model.json"
    atomic_write(file, "old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as half:
            half.write(data[:2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"can't write '.*model\.json'") as caught:
        atomic_write(file, "new content")
    assert "\n" not in str(caught.value)
    assert file.read_text() == "old"
    assert names(tmp_path) == {"model.json"}


def test_a_real_full_disk(tmp_path: Path) -> None:
    """/dev/full can't take a temporary name beside it, but a write into it fails as a full disk does."""
    with pytest.raises(RunError, match="disk is full"), replacing(tmp_path / "x") as temporary:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
        temporary.touch()
    assert names(tmp_path) == set()


def test_replacing_keeps_the_old_file_when_the_block_raises(tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    atomic_write(file, "old")
    with pytest.raises(KeyError), replacing(file) as temporary:
        temporary.write_text("half")
        raise KeyError("a reason of its own")
    assert file.read_text() == "old"
    assert names(tmp_path) == {"net.pt2"}


def test_replacing_folder_swaps_all_or_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with replacing_folder(folder) as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "model.c").write_text("one")
    with pytest.raises(KeyError), replacing_folder(folder) as fresh:
        (fresh / "model.c").write_text("half")
        raise KeyError
    assert (folder / "sub" / "model.c").read_text() == "one"
    with replacing_folder(folder) as fresh:
        (fresh / "model.h").write_text("two")
    assert names(folder) == {"model.h"}
    assert names(tmp_path) == {"c"}


def test_a_folder_that_can_not_be_written_is_named_as_the_user_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"can't write '[^']*/c': the disk is full"), replacing_folder(tmp_path / "c") as fresh:
        atomic_write(fresh / "model.c", "…")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("write", [lambda path: atomic_write(path / "x", ""), lambda path: alone_in(path).__enter__()])
@pytest.mark.parametrize("below", ["", "folder"])
def test_a_file_where_a_folder_should_be(tmp_path: Path, write: Callable[[Path], object], below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="choose another path"):
        write(tmp_path / "file" / below)
    assert names(tmp_path) == {"file"}


def test_alone_in_a_folder_what_was_left_half_written_is_swept(tmp_path: Path) -> None:
    half = tmp_path / "out" / "c" / f".model.c.1234{workspace.TEMPORARY}"
    half.parent.mkdir(parents=True)
    half.touch()
    with alone_in(tmp_path / "out"):
        assert names(half.parent) == set()
        other = os.open(tmp_path / "out", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
    with pytest.raises(KeyError), alone_in(tmp_path / "new" / "out"):
        raise KeyError
    assert names(tmp_path / "new") == set()  # nothing came of it


def test_arrays_round_trip(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.float32(3.5).reshape(()),
        "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "bytes": np.frombuffer(b"karui", np.uint8),
        "none": np.zeros((0, 3), np.float64),
        "bools": np.array([True, False]),
    }
    save_arrays(tmp_path / "x.safetensors", arrays, {"phase": "1"})
    back, facts = load_arrays(tmp_path / "x.safetensors")
    assert facts == {"phase": "1"}
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert np.array_equal(back[name], array)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"not a tensor file at all", b"\xff" * 100])
def test_damaged_arrays_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=r"x\.safetensors' is damaged"):
        load_arrays(tmp_path / "x.safetensors")


def test_truncated_and_missing_arrays(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(FileError, match="missing"):
        load_arrays(file)
    save_arrays(file, {"a": np.zeros(100)})
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FileError, match="damaged"):
        load_arrays(file)


def test_a_run_goes_on_with_the_same_configuration_only(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"seed": 0, "budget": {"drop": 0.5}, "phases": ("a", "b")})
    again = Run.create(tmp_path / "run", {"phases": ["a", "b"], "budget": {"drop": 0.5}, "seed": 0})
    assert again.config == run.config == Run.open(tmp_path / "run").config
    with pytest.raises(RunError, match=r"budget\.drop: 0\.5 there, 1\.0 now"):
        Run.create(tmp_path / "run", {"seed": 0, "budget": {"drop": 1.0}, "phases": ["a", "b"]})
    with pytest.raises(RunError, match=r"extra: null there, 1 now"):
        Run.create(tmp_path / "run", run.config | {"extra": 1})


def test_a_run_that_could_not_be_made_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "there").mkdir()
    monkeypatch.setattr(Path, "write_bytes", full)
    for name in ("new", "there"):
        with pytest.raises(RunError, match="disk is full"):
            Run.create(tmp_path / name, {})
    assert names(tmp_path) == {"there"}


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="not a karui run"):
        Run.create(tmp_path, {})
    with pytest.raises(RunError, match=r"not a karui run \(it has no karui-run.json\)"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        Run.create(tmp_path / "thesis.tex", {})
    assert names(tmp_path) == {"thesis.tex"}


def test_a_run_killed_while_it_was_made_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / f".karui-run.json.1234{workspace.TEMPORARY}").write_text("{half")
    (tmp_path / workspace.LOCK).touch()
    run = Run.create(tmp_path, {"seed": 1})
    with run.lock():
        assert names(tmp_path) == {"karui-run.json", ".lock"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99, "config": {}}'])
def test_a_damaged_marker(tmp_path: Path, content: str) -> None:
    (tmp_path / workspace.CONFIG).write_text(content)
    with pytest.raises((FileError, RunError)):
        Run.create(tmp_path, {})


def test_json(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    run.write_json("phases/01.json", {"loss": [1.5, 0.25]})
    assert run.json("phases/01.json") == {"loss": [1.5, 0.25]}
    with pytest.raises(RunError, match="finite"):
        run.write_json("after.json", float("nan"))
    with pytest.raises(FileError, match="missing"):
        run.json("none.json")
    with pytest.raises(RunError, match="outside"):
        run.path("..", "x")


def test_one_process_at_a_time_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                f"""
                import time
                from karui.workspace import Run, replacing
                with Run.open({str(run.directory)!r}).lock(), replacing({str(run.directory / "sub" / "x")!r}) as temporary:
                    temporary.write_text("half")
                    print("held", flush=True)
                    time.sleep(60)
                """
            ),
        ],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"in use by process {child.pid}"), run.lock():
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(names(run.path("sub"))) == 1
    with run.lock():
        assert names(run.path("sub")) == set()
        with pytest.raises(RunError, match="in use"), Run.open(run.directory).lock():
            pass


def test_the_hash_does_not_depend_on_order() -> None:
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1}) != config_hash({"a": 1, "b": 3})
    with pytest.raises(RunError, match="JSON"):
        config_hash({"a": object()})


def test_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; import karui.workspace"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
