"""One network in one ``.pt2`` file: what ``torch.export.save`` writes, with karui's facts beside it and without sample inputs.

The facts (``extra/karui.json``): format version, name, inputs, outputs, ties, mode, and each node's own name and layer, which a new export
would lose. A ``.pt2`` that ``torch.export.save`` wrote elsewhere loads too, if it passes the same inspection.
"""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from operator import getitem
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, Node

from karui.errors import CaptureError, FileError
from karui.graph import forms as forms  # registers the ops that a file may hold
from karui.graph.canonical import canonical, renamed
from karui.graph.inspection import MAX_FILE, inspect, packed
from karui.graph.network import InputSpec, Network
from karui.names import LONGEST, is_file_name, is_name
from karui.workspace import atomic_write

FORMAT = 1
_FACTS = "karui.json"


def save(network: Network, path: str | PathLike[str]) -> None:
    """Write the network, in its training form, to one file; the old file stays until the new one is whole.

    Raises FileError: a name that ``load`` would refuse.
    """
    path = Path(path)
    _check_names(network, f"can't write '{path}'")
    if network.device.type != "cpu":  # a file from a graphics card must open on any machine
        network = network.copy()
        network.module.cpu()
    training = network.training
    network.train()
    try:
        program = _export(network)
    finally:
        network.train(training)
    program._example_inputs = None  # torch.export.save would pickle them
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={_FACTS: json.dumps(_facts(network, program, training))})
    atomic_write(path, buffer.getvalue())


def _export(network: Network) -> ExportedProgram:
    free = tuple({0: Dim.DYNAMIC} for _ in network.inputs)
    with torch.random.fork_rng(devices=[]):
        return torch.export.export(network.module, network.example(2), dynamic_shapes=free)


def _facts(network: Network, program: ExportedProgram, training: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": network.name,
        "training": training,
        "structure": network.structure,
        "inputs": [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in network.inputs],
        "outputs": list(network.outputs),
        **({"taps": list(network.taps)} if network.taps else {}),
        **({"metadata": network.metadata} if network.metadata else {}),
        "ties": {first: list(others) for first, others in network.ties.items()},
        "nodes": _names(network, program),
    }


def _names(network: Network, program: ExportedProgram) -> list[list[str]]:
    """For each node of the program, in order: its place, its name in the network, its layer."""
    own = {node.name: node for node in network.module.graph.nodes}
    rows = []
    for place, node in _places(program.graph):
        origin = own.get(node.meta["from_node"][-1].name) if node.meta.get("from_node") else None
        if origin is not None and node.target is getitem and origin.target is not getitem:  # an item names its tuple as where it is from
            origin = next((item for item in origin.users if item.target is getitem and item.args[1] == node.args[1]), None)
        rows.append([place, origin.name if origin else node.name, network.layer_of(origin) if origin else ""])
    return rows


def _places(graph: Graph) -> list[tuple[str, Node]]:
    """Every op with a place that saving doesn't change: its number and target; an item of a tuple is placed by that tuple's op."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    numbers = {node: f"{i} {node.target}" for i, node in enumerate(n for n in calls if n.target is not getitem)}
    items = {node: f"{numbers.get(node.args[0])}[{node.args[1]}]" for node in calls if node.target is getitem}
    return [(place, node) for node, place in (numbers | items).items()]


def load(path: str | PathLike[str]) -> Network:
    """Inspect the file, then load it. Raises FileError in one line."""
    path = Path(path)
    members = inspect(_read(path), path)
    try:
        with _quiet():
            program = torch.export.load(packed(members))  # what was looked at, and nothing else that the file may hold
        facts = json.loads(members[f"extra/{_FACTS}"]) if f"extra/{_FACTS}" in members else None
        network = _foreign(program, path) if facts is None else _own(program, facts, path)
        _check_names(network, f"'{path}' is not safe to open")
        return network
    except (FileError, CaptureError):
        raise
    except Exception as error:  # torch's reader raises whatever it stumbles over in a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise FileError(f"'{path}' can't be loaded with torch {torch.__version__} ({reason}); save the network again") from None


def _check_names(network: Network, refusal: str) -> None:
    """The network's name becomes a folder's; the names of its layers, inputs and outputs are printed and written into source code."""
    if not is_file_name(network.name):
        raise FileError(f"{refusal}: the network is called {network.name[:40]!r}, expected the name of a file; give it another name")
    ties = [name for first, others in network.ties.items() for name in (first, *others)]
    ends = [*(spec.name for spec in network.inputs), *network.outputs, *network.taps]
    for name in (*ends, *ties, *network.state(), *map(network.layer_of, network.module.graph.nodes)):
        if not is_name(name):
            raise FileError(f"{refusal}: it has a layer called {str(name)[:40]!r}, expected 1 to {LONGEST} printable characters; rename it")


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():  # a device would be read without end
            raise FileError(f"can't read '{path}': it is no file; give a .pt2 file that karui wrote")
        if size > MAX_FILE:
            raise FileError(f"'{path}' has {size:,} bytes, at most {MAX_FILE:,} are opened")
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"can't read '{path}': {error.strerror or error}; check the path") from None


def _own(program: ExportedProgram, facts: dict[str, Any], path: Path) -> Network:
    if facts["format"] > FORMAT:
        raise FileError(f"'{path}' has format {facts['format']}, this karui reads up to {FORMAT}; update karui")
    known = {place: (name, layer) for place, name, layer in facts["nodes"]}
    found = {node.name: known[place] for place, node in _places(program.graph) if place in known}
    module, _ = canonical(program, {})
    for node in module.graph.nodes:
        if node.name in found:
            node.meta["karui_layer"] = found[node.name][1]
    module = renamed(module, {exported: name for exported, (name, _) in found.items()})
    module.train()
    network = Network(
        module,
        inputs=tuple(InputSpec(name=i["name"], shape=tuple(i["shape"]), dtype=i["dtype"]) for i in facts["inputs"]),
        outputs=tuple(facts["outputs"]),
        ties={first: tuple(others) for first, others in facts["ties"].items()},
        name=facts["name"],
        structure=facts["structure"],
        taps=tuple(facts.get("taps", ())),
        metadata={str(key): str(text) for key, text in facts.get("metadata", {}).items()},
    )
    return network.train(bool(facts["training"]))


def _foreign(program: ExportedProgram, path: Path) -> Network:
    """A program that was exported elsewhere: in the mode it was exported in, with the ties that its file still shows."""
    ties: dict[Any, list[str]] = {}
    for name, tensor in program.state_dict.items():
        ties.setdefault((tensor.data_ptr() or name, tensor.shape, tensor.stride()), []).append(name)
    tied = {first: tuple(others) for first, *others in ties.values() if others}
    specs: list[InputSpec] = []
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    for name in program.graph_signature.user_inputs:
        value = placeholders[str(name)].meta["val"]
        if not isinstance(value, torch.Tensor) or not value.shape or isinstance(value.shape[0], int):
            raise FileError(f"'{path}' has a fixed batch in input '{name}'; export with dynamic_shapes=({{0: Dim.DYNAMIC}},)")
        specs.append(InputSpec(name=str(name), shape=tuple(map(int, value.shape[1:])), dtype=str(value.dtype).removeprefix("torch.")))
    module, outputs = canonical(program, {other: first for first, others in tied.items() for other in others})
    module.train()
    return Network(module, inputs=tuple(specs), outputs=outputs, ties=tied, name=path.stem)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export.load logs a traceback before it raises; our message says it in one line."""
    logger = logging.getLogger("torch.export")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
