"""Files that are wrong in a known way, each with the word that its refusal has to say."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

HUGE = 10**7

Write = Callable[[Path], Path]


def cases() -> Iterator[tuple[str, Write, str]]:
    """What is wrong, what writes the file into a folder, and the word."""
    yield "unknown operator", _onnx([_node("Frobnicate", ["x"])]), "Frobnicate"
    yield "operator of an unknown domain", _onnx([_node("Thing", ["x"], domain="com.example")]), "Thing"
    yield "open sizes and no example", _onnx([_node("Relu", ["x"])], shape=["n", 3, "h", "w"]), "example"
    yield "control flow", _onnx([_loop()]), "Loop"
    yield "external data missing", _external("weights.bin"), "weights.bin"
    yield "external data outside the folder", _external("../../secret.bin"), "secret.bin"
    yield "a constant that claims more than it holds", _claim, "w"
    yield "a constant of absurd size", _onnx([_fill([HUGE, HUGE]), _node("Add", ["x", "big"])]), "ConstantOfShape"
    yield "padding of absurd size", _onnx([_node("Pad", ["x", "p"])], p=np.array([0, 0, 0, 0, 0, 0, HUGE, HUGE])), "Pad"
    yield "resize to absurd size", _onnx([_node("Resize", ["x", "", "s"])], s=np.array([1, 1, HUGE, HUGE], np.float32)), "Resize"
    yield "tile of absurd size", _onnx([_node("Tile", ["x", "t"])], t=np.array([1, 1, HUGE, HUGE])), "Tile"
    yield "expand to absurd size", _onnx([_node("Expand", ["x", "t"])], t=np.array([1, 3, HUGE, HUGE])), "Expand"
    yield "a value that nothing makes", _onnx([_node("Add", ["x", "nowhere"])]), "nowhere"
    yield "a cycle", _onnx([_node("Add", ["x", "b"], "a"), _node("Relu", ["a"], "b"), _node("Relu", ["b"])]), "b"
    yield "weights that don't fit", _onnx([_node("Conv", ["x", "w"])], w=np.zeros((4, 5, 3, 3), np.float32)), "Conv"
    yield "the batch taken apart", _onnx([_node("Reshape", ["x", "t"])], shape=[4, 3, 8, 8], t=np.array([2, 2, 192])), "batch"
    for ending in (".onnx", ".tflite", ".pt2"):
        yield f"empty {ending}", _bytes(b"", ending), f"model{ending}"
        yield f"words in {ending}", _bytes(b"these are words, not a network\n" * 9, ending), f"model{ending}"
    yield "a .tflite of zeros behind its mark", _bytes(b"\x1c\x00\x00\x00TFL3" + bytes(400), ".tflite"), "model.tflite"
    yield "a .pt2 that would run code", _pickled, "model.pt2"
    yield "a .pt2 of another archive", _archive, "model.pt2"
    yield "a file that isn't there", lambda folder: folder / "nothing.onnx", "nothing.onnx"
    yield "a folder", _folder, "folder.onnx"
    yield "another kind of file", _bytes(b"PK", ".h5"), "keras.saving.load_model"


def _node(kind: str, inputs: Sequence[str], output: str = "y", *, domain: str = "", **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), [output], name=f"the_{kind}", domain=domain, **attributes)


def _fill(shape: list[int]) -> Any:
    """Two nodes in one would be a list; the shape is a constant that ``_onnx`` adds under this name."""
    return _node("ConstantOfShape", ["shape"], "big", value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])), shape


def _loop() -> Any:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("v", TensorProto.FLOAT, None)],
        [info("c2", TensorProto.BOOL, []), info("v2", TensorProto.FLOAT, None)],
    )
    return helper.make_node("Loop", ["", "", "x"], ["y"], name="the_Loop", body=body)


def _onnx(nodes: Sequence[Any], *, shape: Sequence[int | str] = ("n", 3, 8, 8), **constants: np.ndarray) -> Write:
    def write(folder: Path) -> Path:
        held, kept = dict(constants), []
        for node in nodes:
            if isinstance(node, tuple):
                node, held["shape"] = node[0], np.array(node[1])
            kept.append(node)
        return _save(kept, [numpy_helper.from_array(value, name) for name, value in held.items()], folder, shape)

    return write


def _save(nodes: Sequence[Any], constants: Sequence[Any], folder: Path, shape: Sequence[int | str] = ("n", 3, 8, 8)) -> Path:
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape)), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "graph", [ends[0]], [ends[1]], initializer=list(constants))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


def _external(location: str) -> Write:
    def write(folder: Path) -> Path:
        tensor = onnx.TensorProto(name="w", dims=[4, 3, 3, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        return _save([_node("Conv", ["x", "w"])], [tensor], folder)

    return write


def _claim(folder: Path) -> Path:
    tensor = onnx.TensorProto(name="w", dims=[HUGE, HUGE, 3, 3], data_type=TensorProto.FLOAT, raw_data=b"\0\0\0\0")
    return _save([_node("Conv", ["x", "w"])], [tensor], folder)


def _bytes(content: bytes, ending: str) -> Write:
    def write(folder: Path) -> Path:
        path = folder / f"model{ending}"
        path.write_bytes(content)
        return path

    return write


class _Call:
    """Unpickled, it would call something; that something here only says so."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the file has run",)


def _pickled(folder: Path) -> Path:
    path = folder / "model.pt2"
    torch.save({"network": _Call()}, path)
    return path


def _archive(folder: Path) -> Path:
    path = folder / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return path


def _folder(folder: Path) -> Path:
    (folder / "folder.onnx").mkdir()
    return folder / "folder.onnx"
