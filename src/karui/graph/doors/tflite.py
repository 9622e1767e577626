"""A ``.tflite`` file → Network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from karui.errors import CaptureError, FileError, UnsupportedOp
from karui.graph.doors import (
    tflite_cuts,
    tflite_layers,
    tflite_numbers,
    tflite_pointwise,
    tflite_recurrent,
    tflite_reductions,
    tflite_shapes,
    tflite_windows,
)
from karui.graph.doors.drawing import SIZES, Drawing, Live, Value
from karui.graph.doors.tflite_constants import form_of
from karui.graph.doors.tflite_file import File, FileTensor, Operator, read_file
from karui.graph.doors.tflite_names import layer_of
from karui.graph.doors.tflite_rule import Rule
from karui.graph.doors.tflite_scene import CHANNELS_FIRST, Held, Scene, plain_order
from karui.graph.network import Network

_TABLES = (tflite_layers, tflite_windows, tflite_pointwise, tflite_reductions, tflite_shapes, tflite_cuts, tflite_numbers, tflite_recurrent)
RULES: Mapping[str, Rule] = {kind: rule for table in _TABLES for kind, rule in table.RULES.items()}

_CHANNELS_LAST = [0, 2, 3, 1]  # the permutation with which a file that takes images channels first begins
_STATE = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "HASHTABLE")
_CONTROL = ("WHILE", "IF", "CALL", "STABLEHLO_WHILE", "STABLEHLO_COMPOSITE")
_INPUTS = {"FLOAT32": torch.float32, "FLOAT16": torch.float32, "INT32": torch.int32, "INT64": torch.int64}


def read(path: str | Path, example: Tensor | Sequence[Tensor] | None = None, *, name: str | None = None) -> Network:
    """The network that a TFLite file holds, trainable, in evaluation mode.

    Images go in and come out channels first, ``(N, C, H, W)``, whatever the file does; all other tensors as the file has them; the batch
    is free. What the file writes in integers becomes real numbers seen through ``fake_quantize``: weights are parameters with the file's
    scales, activations are rounded where the file rounds them; inputs and outputs are the real numbers that their codes stand for. example:
    inputs as the network will take them, needed where the file leaves other sizes than the batch's open. name: the file's, if left out.
    Raises FileError for a damaged file, UnsupportedOp for operators that have no rule, CaptureError for shapes that no network can have,
    ToolError without the package ai-edge-litert.
    """
    path = Path(path)
    file = read_file(path)
    drawing = Drawing(path.name)
    scene = Scene(file, drawing)
    _check_kinds(scene)
    _inputs(scene, _examples(example))
    for op in file.operators:
        drawing.layer = layer_of(file, op)
        _draw(scene, op)
    return drawing.finish(_outputs(scene), name or path.stem)


def _draw(scene: Scene, op: Operator) -> None:
    """One operator through its rule, with what it carries: activation and rounding."""
    made = RULES[op.kind](scene, op)
    results = made if isinstance(made, tuple) else (made,)
    if len(results) < len(op.outputs):
        scene.refuse(f"{len(op.outputs)} outputs of {op.kind}", "check the file")
    for i, (index, held) in enumerate(zip(op.outputs, results, strict=False)):
        scene.env[index] = scene.seal(op, held, i)


def _check_kinds(scene: Scene) -> None:
    """Refuses operators without a rule before anything is drawn: a state or control flow first, which explain the others."""
    lacking = [op for op in scene.file.operators if op.kind not in RULES]
    if not lacking:
        return
    kinds = list(dict.fromkeys(op.kind for op in lacking))
    worst = next((kind for kind in (*_STATE, *_CONTROL) if kind in kinds), kinds[0])
    layer = layer_of(scene.file, next(op for op in lacking if op.kind == worst))
    where = f"'{scene.drawing.source}': '{layer}' is {worst}"
    if worst in _STATE:
        raise UnsupportedOp(f"{where}, which keeps a state between calls; convert the network without streaming state")
    if worst in _CONTROL:
        raise UnsupportedOp(f"{where}, a loop, branch or call; convert the network with its control flow unrolled")
    others = f" (nor have {', '.join(kinds[1:6])})" if len(kinds) > 1 else ""
    raise UnsupportedOp(f"{where}, which has no rule{others}; convert the network without it, or end it before it")


# ── inputs and outputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _examples(example: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    return [] if example is None else [example] if isinstance(example, Tensor) else list(example)


def _inputs(scene: Scene, examples: Sequence[Tensor]) -> None:
    file = scene.file
    if examples and len(examples) != len(file.inputs):
        raise CaptureError(f"'{scene.drawing.source}' has {len(file.inputs)} inputs, the example {len(examples)}; give one tensor for each")
    taken: set[str] = set()
    for i, index in enumerate(file.inputs):
        if index < 0 or index in scene.env:
            raise FileError(f"'{scene.drawing.source}' is damaged: input {i} is no tensor, or one twice; convert it again")
        tensor = file.tensors[index]
        name = _name(file, index, taken)
        order = _order(scene, index, tensor)
        shape = _sample(scene, tensor, name, order, examples[i] if examples else None)
        scene.drawing.layer = name
        scene.env[index] = _entered(scene, tensor, name, shape, order)


def _entered(scene: Scene, tensor: FileTensor, name: str, shape: Sequence[int], order: tuple[int, ...]) -> Held:
    form = form_of(tensor)
    dtype = torch.float32 if form is not None else _INPUTS.get(tensor.dtype)
    if dtype is None:
        raise CaptureError(f"'{scene.drawing.source}': input '{name}' is {tensor.dtype}; expected floats, codes with a scale, or integers")
    live = scene.drawing.input(name, shape, dtype)
    value = live if form is None else scene.drawing.fake_quantize(live, form, name)
    return Held(value=value, order=order)


def _order(scene: Scene, index: int, tensor: FileTensor) -> tuple[int, ...]:
    """Four axes are an image, which lies channels first; so it does in the file itself where all that reads it turns it first."""
    if len(tensor.shape) != 4:
        return plain_order(len(tensor.shape))
    readers = scene.readers(index)
    turned = [op for op in readers if op.kind == "TRANSPOSE" and scene.has(op, 1) and scene.numbers(op, 1, "permutation") == _CHANNELS_LAST]
    return plain_order(4) if readers and len(turned) == len(readers) else CHANNELS_FIRST


def _sample(scene: Scene, tensor: FileTensor, name: str, order: tuple[int, ...], example: Tensor | None) -> list[int]:
    """The shape of one sample as the network takes it; sizes that the file leaves open are the example's."""
    where = f"'{scene.drawing.source}': input '{name}'"
    if not tensor.shape or (tensor.signature[0] != -1 and tensor.shape[0] != 1):
        raise CaptureError(f"{where} has the shape {list(tensor.shape)}; expected the batch as first axis, of size 1 or free")
    sizes = [tensor.signature[axis] for axis in order]
    if example is None and -1 in sizes[1:]:
        raise CaptureError(f"{where} leaves axis {1 + sizes[1:].index(-1)} open; pass an example, or its shape: FILE.tflite@96x96x3")
    if example is None:
        return sizes[1:]
    given = list(example.shape)
    if len(given) != len(sizes) or any(size not in (-1, n) for size, n in zip(sizes[1:], given[1:], strict=True)):
        raise CaptureError(f"{where} takes the shape {['N', *sizes[1:]]}, the example has {given}; images are channels first")
    return given[1:]


def _outputs(scene: Scene) -> dict[str, Value]:
    """Images leave channels first, everything else as the file has it."""
    found: dict[str, Value] = {}
    taken: set[str] = set()
    for index in scene.file.outputs:
        if index < 0:
            raise FileError(f"'{scene.drawing.source}' is damaged: an output is no tensor; convert it again")
        name = _name(scene.file, index, taken)
        scene.drawing.layer = name
        held = scene.at(index)
        if held.spread is not None:
            scene.refuse("an output that SPACE_TO_BATCH_ND made", "end the network with BATCH_TO_SPACE_ND")
        held = held if held.order == CHANNELS_FIRST and not held.hidden else scene.plain(held)
        found[name] = _sampled(scene, held.value) if isinstance(held.value, Live) else held.value
    return found


def _sampled(scene: Scene, value: Live) -> Value:
    """A result that a file of one sample gives without the batch is given it."""
    if value.batch != 0 or value.shape[0] == SIZES[0]:
        return value
    factor = value.shape[0] // SIZES[0]
    two, three = ([n, *([factor] if factor > 1 else []), *value.shape[1:]] for n in SIZES)
    return scene.drawing.reshape(value, two, three)


def _name(file: File, index: int, taken: set[str]) -> str:
    """What the file's signature calls a tensor, or its own name without what converters put around it."""
    raw = file.names.get(index) or file.tensors[index].name.removeprefix("serving_default_")
    head, _, tail = raw.rpartition(":")
    name = head if head and tail.isdigit() else raw
    name = name[:200] or f"tensor_{index}"
    while name in taken:
        name += "_"
    taken.add(name)
    return name
