"""The time of each op: a copy of the model with a clock in it."""

from pathlib import Path

import numpy as np
import pytest

from karui.errors import FileError
from karui.export import c
from karui.export.artifact import Artifact
from karui.run.layers import layer_times
from tests.export.many import inputs_of, merged
from tests.export.test_c_machines import convolution


def test_each_op_has_its_time(tmp_path: Path) -> None:
    small, large = convolution(2, 2, 4, 4), convolution(16, 16, 64, 64)
    program = merged({"small": small, "large": large, "again": small})
    artefact = c.write(program, tmp_path, weights="incbin")
    before = artefact.main.read_bytes()
    times = layer_times(artefact, inputs_of(program, 1), seconds=0.05)
    assert times.shape == (3,) and (times > 0).all()
    assert times[1] > 20 * max(times[0], times[2])  # 590 times the work
    assert artefact.main.read_bytes() == before


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.c").write_text("int main(void) { return 0; }\n", encoding="utf-8")
    (tmp_path / "model.h").write_text("", encoding="utf-8")
    found = Artifact(target="c", folder=tmp_path, files=(), main=tmp_path / "model.c", program="x")
    with pytest.raises(FileError, match="export it again"):
        layer_times(found, [np.zeros((1, 1), np.int8)])
