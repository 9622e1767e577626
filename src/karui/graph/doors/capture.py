"""The door that everybody uses: whatever holds a network → Network."""

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from torch import Tensor, nn

from karui.errors import CaptureError, FileError
from karui.graph.doors import keras
from karui.graph.doors import torch as torch_door
from karui.graph.network import Network
from karui.graph.tidy import tidied

FILES = (".pt2", ".onnx", ".tflite")


def capture(
    source: nn.Module | Any | str | PathLike[str], example: Tensor | Sequence[Tensor] | None = None, *, name: str | None = None
) -> Network:
    """Capture a trained network as one graph with a free batch size.

    source: a torch module or a Keras 3 model on the torch backend (left untouched; their parameters are copied, to the CPU and to float32),
    or the path of a ``.pt2``, ``.onnx`` or ``.tflite`` file, of which nothing is run. A module keeps its mode; what comes from a file is in
    evaluation. Quantized files become trainable networks whose parameters and values go through the file's own scales.
    example: the tensor or tensors that the network takes, the batch as first axis, all other sizes fixed by it; a module needs it, a Keras
    model and a file only where they leave sizes open. Images have their channels first in every network of karui: those of Keras and TFLite
    are turned, but an example for them is as they take it.
    Raises CaptureError or UnsupportedOp in one line, with the line of the user's code where it is known; FileError for a file, ToolError
    where a package is missing.
    """
    if isinstance(source, str | PathLike):
        return _file(fspath(source), example, name)
    if keras.is_keras(source):
        return keras.capture(source, example, name=name)
    if isinstance(source, nn.Module):
        return torch_door.capture(source, example, name=name)
    raise CaptureError(f"can't capture a {type(source).__name__}; give a torch module, a Keras model, or a file: {', '.join(FILES)}")


def _file(path: str, example: Tensor | Sequence[Tensor] | None, name: str | None) -> Network:
    ending = path[path.rfind(".") :].lower() if "." in path else ""
    if ending == ".onnx":
        from karui.graph.doors import onnx  # each file's door brings a table of ops, which the others don't need

        return tidied(onnx.read(path, example, name=name))
    if ending == ".tflite":
        from karui.graph.doors import tflite

        return tidied(tflite.read(path, example, name=name))
    if ending == ".pt2":
        return Network.load(path)
    if ending in (".keras", ".h5"):
        raise FileError(f"'{path}' can hold code; load it with keras.saving.load_model, and give karui the model")
    raise FileError(f"'{path}' is no {', '.join(FILES[:-1])} or {FILES[-1]} file; give one of these, or the network itself")
