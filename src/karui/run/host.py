"""Artefacts of target ``c`` on this machine: compiled, loaded, run."""

import ctypes
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from karui.errors import DataError, FileError, ToolError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import compiler as compilers
from karui.run.elf import Sections, sections

TARGET, MEASURES = "c", ("bytes", "peak_ram", "latency_ms")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
FLAGS = ("-O3", "-fPIC", "-fno-asynchronous-unwind-tables")  # as the Makefile that lies beside the model
DTYPES = {"int8_t": "int8", "uint8_t": "uint8", "int32_t": "int32", "float": "float32"}
_STATUS = {1: "the arena is missing or misaligned", 2: "an input code lies outside its table"}


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of one sample."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a model's header says."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_bytes: int
    stateful: bool


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A compiled model, wherever it runs. ``sections``: its object as it was compiled."""

    signature: Signature
    sections: Sections
    exact: ClassVar[bool] = True

    @property
    def bytes(self) -> int:
        """Text and read-only data of the compiled model."""
        return self.sections.flash

    @property
    def peak_ram(self) -> int:
        """The arena that the model asks its caller for."""
        return self.signature.arena_bytes


@dataclass(frozen=True, kw_only=True)
class Library(Compiled):
    """A compiled model in this process. ``command``: how it was compiled."""

    command: tuple[str, ...]
    _code: Any
    runs_on: ClassVar[str] = "c"

    def run(self, inputs: Sequence[Array], *, stream: bool = False) -> list[Array]:
        """Runs N samples, one call each.

        Args:
            inputs: one array ``[N, *shape]`` per input, of its dtype and in the program's layout.
            stream: the samples are steps of one stream, so states go on from sample to sample; else each starts anew.

        Returns:
            One array ``[N, *shape]`` per output.

        Raises:
            DataError: inputs that don't fit.   ToolError: the model refuses.
        """
        arrays = self._checked(inputs)
        count = len(arrays[0]) if arrays else 1
        results = [np.empty((count, *port.shape), port.dtype) for port in self.signature.outputs]
        arena = self._arena()
        moving = [(a.ctypes.data, a.nbytes // max(1, count)) for a in (*arrays, *results)]
        for i in range(count):
            if self.signature.stateful and not (stream and i):
                self._function("reset")(arena.ctypes.data)
            self._call(*[start + i * step for start, step in moving], arena.ctypes.data)
        return results

    def call(self, inputs: Sequence[Array]) -> Callable[[], None]:
        """A function that runs the first sample of ``inputs`` again and again: what one measures."""
        arrays = [np.ascontiguousarray(a[:1]) for a in self._checked(inputs)]
        results = [np.empty((1, *port.shape), port.dtype) for port in self.signature.outputs]
        arena = self._arena()
        kept = (*arrays, *results, arena)
        run, addresses = self._function("run"), [a.ctypes.data for a in kept]
        if self.signature.stateful:
            self._function("reset")(arena.ctypes.data)

        def once() -> None:
            run(*addresses)

        once.__dict__["kept"] = kept  # the arrays live as long as the function that uses their addresses
        return once

    def _arena(self) -> Array:
        return np.zeros(-(-self.signature.arena_bytes // 4), np.int32)

    def _function(self, name: str) -> Any:
        return getattr(self._code, f"{self.signature.name}_{name}")

    def _call(self, *addresses: int) -> None:
        status = self._function("run")(*addresses)
        if status:
            raise ToolError(f"'{self.signature.name}_run' returned {status}: {_STATUS.get(status, 'unknown')}")

    def _checked(self, inputs: Sequence[Array]) -> list[Array]:
        ports = self.signature.inputs
        if len(inputs) != len(ports):
            raise DataError(f"'{self.signature.name}' takes {len(ports)} inputs, {len(inputs)} were given")
        for port, array in zip(ports, inputs, strict=True):
            if array.shape[1:] != port.shape or array.dtype != port.dtype or len(array) != len(inputs[0]):
                expected = f"{port.dtype} [N, {', '.join(map(str, port.shape))}], with one N for all inputs"
                raise DataError(f"input '{port.name}' is {array.dtype} {list(array.shape)}; expected {expected}")
        return [np.ascontiguousarray(array) for array in inputs]


def load(artifact: Artifact) -> Library:
    """The runner of target ``c``: compiled as the Makefile beside the model does it."""
    return build(artifact)


def build(
    artifact: Artifact | str | Path, *, compiler: str | None = None, flags: Sequence[str] = FLAGS, name: str | None = None
) -> Library:
    """Compile a folder of target ``c`` (or ``device``) and load it.

    Args:
        artifact: what the exporter returned, or its folder.
        compiler: a command; None: $CC, then ``cc``, then ``python -m ziglang cc``.
        flags: beside ``-std=c99 -Wall -Wextra -Werror -pedantic``.
        name: the model's, where a folder holds several; None: the only header there.

    Raises:
        ToolError: no compiler, or it fails.   FileError: the folder holds no model.
    """
    folder = artifact.folder if isinstance(artifact, Artifact) else Path(artifact)
    header = _header(folder, name)
    signature = read_header(header)
    command = compilers.find(compiler)
    with tempfile.TemporaryDirectory(prefix="karui-") as scratch:
        made, shared = objects(command, header, flags, Path(scratch)), Path(scratch) / "model.so"
        compilers.compile_c(command, [*flags, "-shared", "-o", shared, *made, "-lm"], what=f"'{header.with_suffix('.c')}'")
        code = ctypes.CDLL(str(shared))
        found = sections(*made)
    run = getattr(code, f"{signature.name}_run")
    run.argtypes = [ctypes.c_void_p] * (len(signature.inputs) + len(signature.outputs) + 1)
    if signature.stateful:
        getattr(code, f"{signature.name}_reset").argtypes = [ctypes.c_void_p]
    return Library(signature=signature, sections=found, command=(*command, *STRICT, *flags), _code=code)


def objects(command: Sequence[str], header: Path, flags: Sequence[str], folder: Path) -> list[Path]:
    """A model's objects, compiled into a folder: of NAME.c, and of its weights where they are a file. Raises ToolError."""
    source, made = header.with_suffix(".c"), folder / f"{header.stem}.o"
    compilers.compile_c(command, [*STRICT, *flags, "-c", "-o", made, source], what=f"'{source}'")
    return [made, *weights_objects(command, header, flags, folder)]


def weights_of(header: Path) -> tuple[Path, ...]:
    """NAME_weights.S and NAME_weights.bin, where a model keeps its weights in them."""
    found = header.with_name(f"{header.stem}_weights.S")
    return (found, found.with_suffix(".bin")) if found.exists() else ()


def weights_objects(command: Sequence[str], header: Path, flags: Sequence[str], folder: Path) -> list[Path]:
    """The object that holds the weights of a model that keeps them in a file; none of others. Raises ToolError."""
    if not (files := weights_of(header)):
        return []
    made = folder / f"{files[0].stem}.o"
    path = str(files[1].resolve()).replace("\\", "\\\\").replace('"', '\\"')
    where = f'-D{header.stem.upper()}_WEIGHTS="{path}"'
    compilers.compile_c(command, [*flags, where, "-c", "-o", made, files[0]], what=f"'{files[0]}'")
    return [made]


def _header(folder: Path, name: str | None) -> Path:
    found = [folder / f"{name}.h"] if name else sorted(p for p in folder.glob("*.h") if p.with_suffix(".c").exists())
    if len(found) != 1 or not found[0].exists():
        many = f"holds {len(found)} models; say which by its name" if len(found) > 1 else "holds no model in C; export one with target 'c'"
        raise FileError(f"'{folder}' {many}")
    return found[0]


def read_header(path: Path) -> Signature:
    """Names, dtypes, shapes and the arena, as NAME.h states them. Raises FileError for a header of another kind."""
    text, name = path.read_text(encoding="utf-8"), path.stem
    prototype = re.search(rf"int {re.escape(name)}_run\(([^)]*)\);", text)
    arena = re.search(rf"#define {re.escape(name.upper())}_ARENA_BYTES (\d+)", text)
    if prototype is None or arena is None:
        raise FileError(f"'{path}' is not the header of a model that karui wrote; export it again")
    ports: dict[bool, list[Port]] = {True: [], False: []}
    for constant, c_type, variable in re.findall(r"(const )?(\w+) \*(\w+)", prototype[1]):
        if variable == "arena":
            continue
        prefix = f"#define {re.escape(name.upper())}_{variable.upper()}"
        shape = re.search(rf"{prefix}_SHAPE {{([\d, ]*)}}\n{prefix}_RANK (\d+)", text)
        if shape is None:
            raise FileError(f"'{path}' doesn't say the shape of '{variable}'; export it again")
        axes = tuple(int(n) for n in shape[1].split(","))[: int(shape[2])]
        ports[bool(constant)].append(Port(name=variable, dtype=DTYPES[c_type], shape=axes))
    stateful = f"void {name}_reset(" in text
    return Signature(name=name, inputs=tuple(ports[True]), outputs=tuple(ports[False]), arena_bytes=int(arena[1]), stateful=stateful)
