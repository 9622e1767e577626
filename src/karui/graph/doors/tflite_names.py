"""What the layers of a file are called: converters leave the names of what a layer was made of in its tensors' names."""

import re
from collections.abc import Mapping

from karui.graph.doors.drawing import path_of
from karui.graph.doors.tflite_file import File, Operator

_LONGEST = 200
_ANY = ("conv", "depthwise", "matmul", "dense", "linear", "gemm", "fc", "einsum", "biasadd")
_WORDS: Mapping[str, tuple[str, ...]] = {  # how the names of a layer's own op end, or the torch module's
    "CONV_2D": ("conv",),
    "DEPTHWISE_CONV_2D": ("depthwise", "conv"),
    "TRANSPOSE_CONV": ("conv",),
    "FULLY_CONNECTED": ("matmul", "dense", "linear", "gemm", "fc", "einsum", "biasadd"),
    "BATCH_MATMUL": ("matmul", "einsum"),
}


def layer_of(file: File, op: Operator) -> str:
    """A path for an operator: what the names of its weights and results call it, without the word of the op itself.

    Converters join the names of what they fuse by ``;``, a layer's own last.
    """
    used = [i for i in (*op.inputs[1:3], *op.outputs) if i >= 0 and (i in op.outputs or file.tensors[i].data is not None)]
    parts = [part for i in used for part in reversed(file.tensors[i].name.split(";"))]
    words = [(word,) for word in _WORDS[op.kind]] if op.kind == "DEPTHWISE_CONV_2D" else [_WORDS[op.kind]] if op.kind in _WORDS else []
    for wanted in (*words, _ANY) if words else ():
        for part in parts:
            if found := _own(part, wanted):
                return found[:_LONGEST]
    name = file.tensors[op.outputs[0]].name if op.outputs else op.kind
    modules = _modules(name.split(";")[0])
    return (".".join(attribute for _, attribute in modules if attribute) or path_of(name))[:_LONGEST]


def _own(part: str, words: tuple[str, ...]) -> str:
    """The layer that this part of a name belongs to, if its op is one of ``words``; else nothing."""
    modules = _modules(part)
    if modules:
        return ".".join(attribute for _, attribute in modules if attribute) if modules[-1][0].lower().startswith(words) else ""
    *owner, last = path_of(part).split(".")
    return ".".join(owner) if last.lower().startswith(words) else ""


def _modules(part: str) -> list[tuple[str, str]]:
    """Class and attribute of each torch module on the way: ``my.Net/torch.nn.modules.conv.Conv2d_stem`` → Net, (Conv2d, stem)."""
    steps = [re.fullmatch(r"(?:\w+\.)+([A-Za-z0-9]+)(?:_(\w+))?", step) for step in part.split("/")]
    if not all(steps) or not any(step.startswith("torch.nn.") for step in part.split("/")):
        return []
    return [(step[1], step[2] or "") for step in steps if step is not None]
