"""Sessions: the Program's own arrays in and out, states, other people's files, one-line errors."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from karui.errors import DataError, FileError, ToolError
from karui.export import litert as target
from karui.program.arithmetic import quantization, quantize
from karui.program.interpreter import run
from karui.run.litert import load
from tests.export.test_c_ops import one
from tests.program.builders import lenet, residual, sample
from tests.program.single_op import normal
from tests.run.test_onnxruntime import counter

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT is not installed (karui[litert])")


def test_states_are_inputs_and_outputs(tmp_path: Path) -> None:
    session = load(target.write(counter(), tmp_path))
    x = normal(4, 3)
    assert np.allclose(session.run([x])[0], 2 * x)
    assert np.allclose(session.run([x], stream=True)[0], 2 * x.cumsum(0), atol=1e-5)
    assert len(session.run([x])) == 1


def rewritten(data: bytes, change: Callable[[Any], None]) -> bytes:
    """The file after a change of its parts."""
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    change(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_other_files_run_as_they_are(tmp_path: Path) -> None:
    data = rewritten(target.encode(lenet(integer=True)), lambda model: setattr(model, "metadata", []))
    (tmp_path / "plain.tflite").write_bytes(data)
    x = sample(lenet(integer=True), 3)[0]
    session = load(tmp_path / "plain.tflite", threads=2)
    assert session.inputs[0].dtype == "int8", "nothing says that they stand for reals"
    first = next(op.outputs[0] for op in lenet(integer=True).ops if op.kind == "quantize")
    found = session.run([quantize(x, *quantization(lenet(integer=True).tensor(first)))])[0]
    assert np.array_equal(found, run(lenet(integer=True), [x], arithmetic="xnnpack")[0])


def test_reference_kernels_and_the_default_ones_are_two_arithmetics(tmp_path: Path) -> None:
    p = residual(integer=True)
    artifact, x = target.write(p, tmp_path), sample(p, 100)
    found = [load(artifact, reference=reference).run(x)[0] for reference in (True, False)]
    assert np.array_equal(found[0], run(p, x, arithmetic="litert_ref")[0])
    assert np.array_equal(found[1], run(p, x, arithmetic="xnnpack")[0])
    assert not np.array_equal(*found)


def test_a_file_of_whole_batches_is_refused(tmp_path: Path) -> None:
    def of_four(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.shape = [4, *tensor.shape[1:]] if len(tensor.shape) and not tensor.buffer else tensor.shape

    p = one("unary", [(3,)], (3,), function="tanh", alpha=None)
    (tmp_path / "four.tflite").write_bytes(rewritten(target.encode(p), of_four))
    with pytest.raises(FileError, match=r"is \[4, 3\], which is no single sample"):
        load(tmp_path / "four.tflite")


def test_call_is_the_first_sample(tmp_path: Path) -> None:
    p = lenet(integer=True, pixels=True)
    session = load(target.write(p, tmp_path))
    session.call(sample(p, 2))()
    assert session.bytes == (tmp_path / "model.tflite").stat().st_size and session.peak_ram is None and not session.exact


def test_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="missing"):
        load(tmp_path / "nothing.tflite")
    whole = target.encode(lenet())
    for i, bad in enumerate((b"", b"not a model", b"\0" * 4096, whole[: len(whole) // 2])):
        (tmp_path / f"{i}.tflite").write_bytes(bad)
        with pytest.raises(FileError, match="can't load") as caught:
            load(tmp_path / f"{i}.tflite")
        assert "\n" not in str(caught.value)
    session = load(target.write(lenet(), tmp_path))
    with pytest.raises(DataError, match=r"input 'input' is float32 \[1, 3, 3, 1\]; expected float32 \[N, 16, 16, 1\]"):
        session.run([np.zeros((1, 3, 3, 1), np.float32)])
    with pytest.raises(DataError, match="takes 1 inputs, 2"):
        session.run([np.zeros((1, 16, 16, 1), np.float32)] * 2)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ToolError, match=r'pip install "karui\[litert\]"'):
        load(tmp_path / "model.tflite")
