"""Who may teach: the network as it was, another Network, a file, a module, any function; or several of them, as one."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from karui.data.identity import identity
from karui.errors import FileError, RecipeError, ToolError, first_line
from karui.graph.network import Network

Answers = tuple[Tensor, ...]
Teacher = Network | nn.Module | Callable[..., Tensor | Answers] | str


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Teachers at work: called with a batch's inputs, they give their outputs, without gradients, where the inputs lie.

    Of several, the mean of their outputs: of logits, the geometric mean of their distributions (Hinton et al. 2015, §5). names: what they
    are to a person. identity: a hash of what they are, the same in each process.
    """

    members: tuple[Callable[..., Any], ...]
    names: tuple[str, ...]
    identity: str

    def __call__(self, *inputs: Tensor) -> Answers:
        answers = [_asked(member, name, inputs) for member, name in zip(self.members, self.names, strict=True)]
        return answers[0] if len(answers) == 1 else tuple(torch.stack(each).mean(0) for each in zip(*answers, strict=True))


def taught_by(teacher: Teacher | Sequence[Teacher] | None, original: Network) -> Taught:
    """Make teachers ready: copied where they can be, in evaluation mode. None: ``original``.

    Raises RecipeError for what can't teach, FileError for a file that can't be read, ToolError where onnxruntime is missing.
    """
    given = tuple(teacher) if isinstance(teacher, tuple | list) else (teacher,)
    if not given:
        raise RecipeError("distill: teacher is an empty list; name one, or leave it out for the network as it was before compression")
    made = [_one(original if each is None else each) for each in given]
    total = hashlib.sha256(json.dumps([each for *_, each in made], sort_keys=True).encode()).hexdigest()[:16]
    return Taught(members=tuple(m for m, *_ in made), names=tuple(name for _, name, _ in made), identity=total)


def check_steady(taught: Taught, inputs: Answers) -> Answers:
    """Its answers to ``inputs``; raises RecipeError where it answers twice the same question otherwise, or with what isn't finite."""
    first, second = taught(*inputs), taught(*inputs)
    if not all(bool(torch.isfinite(y).all()) for y in first):
        raise RecipeError(f"distill: teacher {', '.join(taught.names)} answers noise with NaN or infinity; give one that is trained")
    if any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        raise RecipeError(
            f"distill: teacher {', '.join(taught.names)} isn't deterministic: it answers the same samples otherwise the second time; "
            "switch its dropout and its random numbers off"
        )
    return first


def _one(teacher: Any) -> tuple[Callable[..., Any], str, Any]:
    """What answers, its name, and what it is."""
    if isinstance(teacher, Network):
        copied = teacher.copy().eval()
        return _Resized(network=copied), f"'{copied.name}'", copied.fingerprint()
    if isinstance(teacher, str):
        return _file(Path(teacher))
    if isinstance(teacher, nn.Module):
        teacher.eval()
        return teacher, type(teacher).__name__, identity(teacher)
    if not callable(teacher):
        raise RecipeError(f"distill: {type(teacher).__name__} can't teach; give a Network, a module, a function, or a .pt2 or .onnx file")
    return teacher, getattr(teacher, "__qualname__", type(teacher).__name__), identity(teacher)


def _file(path: Path) -> tuple[Callable[..., Any], str, Any]:
    if path.suffix == ".pt2":
        return _one(Network.load(path))
    if path.suffix == ".onnx":
        return _Onnx(path), f"'{path.name}'", hashlib.sha256(path.read_bytes()).hexdigest()
    raise RecipeError(f"distill: teacher '{path}' is no file that karui can ask; give a .pt2 or .onnx file")


def _asked(member: Callable[..., Any], name: str, inputs: Answers) -> Answers:
    try:
        with torch.no_grad():
            answer = member(*inputs)
    except (RecipeError, FileError, ToolError, MemoryError):
        raise
    except Exception as error:  # the teacher is the user's: it may raise anything
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise RecipeError(f"distill: teacher {name} can't take the student's inputs of shape {shapes}: {first_line(error)}") from error
    answers = (answer,) if isinstance(answer, Tensor) else tuple(answer)
    return tuple(y.detach().to(inputs[0].device) for y in answers)


@dataclass(frozen=True, kw_only=True)
class _Resized:
    """A network, whose pictures may have another size than the student's, and which may lie on another device."""

    network: Network

    def __call__(self, *inputs: Tensor) -> Answers:
        return shown(self.network, inputs)


def shown(network: Network, inputs: Answers) -> Answers:
    """What a teaching network answers to a student's inputs, in the size and on the device that it takes."""
    return network(*(fitted(x.to(network.device), spec.shape) for x, spec in zip(inputs, network.inputs, strict=True)))


def evaluated(network: Network, inputs: Answers) -> Answers:
    """A student's answers in evaluation mode, without gradients; its mode is put back."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(*inputs)
    finally:
        network.train(training)


def fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Pictures ``[N, C, H, W]`` in another height and width; what differs otherwise stays, and is refused by who gets it."""
    if tuple(x.shape[1:]) == shape or x.dim() != 4 or len(shape) != 3 or x.shape[1] != shape[0]:
        return x
    return F.interpolate(x, size=shape[1:], mode="bilinear", align_corners=False, antialias=True)


@dataclass
class _Onnx:
    """A teacher in onnxruntime, on the CPU."""

    path: Path
    session: Any = field(init=False)
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ToolError("a teacher in .onnx needs the package onnxruntime; install it with: pip install onnxruntime") from None
        if not self.path.is_file():
            raise FileError(f"teacher '{self.path}' is missing; check the path")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            raise FileError(f"onnxruntime can't load teacher '{self.path}': {first_line(error)}; export it again") from error
        self.names = [port.name for port in self.session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Answers:
        if len(inputs) != len(self.names):
            raise RecipeError(f"distill: teacher '{self.path.name}' takes {len(self.names)} inputs, the student {len(inputs)}")
        shapes = [port.shape for port in self.session.get_inputs()]
        ready = [_static(x.cpu(), shape).numpy() for x, shape in zip(inputs, shapes, strict=True)]
        step = len(ready[0]) if not isinstance(shapes[0][0], int) else shapes[0][0]
        if len(ready[0]) % step:
            raise RecipeError(f"distill: teacher '{self.path.name}' takes {step} samples at a time; export it with a free batch")
        pieces = [
            self.session.run(None, {name: x[i : i + step] for name, x in zip(self.names, ready, strict=True)})
            for i in range(0, len(ready[0]), step)
        ]
        return tuple(torch.cat([torch.from_numpy(y) for y in each]) for each in zip(*pieces, strict=True))


def _static(x: Tensor, shape: Sequence[Any]) -> Tensor:
    wanted = tuple(shape[1:])
    return fitted(x, wanted) if all(isinstance(n, int) for n in wanted) else x
