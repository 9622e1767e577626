"""``.onnx`` files in onnxruntime, on the CPU: the same calls as ``host`` has for compiled C."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from karui.errors import DataError, FileError, ToolError
from karui.export.artifact import Artifact
from karui.export.ports import METADATA
from karui.program.arithmetic import dequantize, quantize
from karui.program.layout import to_network, to_program
from karui.program.program import Array

TARGET, MEASURES = "onnx", ("bytes", "latency_ms")

# It would round float weights of a layer between quantized tensors to int8, though the file has them in float because int8 can't hold them.
_LEFT_OUT = ["WeightBiasQuantization"]


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: of the file (``name``), and what it is to the Program, where the file says so."""

    name: str
    dtype: str
    layout: str = "plain"
    shape: tuple[int, ...] | None = None  # None: any
    scale: float = 1.0
    zero_point: int = 0

    def enter(self, array: Array) -> Array:
        """A Program's array as the file takes it: channels first, reals for codes."""
        if array.dtype != self.dtype or (self.shape is not None and array.shape[1:] != self.shape):
            sizes = "…" if self.shape is None else ", ".join(map(str, self.shape))
            raise DataError(f"input '{self.name}' is {array.dtype} {list(array.shape)}; expected {self.dtype} [N, {sizes}]")
        real = dequantize(array, self.scale, self.zero_point) if self.dtype == "int8" else array
        return np.ascontiguousarray(to_network(real, self.layout))  # type: ignore[arg-type]

    def leave(self, array: Array) -> Array:
        """The opposite."""
        array = to_program(array, self.layout)  # type: ignore[arg-type]
        return quantize(array, self.scale, self.zero_point) if self.dtype == "int8" else array


@dataclass(frozen=True, kw_only=True)
class Session:
    """A loaded file. ``states``: how many of the last inputs and outputs are carried from call to call."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: int
    _session: Any
    runs_on: ClassVar[str] = "onnxruntime"
    exact: ClassVar[bool] = False
    peak_ram: ClassVar[None] = None

    @property
    def bytes(self) -> int:
        """The file's."""
        return self.path.stat().st_size

    def run(self, inputs: Sequence[Array], *, stream: bool = False) -> list[Array]:
        """Runs N samples at once.

        Args:
            inputs: one array ``[N, *shape]`` per input; of a file that karui wrote, as the Program has it (channels last, its dtype).
            stream: the samples are steps of one stream, so states go on from sample to sample; else each starts anew.

        Returns:
            One array ``[N, *shape]`` per output, as the Program has it.

        Raises:
            DataError: inputs that don't fit.   ToolError: onnxruntime refuses.
        """
        if not stream or not self.states:
            return self._outputs(self._run(self._feed(inputs)))[: len(self.outputs) - self.states]
        steps = []
        feed = self._feed([array[:1] for array in inputs])
        carried = [port.name for port in self.inputs[len(self.inputs) - self.states :]]
        for i in range(len(inputs[0])):
            feed = {**self._feed([array[i : i + 1] for array in inputs]), **{name: feed[name] for name in carried}}
            results = self._run(feed)
            feed.update(zip(carried, results[len(self.outputs) - self.states :], strict=True))
            steps.append(self._outputs(results))
        return [np.concatenate(parts) for parts in list(zip(*steps, strict=True))[: len(self.outputs) - self.states]]

    def call(self, inputs: Sequence[Array]) -> Callable[[], None]:
        """A function that runs the first sample of ``inputs`` again and again: what one measures. Nothing is converted or copied in it."""
        import onnxruntime

        binding = self._session.io_binding()
        for name, array in self._feed([array[:1] for array in inputs]).items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for port in self.outputs:
            binding.bind_output(port.name)
        run, session = self._session.run_with_iobinding, self._session

        def once() -> None:
            run(binding)

        once.__dict__["kept"] = session
        return once

    def _feed(self, inputs: Sequence[Array]) -> dict[str, Array]:
        taken = self.inputs[: len(self.inputs) - self.states]
        if len(inputs) != len(taken):
            raise DataError(f"'{self.path.name}' takes {len(taken)} inputs, {len(inputs)} were given")
        feed = {port.name: port.enter(np.asarray(array)) for port, array in zip(taken, inputs, strict=True)}
        count = len(inputs[0]) if inputs else 1
        for port in self.inputs[len(taken) :]:
            start = np.full((count, *(port.shape or ())), port.zero_point if port.dtype == "int8" else 0, port.dtype)
            feed[port.name] = port.enter(start)
        return feed

    def _run(self, feed: Mapping[str, Array]) -> list[Array]:
        try:
            return list(self._session.run([port.name for port in self.outputs], dict(feed)))
        except Exception as error:  # onnxruntime's errors have no common class
            raise ToolError(f"onnxruntime can't run '{self.path}': {_line(error)}") from error

    def _outputs(self, results: Sequence[Array]) -> list[Array]:
        return [port.leave(array) for port, array in zip(self.outputs, results, strict=True)]


def load(artifact: Artifact | str | Path, *, threads: int = 1, optimised: Path | None = None) -> Session:
    """Open an ``.onnx`` file on the CPU.

    Args:
        threads: of one operator.
        optimised: where onnxruntime shall write the graph that it really runs, to look at.

    Raises:
        FileError: a missing or damaged file.   ToolError: the package 'onnxruntime' is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ToolError("running .onnx files needs the package onnxruntime; install it with: pip install onnxruntime") from None
    path = artifact.main if isinstance(artifact, Artifact) else Path(artifact)
    if not path.is_file():
        raise FileError(f"'{path}' is missing; export the model for target 'onnx' first")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # x86 without VNNI adds pairs of u8·s8 products in 16 bits, which overflow; this trades their speed for right sums, there only
    options.add_session_config_entry("session.x64quantprecision", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_LEFT_OUT)
    except Exception as error:
        raise FileError(f"onnxruntime can't load '{path}': {_line(error)}; export it again") from error
    return _session(path, session)


def _session(path: Path, session: Any) -> Session:
    facts = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA, "{}"))
    if facts:
        inputs, outputs = ([_port(entry) for entry in facts[key]] for key in ("inputs", "outputs"))
    else:  # somebody else's file: arrays go in as they are
        inputs, outputs = (
            [Port(name=a.name, dtype=_dtype(a.type)) for a in ends] for ends in (session.get_inputs(), session.get_outputs())
        )
    return Session(path=path, inputs=tuple(inputs), outputs=tuple(outputs), states=facts.get("states", 0), _session=session)


def _port(entry: Mapping[str, Any]) -> Port:
    return Port(**{**entry, "shape": tuple(entry["shape"])})


def _dtype(kind: str) -> str:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
