"""Target ``litert``: a Program as one ``.tflite`` file, for LiteRT (TensorFlow Lite) and everything else that reads that format.

Inputs and outputs are what the Program has, for one sample: channels last, float32, uint8 pixels, or int8 codes with their scale. A float
input that is quantized before anything else enters as codes ("full integer"): who runs the file divides by the scale that stands in it.
Integer layers are LiteRT's own: int8 weights per output channel, int32 biases. What comes out are the integers of the arithmetic
``litert_ref`` with LiteRT's reference kernels and of ``xnnpack`` with its default ones (docs/adr/0001). Sparse weights are written dense:
LiteRT has no kernels that were faster with them. Early exits choose between values that are both computed: right, and no faster than
without exits.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karui.export import ports
from karui.export.artifact import Artifact
from karui.export.litert_file import encode as file_of
from karui.export.litert_graph import Graph
from karui.export.litert_ops import RULES
from karui.program.program import Affine, Op, Program
from karui.workspace import atomic_write


def write(program: Program, folder: Path, *, name: str = "model") -> Artifact:
    """Write ``NAME.tflite`` into a folder that is made if it lacks; the same Program gives the same bytes.

    Raises:
        UnsupportedOp: an op that LiteRT can't express.   ToolError: the package 'ai-edge-litert' is missing.
    """
    data, facts = _model(program)
    path = Path(folder) / f"{name}.tflite"
    atomic_write(path, data)
    return Artifact(target="litert", folder=Path(folder), files=(path,), main=path, program=program.name, facts=facts)


def encode(program: Program) -> bytes:
    """The file as bytes; raises as ``write`` does."""
    return _model(program)[0]


def _model(program: Program) -> tuple[bytes, dict[str, Any]]:
    graph, entering = Graph(program), _entering(program)
    inputs = _open(graph, entering)
    for op in program.ops:
        if op.outputs[0] in entering.values():
            continue
        if op.kind not in RULES:
            raise graph.refuse(op, f"kind '{op.kind}'", "choose another target or another op")
        RULES[op.kind](graph, op)
    outputs = _close(graph, set(inputs.values()))
    facts = _facts(program, list(inputs), list(outputs), entering)
    data = json.dumps(facts, separators=(",", ":")).encode()
    return file_of(graph, inputs, outputs, data, ports.METADATA), facts


# ── the ends ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _entering(program: Program) -> dict[str, str]:
    """Float inputs that only a ``quantize`` to eight bits reads → the codes that it makes of them."""

    def eight(name: str) -> bool:
        quant = program.tensor(name).quant
        return isinstance(quant, Affine) and quant.bits == 8

    given = {i.tensor for i in program.inputs if i.tensor not in {o.tensor for o in program.outputs}}
    readers: dict[str, list[Op]] = {name: [op for op in program.ops if name in op.inputs] for name in given}
    return {
        name: ops[0].outputs[0] for name, ops in readers.items() if len(ops) == 1 and ops[0].kind == "quantize" and eight(ops[0].outputs[0])
    }


def _free(taken: dict[str, int], hint: str) -> str:
    free, i = hint, 2
    while free in taken:
        free, i = f"{hint}.{i}", i + 1
    return free


def _open(graph: Graph, entering: Mapping[str, str]) -> dict[str, int]:
    """Declare the inputs: name → value."""
    made: dict[str, int] = {}
    for name, real in ports.inputs(graph.program):
        tensor = entering.get(real, real)
        value = graph.add(graph.like(graph.tensor(tensor)))
        graph.set(tensor, value)
        made[_free(made, name)] = value
    return made


def _close(graph: Graph, taken: set[int]) -> dict[str, int]:
    """The outputs: name → value; each is the result of a node, and of no other output."""
    made: dict[str, int] = {}
    for name, tensor in ports.outputs(graph.program):
        value = graph.value(tensor)
        if value in taken or graph.held[value].data is not None:
            value = graph.copy(value, tensor)
        taken.add(value)
        made[_free(made, name)] = value
    return made


def _facts(program: Program, inputs: list[str], outputs: list[str], entering: Mapping[str, str]) -> dict[str, Any]:
    """What a reader must know to feed the file with a Program's arrays."""

    def told(names: list[str], ends: list[tuple[str, str]]) -> list[dict[str, Any]]:
        pairs = [(name, program.tensor(tensor)) for name, (_, tensor) in zip(names, ends, strict=True)]
        return [ports.port(name, tensor, program.tensor(entering.get(tensor.name, tensor.name))) for name, tensor in pairs]

    return {
        "program": program.name,
        "inputs": told(inputs, ports.inputs(program)),
        "outputs": told(outputs, ports.outputs(program)),
        "states": len(ports.states(program)),
        "labels": ports.labels(program),
        "pixels": {
            i.name: {"scale": i.pixels.scale, "mean": list(i.pixels.mean), "std": list(i.pixels.std)} for i in program.inputs if i.pixels
        },
    }
