"""``.tflite`` files in LiteRT's interpreter, on the CPU: the same calls as ``host`` has for compiled C."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from karui.errors import DataError, FileError, ToolError
from karui.export.artifact import Artifact
from karui.export.ports import METADATA
from karui.program.arithmetic import quantize
from karui.program.program import Array

TARGET, MEASURES = "litert", ("bytes", "latency_ms")


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: of the file (``index``), and what it is to the Program; ``shape`` is that of one sample.

    scale: where the Program has reals and the file takes their codes; None: both have the same.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: str
    zero_point: int = 0
    scale: float | None = None

    def enter(self, array: Array) -> Array:
        """The samples, checked."""
        if array.dtype != self.dtype or array.shape[1:] != self.shape:
            expected = f"{self.dtype} [N, {', '.join(map(str, self.shape))}]"
            raise DataError(f"input '{self.name}' is {array.dtype} {list(array.shape)}; expected {expected}")
        return np.ascontiguousarray(array if self.scale is None else quantize(array, self.scale, self.zero_point))


@dataclass(frozen=True, kw_only=True)
class Session:
    """A loaded file. ``states``: how many of the last inputs and outputs are carried from call to call."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: int
    _interpreter: Any
    runs_on: ClassVar[str] = "litert"
    exact: ClassVar[bool] = False
    peak_ram: ClassVar[None] = None

    @property
    def bytes(self) -> int:
        """The file's."""
        return self.path.stat().st_size

    def run(self, inputs: Sequence[Array], *, stream: bool = False) -> list[Array]:
        """Runs N samples, one after the other.

        Args:
            inputs: one array ``[N, *shape]`` per input, as the Program has it.
            stream: the samples are steps of one stream, so states go on from sample to sample; else each starts anew.

        Returns:
            One array ``[N, *shape]`` per output, as the Program has it.

        Raises:
            DataError: inputs that don't fit.   ToolError: LiteRT refuses.
        """
        given = self._given(inputs)
        count = len(given[0]) if given else 1
        kept = len(self.outputs) - self.states
        results = [np.empty((count, *port.shape), port.dtype) for port in self.outputs[:kept]]
        carried = self._zeros()
        for i in range(count):
            self._feed([array[i : i + 1] for array in given], carried)
            self._invoke()
            for port, result in zip(self.outputs, results):
                result[i] = self._interpreter.get_tensor(port.index).reshape(port.shape)
            if stream:
                carried = [self._interpreter.get_tensor(port.index) for port in self.outputs[kept:]]
        return results

    def call(self, inputs: Sequence[Array]) -> Callable[[], None]:
        """A function that runs the first sample of ``inputs`` again and again: what one measures. Nothing is converted or copied in it."""
        self._feed([array[:1] for array in self._given(inputs)], self._zeros())
        invoke: Callable[[], None] = self._interpreter.invoke
        return invoke

    def _given(self, inputs: Sequence[Array]) -> list[Array]:
        taken = self.inputs[: len(self.inputs) - self.states]
        if len(inputs) != len(taken):
            raise DataError(f"'{self.path.name}' takes {len(taken)} inputs, {len(inputs)} were given")
        return [port.enter(np.asarray(array)) for port, array in zip(taken, inputs, strict=True)]

    def _zeros(self) -> list[Array]:
        ports = self.inputs[len(self.inputs) - self.states :]
        return [np.full((1, *port.shape), port.zero_point, port.dtype) for port in ports]

    def _feed(self, samples: Sequence[Array], states: Sequence[Array]) -> None:
        for port, array in zip(self.inputs, [*samples, *states], strict=True):
            self._interpreter.set_tensor(port.index, array)

    def _invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ToolError(f"LiteRT can't run '{self.path}': {_line(error)}") from error


def load(artifact: Artifact | str | Path, *, threads: int = 1, reference: bool = False) -> Session:
    """Open a ``.tflite`` file on the CPU.

    Args:
        threads: of one operator.
        reference: LiteRT's reference kernels, slow, with the integers of the arithmetic ``litert_ref``; else those that it takes by
            default, XNNPACK's where there is one, with the integers of ``xnnpack``.

    Raises:
        FileError: a missing or damaged file.   ToolError: the package 'ai-edge-litert' is missing.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise ToolError('running .tflite files needs the package ai-edge-litert; install it with: pip install "karui[litert]"') from None
    path = artifact.main if isinstance(artifact, Artifact) else Path(artifact)
    if not path.is_file():
        raise FileError(f"'{path}' is missing; export the model for target 'litert' first")
    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.BUILTIN
    try:
        data = path.read_bytes()
        facts = _facts(data)
        states, told = int(facts.get("states", 0)), [facts.get(key, []) for key in ("inputs", "outputs")]
        interpreter = Interpreter(model_content=data, num_threads=threads, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
        inputs, outputs = _ports(interpreter.get_input_details(), told[0]), _ports(interpreter.get_output_details(), told[1])
    except Exception as error:  # ValueError, RuntimeError, struct.error … of a file that is none
        raise FileError(f"LiteRT can't load '{path}': {_line(error)}; export it again") from error
    return Session(path=path, inputs=inputs, outputs=outputs, states=states, _interpreter=interpreter)


def _facts(data: bytes) -> dict[str, Any]:
    """What the file says of itself, if karui wrote it."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == METADATA.encode():
            found: dict[str, Any] = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            return found
    return {}


def _ports(details: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    """The tensors at one end of the file, as it tells of them; else they are called as LiteRT calls them."""
    return tuple(_port(detail, facts) for detail, facts in zip(details, told or [{}] * len(details), strict=True))


def _port(detail: Mapping[str, Any], facts: Mapping[str, Any]) -> Port:
    name, shape, dtype = str(facts.get("name", detail["name"])), [int(n) for n in detail["shape"]], np.dtype(detail["dtype"]).name
    if shape[:1] != [1]:
        raise ValueError(f"'{name}' is {shape}, which is no single sample")
    outside = str(facts.get("dtype", dtype))
    scale = float(facts["scale"]) if dtype == "int8" and outside == "float32" else None
    return Port(
        name=name, index=detail["index"], shape=tuple(shape[1:]), dtype=outside, zero_point=int(detail["quantization"][1]), scale=scale
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
