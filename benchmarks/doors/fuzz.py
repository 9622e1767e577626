"""Line 6: files that are wrong: those of ``damage.py`` by name, then thousands of whole files with something changed.

Each gives a KaruiError in one line or a network that runs. They are opened in processes of their own, with limits of time and memory.
"""

import io
import json
import random
import resource
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.doors import damage, sequences, vision
from benchmarks.doors.files import write_onnx
from benchmarks.doors.opened import of_torch
from benchmarks.harness import Row, skipped
from karui.errors import DataError, KaruiError, ToolError, first_line
from karui.export import litert as litert_target
from karui.export import onnx as onnx_target
from karui.lower import lower
from karui.testing.subjects import small_network, small_programs

COUNTS = {".onnx": (1500, 20), ".tflite": (1500, 20), ".pt2": (600, 5)}  # of the full run, of a quick one
SECONDS, BYTES, GROWTH = 20, 8 << 30, 1 << 30  # of one file; of address space; of resident memory
FAULTS = ("crash", "hang", "memory", "more than a line", "another error", "a network that can't run")


def rows(quick: bool) -> Iterator[Row]:
    """Those with names, then the mutations of each kind of file."""
    with TemporaryDirectory() as scratch:
        yield from named(Path(scratch))
        for ending, counts in COUNTS.items():
            folder = _folder(Path(scratch) / ending[1:])
            try:
                whole(ending, folder)
            except (DataError, ToolError) as reason:
                yield skipped(f"6 {ending}", str(reason))
                continue
            yield from _told(ending, counts[quick], mutated(folder, counts[quick]))


def named(scratch: Path) -> Iterator[Row]:
    """Each mistake, and what is said of it."""
    cases = [(label, write(_folder(scratch / f"named{i}")), word) for i, (label, write, word) in enumerate(damage.cases())]
    for (label, path, word), (kind, words) in zip(cases, opened([path for _, path, _ in cases]), strict=True):
        words = words.replace(str(path.parent), "…").replace("|", "/")
        ok = kind not in ("network", *FAULTS) and word in words
        yield Row(case=f"6 {label}", figure="message", value=f"{kind}: {words}", goal=f"names '{word}'", ok=ok)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _told(ending: str, count: int, found: list[tuple[str, str]]) -> Iterator[Row]:
    kinds = Counter(kind for kind, _ in found)
    for kind in sorted(kinds.keys() - set(FAULTS)):
        yield Row(case=f"6 {ending}", figure=f"of {count} mutations: {kind}", value=kinds[kind])
    bad = [f"{kind}: {words}" for kind, words in found if kind in FAULTS]
    yield Row(case=f"6 {ending}", figure=f"of {count} mutations: {', '.join(FAULTS)}", value=len(bad), goal="0", ok=not bad)
    for words, times in Counter(bad).most_common(12):
        yield Row(case=f"6 {ending}", figure=f"{times} times", value=words.replace("|", "/")[:300], ok=False)


# ── whole files, and what is done to them ───────────────────────────────────────────────────────────────────────────────────────


def whole(ending: str, folder: Path) -> None:
    """Small files of this kind: exported by torch and by karui, floats and integers."""
    programs = small_programs()
    if ending == ".onnx":
        for name, opening in (("espcn", of_torch(vision.Espcn, (1, 32, 32))), ("sensor", of_torch(sequences.Sensor, (64, 6)))):
            opened = opening(folder)
            write_onnx(opened.source, opened.example or (), folder / f"{name}.onnx")
        onnx_target.write(programs["int8"], folder / "int8").main.rename(folder / "int8.onnx")
    if ending == ".tflite":
        for form in ("float", "int8"):
            litert_target.write(programs[form], folder / form).main.rename(folder / f"{form}.tflite")
    if ending == ".pt2":
        small_network().save(folder / "small.pt2")


def mutation(files: list[bytes], seed: int) -> bytes:
    """One of the files, cut, with bits turned, or with parts of itself or of another in the wrong place."""
    chance = random.Random(seed)
    file = chance.choice(files)
    if zipfile.is_zipfile(io.BytesIO(file)) and chance.random() < 0.7:
        return _member(file, chance)
    return _changed(bytearray(file), files, chance)


def _member(file: bytes, chance: random.Random) -> bytes:
    """One member of an archive changed, and the archive written as if that were so: its checksums would hide what is behind them."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(written, "w") as new:
        members = {name: old.read(name) for name in old.namelist()}
        which = chance.choice([name for name, data in members.items() if data])
        for name, data in members.items():
            new.writestr(name, _changed(bytearray(data), list(members.values()), chance) if name == which else data)
    return written.getvalue()


def _changed(data: bytearray, files: list[bytes], chance: random.Random) -> bytes:
    kind = chance.randrange(4)
    if kind == 0:
        return bytes(data[: chance.randrange(len(data))])
    places = [chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 2000)) for _ in range(8)]
    if kind == 1:
        for place in places[: chance.choice((1, 1, 3, 8))]:
            data[place] ^= 1 << chance.randrange(8)
    elif kind == 2:
        other = chance.choice(files) or b"?"
        start, length = chance.randrange(len(other)), chance.choice((1, 4, 16, 64, 1024))
        part = other[start : start + length]
        data[places[0] : places[0] + (len(part) if chance.random() < 0.5 else 0)] = part
    else:
        length = chance.choice((1, 2, 4, 8))
        data[places[0] : places[0] + length] = chance.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * length
    return bytes(data)


def mutated(folder: Path, count: int) -> list[tuple[str, str]]:
    """What every mutation gave."""
    sources = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in COUNTS)
    contents, target = [path.read_bytes() for path in sources], _folder(folder / "mutated")
    found: list[tuple[str, str]] = []
    for first in range(0, count, 100):
        paths = []
        for seed in range(first, min(first + 100, count)):
            paths.append(target / f"m{seed}{sources[0].suffix}")
            paths[-1].write_bytes(mutation(contents, seed))
        found += [(kind, words.replace(str(target), "…")) for kind, words in opened(paths)]
        for path in paths:
            path.unlink()
    return found


# ── opening them ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def opened(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """What becomes of each: "network", a KaruiError's name, or one of FAULTS; with words."""
    left = list(paths)
    while left:
        command = [sys.executable, "-m", "benchmarks.doors.fuzz", *map(str, left)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120 + SECONDS * 10, check=False)
            output, how = done.stdout, ("crash", f"signal {-done.returncode}" if done.returncode < 0 else done.stderr[-200:])
        except subprocess.TimeoutExpired as error:
            output, how = (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else "", ("hang", "in C")
        lines = [json.loads(line[7:]) for line in output.splitlines() if line.startswith("opened ")]
        yield from ((kind, words) for kind, words in lines)
        left = left[len(lines) :]
        if left:
            yield how
            left = left[1:]


class _Hang(BaseException):
    """A file took too long."""


def _rings(*_: Any) -> None:
    raise _Hang


def _open(path: Path) -> tuple[str, str]:
    import karui

    before = _most()
    signal.alarm(SECONDS)
    try:
        network = karui.capture(path)
        told = _runs(network)
    except KaruiError as error:
        told = ("more than a line", str(error)) if "\n" in str(error) else (type(error).__name__, str(error))
    except _Hang:
        told = "hang", f"more than {SECONDS} s"
    except (MemoryError, RecursionError, Exception) as error:
        told = "another error", first_line(error)
    finally:
        signal.alarm(0)
    return ("memory", f"{(_most() - before) >> 20} MiB") if _most() - before > GROWTH else told


def _runs(network: Any) -> tuple[str, str]:
    try:
        with torch.no_grad():
            network.eval()(*network.example(2))
    except Exception as error:
        return "a network that can't run", first_line(error)
    return "network", ""


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _all(paths: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    signal.signal(signal.SIGALRM, _rings)
    torch.set_num_threads(1)
    _runs(small_network())
    lower(small_network())
    for path in paths:
        print("opened " + json.dumps(_open(Path(path))), flush=True)


if __name__ == "__main__":
    _all(sys.argv[1:])
