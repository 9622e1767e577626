"""The door that everybody uses: what it takes, and what it says to the rest."""

from pathlib import Path

import pytest

import karui
from karui.errors import CaptureError, FileError


@pytest.mark.parametrize("name", ["none.pt2", "none.onnx", "none.tflite"])
def test_a_path_that_is_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=name):
        karui.capture(tmp_path / name)


@pytest.mark.parametrize(("name", "says"), [("net.keras", "keras.saving.load_model"), ("net.pth", r"\.onnx"), ("net", r"\.tflite")])
def test_other_files(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(FileError, match=says):
        karui.capture(tmp_path / name)


def test_other_things() -> None:
    with pytest.raises(CaptureError, match="can't capture a dict"):
        karui.capture({})
