"""Target ``onnx``: a Program as one ``.onnx`` file, for onnxruntime and everything else that reads ONNX.

Inputs and outputs are what a user of the network expects: a free batch axis, channels first, float32 (or uint8 pixels, normalised inside,
where the Program takes pixels), real numbers out. Integer layers are written as QDQ: int8 weights per output channel, uint8 activations,
int32 biases, which integer runtimes fuse into their kernels. Weights that are sparse are written dense: ONNX has no common form for them.
Early exits choose between values that are both computed: the answers are right, and no faster than without exits.

onnxruntime on x86 without VNNI adds pairs of u8·s8 products in 16 bits, which overflow unless the session option
``session.x64quantprecision`` is "1"; ``run/onnxruntime.py`` sets it, other programs should. Layers whose weights int8 can't hold exactly
(two-scale ternary, grouped scales, shifted codes beyond ±127) stay in float between quantized tensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from karui.errors import RecipeError, ToolError
from karui.export import ports
from karui.export.artifact import Artifact
from karui.export.onnx_graph import Form, Graph, Node, first, last
from karui.export.onnx_ops import RULES
from karui.program.program import Program, Tensor
from karui.workspace import atomic_write

OPSET, NEWEST = 17, 23  # what is written where nobody asks for another; layer-norms need 17
KEPT = "onnx."  # keys of a Program's metadata that came from an ONNX file, and go back into one
_PROPERTY = f"{KEPT}property."
BATCH = "N"


def write(program: Program, folder: Path, *, name: str = "model", opset: int | None = None) -> Artifact:
    """Write ``NAME.onnx`` into a folder that is made if it lacks; the same Program gives the same bytes.

    Args:
        opset: 17 to 23. Left out, that of the file which the network came from, if it is one of these, else 17.

    Raises:
        UnsupportedOp: an op that ONNX can't express.   RecipeError: another opset.   ToolError: the package 'onnx' is missing.
    """
    data, facts = _model(program, _opset(program, opset))
    path = Path(folder) / f"{name}.onnx"
    atomic_write(path, data)
    return Artifact(target="onnx", folder=Path(folder), files=(path,), main=path, program=program.name, facts=facts)


def encode(program: Program, *, opset: int | None = None) -> bytes:
    """The file as bytes; raises as ``write`` does."""
    return _model(program, _opset(program, opset))[0]


def _opset(program: Program, asked: int | None) -> int:
    if asked is None:
        known = program.metadata.get(f"{KEPT}opset", "")
        return int(known) if known.isdecimal() and OPSET <= int(known) <= NEWEST else OPSET
    if not OPSET <= asked <= NEWEST:
        raise RecipeError(f"opset: expected {OPSET} to {NEWEST}, got {asked}")
    return asked


def _model(program: Program, opset: int) -> tuple[bytes, dict[str, Any]]:
    try:
        import onnx
    except ImportError:
        raise ToolError("target 'onnx' needs the package onnx; install it with: pip install onnx") from None
    graph = Graph(program, opset)
    outputs = [graph.name(name) for name, _ in ports.outputs(program)]
    inputs = _open(graph)
    for op in program.ops:
        if op.kind not in RULES:
            raise graph.refuse(op, f"kind '{op.kind}'", "choose another target or another op")
        RULES[op.kind](graph, op)
    _close(graph, outputs)
    facts = _facts(program, [value for _, value, _ in inputs], outputs)
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [_node(onnx, node) for node in graph.nodes],
            program.name,
            [onnx.helper.make_tensor_value_info(value, _type(onnx, dtype), shape) for dtype, value, shape in inputs],
            [
                onnx.helper.make_tensor_value_info(value, _type(onnx, _outside(program.tensor(tensor))), _shape(program.tensor(tensor)))
                for (_, tensor), value in zip(ports.outputs(program), outputs, strict=True)
            ],
            [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[(made := onnx.helper.make_opsetid("", opset))],
        ir_version=onnx.helper.find_min_ir_version_for([made]),
        producer_name="karui",
    )
    theirs = {key.removeprefix(_PROPERTY): text for key, text in program.metadata.items() if key.startswith(_PROPERTY)}
    onnx.helper.set_model_props(proto, {**theirs, ports.METADATA: json.dumps(facts, separators=(",", ":"))})
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True), facts


# ── the ends ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _form(tensor: Tensor) -> Form:
    """As the network has it: channels first where the Program says that the last axis is the channels."""
    return last(len(tensor.shape)) if tensor.layout == "plain" else first(len(tensor.shape))


def _shape(tensor: Tensor) -> list[int | str]:
    return [BATCH, *(tensor.shape[axis] for axis in _form(tensor).order)]


def _outside(tensor: Tensor) -> str:
    """The dtype in which a tensor enters and leaves: codes are a matter of the inside."""
    return "float32" if tensor.dtype == "int8" else tensor.dtype


def _open(graph: Graph) -> list[tuple[str, str, list[int | str]]]:
    """Declare the inputs: (dtype, name, shape)."""
    made = []
    for hint, tensor_name in ports.inputs(graph.program):
        tensor = graph.tensor(tensor_name)
        value = graph.name(hint)
        graph.batch = graph.batch or value
        inside = graph.node("QuantizeLinear", value, *graph.scale(tensor), hint=f"{tensor_name}.codes") if tensor.dtype == "int8" else value
        graph.set(tensor_name, inside, _form(tensor))
        made.append((_outside(tensor), value, _shape(tensor)))
    return made


def _close(graph: Graph, names: list[str]) -> None:
    """Give the values that leave the names that they shall have."""
    for name, (_, tensor_name) in zip(names, ports.outputs(graph.program), strict=True):
        tensor = graph.tensor(tensor_name)
        get = graph.real if tensor.dtype == "int8" else graph.value
        graph.nodes.append(Node(kind="Identity", inputs=(get(tensor_name, _form(tensor)),), outputs=(name,), attributes={}))


def _facts(program: Program, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    """What a reader must know to feed the file with a Program's arrays."""

    def told(names: list[str], ends: list[tuple[str, str]]) -> list[dict[str, Any]]:
        return [ports.port(name, program.tensor(tensor)) for name, (_, tensor) in zip(names, ends, strict=True)]

    return {
        "program": program.name,
        "inputs": told(inputs, ports.inputs(program)),
        "outputs": told(outputs, ports.outputs(program)),
        "states": len(ports.states(program)),
        "labels": ports.labels(program),
    }


# ── protos ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _type(onnx: Any, dtype: str) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _node(onnx: Any, node: Node) -> Any:
    attributes: Mapping[str, Any] = {key: _type(onnx, value) if key == "to" else value for key, value in node.attributes.items()}
    return onnx.helper.make_node(node.kind, list(node.inputs), list(node.outputs), name=node.outputs[0], **attributes)
