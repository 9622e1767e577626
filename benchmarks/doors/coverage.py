"""Line 1: each network through every column, beside its own framework; and whether the doctor had said so.

A network is tried in a process of its own, with limits of time and memory; what was found lies in ``runs/benchmarks/doors``, so that a
stopped run goes on, as long as karui's sources are what they were.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import karui
from benchmarks.doors.catalogue import subjects
from benchmarks.doors.opened import Subject
from benchmarks.doors.trial import COLUMNS, TARGETS
from benchmarks.harness import Row, at_least, skipped

CACHE = Path("runs/benchmarks/doors")
SECONDS = 1200
DOCTORED = COLUMNS[1:]  # what the doctor has a verdict on
AGREES = "doctor"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """names: these networks only, tried anew; all of them where empty. stale: what older sources gave may stand. kept: nothing is tried."""

    names: tuple[str, ...] = ()
    stale: bool = False
    kept: bool = False


def rows(quick: bool, choice: Choice = Choice()) -> Iterator[Row]:  # noqa: B008  (frozen)
    """A row for each cell, then the sums."""
    chosen = [each for each in subjects(quick=quick and not choice.names) if not choice.names or each.name in choice.names]
    tried: list[tuple[Subject, dict[str, Any]]] = []
    for subject in chosen:
        found = result(subject, choice)
        tried.append((subject, found))
        yield from cells(subject, found)
    if not choice.names:
        yield from sums(tried, quick=quick)


def cells(subject: Subject, found: dict[str, Any]) -> Iterator[Row]:
    """One network: its columns, or that it was skipped, or how it was refused."""
    case = f"1 {subject.name}"
    if "skipped" in found:
        yield skipped(case, found["skipped"])
        return
    captured = found["cells"].get("captured", ["no", "nothing was found"])
    if subject.refused:
        named = captured[0] == "no" and subject.refused in captured[1] and not captured[1].startswith("fault")
        yield Row(case=case, figure="refused", value=captured[1], goal=f"names '{subject.refused}'", ok=named)
        return
    for column in COLUMNS:
        if column in found["cells"]:
            yield Row(case=case, figure=column, value=": ".join(found["cells"][column]))
    if found["doctor"]:
        wrong = [column for column in DOCTORED if found["doctor"][column][0] != found["cells"][column][0]]
        words = "; ".join(f"{column} {': '.join(found['doctor'][column])}" for column in wrong)
        yield Row(case=case, figure=AGREES, value=f"no: {words}" if wrong else "yes")


def sums(tried: Sequence[tuple[Subject, dict[str, Any]]], *, quick: bool) -> Iterator[Row]:
    """How many, and which shares."""
    every = [(subject, found) for subject, found in tried if "skipped" not in found]
    asked = [(subject, found) for subject, found in every if not subject.refused]
    count, others = len(every), sum(subject.kind != "classifier" for subject, _ in every)
    yield Row(case="1 networks", figure="tried", value=count, goal="≥ 60", ok=None if quick else count >= 60)
    yield Row(case="1 networks", figure="of them no classifiers of pictures", value=others, goal="≥ 10", ok=None if quick else others >= 10)
    whole = [exported(found) for _, found in asked]
    through = [_through(found) for subject, found in asked if subject.convolutional]
    if not asked or not through:
        return
    yield at_least("1 all", "captured, and equal in C, ONNX and LiteRT as floats", 100 * sum(whole) / len(whole), 95, "%")
    yield at_least("1 convolutional", "through every column", 100 * sum(through) / len(through), 90, "%")
    answers = [(found["doctor"][c][0], found["cells"][c][0]) for _, found in asked if found["doctor"] for c in DOCTORED]
    share = 100 * sum(a == b for a, b in answers) / max(1, len(answers))
    yield at_least("1 doctor", f"of {len(answers)} cells as they were measured", share, 100, "%")


def exported(found: dict[str, Any]) -> bool:
    """Captured, and every target's float outputs are the original's."""
    parts = found["parts"]
    good = all(parts.get(target, {}).get("float", ["no"])[0] == "yes" for target in TARGETS)
    return good and found["cells"]["captured"][0] == "yes"


def _through(found: dict[str, Any]) -> bool:
    """No column says no. ``partly`` is an answer: some layers stay in float, or some channels can't leave."""
    return all(found["cells"].get(column, ["no"])[0] != "no" for column in COLUMNS)


# ── one network, in a process of its own ────────────────────────────────────────────────────────────────────────────────────────


def result(subject: Subject, choice: Choice) -> dict[str, Any]:
    """What is known of it already, else what a trial finds."""
    file = CACHE / f"{subject.name.replace('/', '-')}.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = held.get("sources") == sources() or ((choice.stale or choice.kept) and "sources" in held)
    if same and "skipped" not in held and not choice.names:
        return held
    if choice.kept:
        return {"skipped": held.get("skipped", "not tried in this run, for want of time")}
    CACHE.mkdir(parents=True, exist_ok=True)
    found = tried(subject, file) | {"sources": sources()}
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    return found


def tried(subject: Subject, file: Path) -> dict[str, Any]:
    """A trial; one that ends otherwise than it should stops at a column, which gets the reason."""
    command = [sys.executable, "-m", "benchmarks.doors.trial", subject.name, str(file)]
    file.unlink(missing_ok=True)
    environment = {**os.environ, "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=environment, check=False)
        reason = f"crashed: signal {-done.returncode}" if done.returncode < 0 else (done.stderr.strip().splitlines() or ["nothing"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"hung: more than {SECONDS} s"
    empty = {"name": subject.name, "cells": {}, "doctor": {}, "parts": {}, "at": "captured"}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else empty
    if not found.get("finished") and found["at"] != "doctor":
        at = "captured" if found["at"] == "opening" else found["at"]
        found["cells"] |= {at: ["no", reason]} | {c: ["no", f"not reached ({at} {reason})"] for c in COLUMNS[COLUMNS.index(at) + 1 :]}
    elif not found.get("finished"):
        found["doctor"] = {column: ["no", reason] for column in DOCTORED}
    return found


def sources() -> str:
    """A fingerprint of karui's Python and C files."""
    folder = Path(karui.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.c"), *folder.rglob("*.h")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
