"""What all tests share: one thread each, since two run side by side on two cores; child processes see the same karui."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.forked import Karui

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

_SRC = str(Path(__file__).parents[1] / "src")
if _SRC not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_SRC, os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def karui(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Karui"]:
    """Command lines as processes that may be killed."""
    from tests.forked import Karui

    with Karui(tmp_path_factory.mktemp("forked")) as process:
        yield process


@pytest.fixture(scope="session")
def undisturbed(karui: "Karui", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    from tests import forked

    folder = forked.user(tmp_path_factory.mktemp("undisturbed"))
    done = karui("compress recipe.toml -o run -q", folder)
    assert (done.code, done.error) == (0, [])
    return folder / "run"
