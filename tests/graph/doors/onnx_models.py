"""ONNX files for tests, and what onnxruntime makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from karui.graph.doors.onnx import read
from karui.graph.network import Network

Arrays = Mapping[str, np.ndarray]


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[Any]],
    constants: Arrays | None = None,
    *,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    kinds: Mapping[str, int] | None = None,
) -> Any:
    """A model; ``inputs``: shapes with the batch; ``kinds``: element types other than float. Outputs get their types from inference."""
    kinds = kinds or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=min(10, onnx.IR_VERSION))


def saved(proto: Any, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def expected(path: Path, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes as the file says it, sample by sample where the file is for one.

    Its optimisations are off: they replace float products with dequantized weights by coarser ones.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    if any(each.shape[0] == 1 for each in session.get_inputs()):
        rows = [session.run(None, {n: x[i : i + 1] for n, x in zip(names, feeds)}) for i in range(len(feeds[0]))]
        return [np.concatenate([row[j] for row in rows]) for j in range(len(rows[0]))]
    return session.run(None, dict(zip(names, feeds)))


def agree(network: Network, path: Path, feeds: Sequence[np.ndarray], tolerance: float = 1e-4) -> None:
    """At batch sizes 1 and 3 the network computes what onnxruntime does."""
    for batch in (1, 3):
        given = [x[:batch] for x in feeds]
        with torch.no_grad():
            found = network(*(torch.from_numpy(x) for x in given))
        wanted = expected(path, given)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted):
            assert tuple(a.shape) == b.shape
            gap = np.abs(a.numpy().astype(np.float64) - b).max(initial=0)
            assert gap <= tolerance * max(np.abs(b.astype(np.float64)).max(initial=0), 1e-6), f"off by {gap}"


def check(proto: Any, folder: Path, feeds: Sequence[np.ndarray], tolerance: float = 1e-4) -> Network:
    path = saved(proto, folder)
    network = read(path)
    agree(network, path, feeds, tolerance)
    return network


def ops_of(network: Network) -> list[str]:
    """The ops of a network in order, without their namespace."""
    nodes = [node for node in network.module.graph.nodes if node.op == "call_function"]
    return [str(node.target).removeprefix("aten.").removesuffix(".default") for node in nodes]
