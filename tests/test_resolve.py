"""What a user names → a network; a file that leaves sizes open takes them from behind its name."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from karui.errors import CaptureError, FileError, RecipeError
from karui.resolve import network_of


@pytest.fixture
def opened(tmp_path: Path) -> str:
    """A file whose picture has any height and width, and whose words any length."""
    inputs = {"picture": ["N", 3, "h", "w"], "words": ["N", "l"]}
    graph = helper.make_graph(
        [helper.make_node("Relu", ["picture"], ["a"]), helper.make_node("Abs", ["words"], ["b"])],
        "open",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name="a"), onnx.ValueInfoProto(name="b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "open.onnx")
    return str(tmp_path / "open.onnx")


def test_sizes_behind_a_files_name(opened: str) -> None:
    assert [spec.shape for spec in network_of(f"{opened}@3x20x30,7").inputs] == [(3, 20, 30), (7,)]
    with pytest.raises(CaptureError, match=r"'picture' has a free size in axis 2.*FILE\.onnx@3x96x96"):
        network_of(opened)
    with pytest.raises(CaptureError, match="has 2 input.* the example is 1 tensor"):
        network_of(f"{opened}@3x20x30")
    with pytest.raises(CaptureError, match=r"the example is \[2, 4, 20, 30\]"):
        network_of(f"{opened}@4x20x30,7")


@pytest.mark.parametrize("sizes", ["", "x", "3x", "a", "0x3,1", "-1,2", "999999x999999x999999", "3x20x30;7"])
def test_sizes_that_are_none(sizes: str, opened: str) -> None:
    with pytest.raises(RecipeError, match="as 3x96x96"):
        network_of(f"{opened}@{sizes}")


def test_a_missing_file_with_sizes() -> None:
    with pytest.raises(FileError, match=r"'none\.onnx' does not exist"):
        network_of("none.onnx@3x4x4")
