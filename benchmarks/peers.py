"""Peers: onnxruntime's static quantization of our float export; NNCF's for OpenVINO and LiteRT's, where those are installed."""

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
    made, _ = nncf_static(network, calibration, folder)
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = _compiled(made, settings).create_infer_request()

    def once(x: np.ndarray) -> Any:
        return request.infer({0: x}, share_inputs=True, share_outputs=True)

    return once


def _compiled(model: Any, settings: dict[str, Any]) -> Any:
    import openvino as ov

    return ov.Core().compile_model(model, "CPU", settings)


def nncf_static(network: Network, calibration: Part, folder: Path) -> tuple[Any, float]:
    """NNCF's post-training quantization as it is out of the box. The network, and the seconds that quantizing took."""
    try:
        import nncf
        import openvino as ov
    except ImportError:
        raise ToolError("OpenVINO isn't installed here; in an environment for benchmarks: pip install openvino nncf") from None
    float_file = onnx_target.write(lower(network), folder).main
    pictures = [batch.inputs[0].numpy() for batch in calibration.batches(1)]
    start = time.perf_counter()
    made = nncf.quantize(ov.Core().read_model(str(float_file)), nncf.Dataset(pictures), subset_size=len(pictures))
    return made, time.perf_counter() - start


def litert_static(network: Network, calibration: Part, folder: Path) -> tuple[Path, float]:
    """ai-edge-quantizer's int8 weights and activations, of what litert-torch makes. The file, and the seconds that quantizing took."""
    try:
        import litert_torch
        from ai_edge_quantizer import quantizer, recipe
    except ImportError:
        raise ToolError(
            "LiteRT's quantizer isn't installed here; in an environment for benchmarks: pip install litert-torch ai-edge-quantizer"
        ) from None
    samples = [batch.inputs[0] for batch in calibration.batches(1)]
    float_file, done = folder / "float.tflite", folder / "int8.tflite"
    litert_torch.convert(network.module.eval(), (samples[0],)).export(str(float_file))
    start = time.perf_counter()
    worker = quantizer.Quantizer(str(float_file))
    worker.load_quantization_recipe(recipe.static_wi8_ai8())
    seen = worker.calibrate({"serving_default": [{"args_0": sample.numpy()} for sample in samples]})
    worker.quantize(seen).export_model(str(done))
    return done, time.perf_counter() - start


def executorch(network: Network, calibration: Part, folder: Path) -> Callable[[np.ndarray], Any]:
    """ExecuTorch's int8 by way of PT2E and XNNPACK, one thread: call it with one sample. Raises ToolError where it isn't installed."""
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
        from executorch.exir import to_edge_transform_and_lower
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    except ImportError:
        raise ToolError("ExecuTorch isn't installed here; in an environment for benchmarks: pip install executorch") from None
    samples = [batch.inputs[0] for batch in calibration.batches(1)]
    given = (samples[0],)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    watched = prepare_pt2e(torch.export.export(network.module.eval(), given).module(), quantizer)
    for sample in samples:
        watched(sample)
    exported = torch.export.export(convert_pt2e(watched), given)
    file = folder / "int8.pte"
    file.write_bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
    portable_lib._unsafe_reset_threadpool(1)  # what its own benchmarks use: there is no other way
    method = Runtime.get().load_program(file).load_method("forward")
    return lambda x: method.execute([torch.from_numpy(x)])


Answers = Callable[[np.ndarray], np.ndarray]  # one sample's


def _onnxruntime_answers(network: Network, calibration: Part, folder: Path) -> tuple[Answers, float]:
    import onnxruntime

    file, spent = static(network, calibration, folder)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # without it 8-bit products saturate where there is no VNNI
    session = onnxruntime.InferenceSession(str(file), options)
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x})[0]), spent


def _openvino_answers(network: Network, calibration: Part, folder: Path) -> tuple[Answers, float]:
    made, spent = nncf_static(network, calibration, folder)
    run = _compiled(made, {})
    return lambda x: np.array(run(x)[0]), spent


def _litert_answers(network: Network, calibration: Part, folder: Path) -> tuple[Answers, float]:
    file, spent = litert_static(network, calibration, folder)
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(file))
    run.allocate_tensors()
    (entry,), (end,) = run.get_input_details(), run.get_output_details()  # both are int8: its user has to scale
    (fine, zero), (step, middle) = entry["quantization"], end["quantization"]

    def answers(x: np.ndarray) -> np.ndarray:
        run.set_tensor(entry["index"], np.clip(np.round(x / fine) + zero, -128, 127).astype(np.int8))
        run.invoke()
        return (run.get_tensor(end["index"]).astype(np.float32) - middle) * np.float32(step)

    return answers, spent


STATIC = {
    "onnxruntime u8s8 static": _onnxruntime_answers,
    "OpenVINO + NNCF": _openvino_answers,
    "LiteRT + ai-edge-quantizer": _litert_answers,
}


def outputs(peer: str, network: Network, calibration: Part, test: Part) -> tuple[Tensor, float]:
    """The answers for every sample of the int8 network that a peer of ``STATIC`` makes, and the seconds that quantizing took.

    Raises ToolError where it isn't installed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answers, spent = STATIC[peer](network, calibration, Path(scratch))
        found = [torch.from_numpy(answers(batch.inputs[0].numpy())) for batch in test.batches(1)]
    return torch.cat(found), spent
