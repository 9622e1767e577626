"""A machine without any data set or network."""

import urllib.error
from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty KARUI_DATA, and no Debian folder and no network besides."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("KARUI_DATA", str(data))
    monkeypatch.setattr("karui.datasets.sets.DEBIAN", tmp_path / "debian")

    def refuse(*args: object, **settings: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return data
