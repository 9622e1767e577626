"""Peers: onnxruntime's static quantization of our float export, and NNCF's for OpenVINO, where that is installed."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from karui.data import Part
from karui.errors import ToolError
from karui.export import onnx as onnx_target
from karui.graph.network import Network
from karui.lower import lower


def static(network: Network, calibration: Part, folder: Path) -> tuple[Path, float]:
    """As its handbook says for x86: u8 activations, s8 weights per channel. The file, and the seconds that it took."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str, feed: Callable[[], Iterator[np.ndarray]]) -> None:
            self.name, self.left = name, feed()

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.left, None)
            return None if x is None else {self.name: x}

    def feed() -> Iterator[np.ndarray]:
        return (batch.inputs[0].numpy() for batch in calibration.batches(1))

    float_file = onnx_target.write(lower(network), folder).main
    ready, done = folder / "ready.onnx", folder / "int8.onnx"
    name = onnxruntime.InferenceSession(str(float_file)).get_inputs()[0].name
    start = time.perf_counter()
    quant_pre_process(str(float_file), str(ready))
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(ready), str(done), Reader(name, feed), per_channel=True, **kinds)
    return done, time.perf_counter() - start


def openvino(network: Network, calibration: Part, folder: Path) -> Callable[[np.ndarray], Any]:
    """Its int8 network, one thread, for latency: call it with one sample. Raises ToolError where it isn't installed."""
    try:
        import nncf
        import openvino as ov
    except ImportError:
        raise ToolError("OpenVINO isn't installed here; in an environment for benchmarks: pip install openvino nncf") from None
    float_file = onnx_target.write(lower(network), folder).main
    pictures = [batch.inputs[0].numpy() for batch in calibration.batches(1)]
    made = nncf.quantize(ov.Core().read_model(str(float_file)), nncf.Dataset(pictures), subset_size=len(pictures))
    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = core.compile_model(made, "CPU", settings).create_infer_request()

    def once(x: np.ndarray) -> Any:
        return request.infer({0: x}, share_inputs=True, share_outputs=True)

    return once


def outputs(network: Network, calibration: Part, test: Part) -> tuple[Tensor, float]:
    """Its answers for every sample, and the seconds that quantizing took."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        file, spent = static(network, calibration, Path(scratch))
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # without it 8-bit products saturate where there is no VNNI
        session = onnxruntime.InferenceSession(str(file), options)
        name = session.get_inputs()[0].name
        found = [torch.from_numpy(session.run(None, {name: batch.inputs[0].numpy()})[0]) for batch in test.batches(1)]
    return torch.cat(found), spent
