"""Sessions: the Program's own arrays in and out, states, other people's files, one-line errors."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from karui.errors import DataError, FileError, ToolError
from karui.export import onnx as target
from karui.program.interpreter import run
from karui.program.program import Op, Output, Program, Tensor
from karui.run.onnxruntime import load
from tests.program.builders import ALL, lenet, sample
from tests.program.single_op import normal


def counter() -> Program:
    """state ← state + x; the output is the sum so far, doubled."""
    tensors = {n: Tensor(name=n, shape=(3,)) for n in ("x", "state", "sum", "y")}
    ops = (
        Op(kind="add", name="sum", inputs=("x", "state"), outputs=("sum",)),
        Op(kind="add", name="twice", inputs=("sum", "sum"), outputs=("y",)),
    )
    p = ALL["sensor"]()
    return replace(
        p,
        tensors=tensors,
        weights={},
        ops=ops,
        inputs=(replace(p.inputs[0], tensor="x"),),
        outputs=(Output(name="y", tensor="y"),),
        states=(("sum", "state"),),
    )


def test_states_are_inputs_and_outputs(tmp_path: Path) -> None:
    session = load(target.write(counter(), tmp_path))
    x = normal(4, 3)
    assert np.allclose(session.run([x])[0], 2 * x)
    assert np.allclose(session.run([x], stream=True)[0], 2 * x.cumsum(0), atol=1e-5)


def test_other_files_run_with_their_own_axes(tmp_path: Path) -> None:
    model = onnx.load_from_string(target.encode(lenet()))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    x = sample(lenet(), 3)[0]
    found = load(tmp_path / "plain.onnx").run([x.transpose(0, 3, 1, 2)])[0]
    assert np.allclose(found, run(lenet(), [x])[0], atol=1e-5)


def test_call_is_the_first_sample(tmp_path: Path) -> None:
    session = load(target.write(lenet(integer=True, pixels=True), tmp_path))
    session.call(sample(lenet(pixels=True), 2))()


def test_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="missing"):
        load(tmp_path / "nothing.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(FileError, match="can't load") as caught:
        load(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)
    session = load(target.write(lenet(), tmp_path))
    with pytest.raises(DataError, match="expected float32"):
        session.run([np.zeros((1, 3, 3, 1), np.float32)])
    with pytest.raises(DataError, match="takes 1 inputs, 2"):
        session.run([np.zeros((1, 16, 16, 1), np.float32)] * 2)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ToolError, match="pip install"):
        load(tmp_path / "model.onnx")
