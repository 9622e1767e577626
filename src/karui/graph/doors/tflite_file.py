"""A ``.tflite`` file as plain records, read with suspicion: the reader of its format checks nothing by itself.

Every list is counted against the file's own bytes before it is read, every index against what it points into, and a constant's bytes
against its shape; whatever else is wrong ends as a FileError too.
"""

import importlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.errors import FileError, ToolError, first_line

LARGEST_FILE = 1 << 31
LARGEST_TENSOR = 1 << 31  # elements of one tensor
_RANK = 8
_NAME = 4096  # bytes of a name; converters join the names of what they fuse
_READS = 16  # how often, on average, one byte of a file may be read: lists may be shared, but not to no end
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError, AssertionError)
_BYTES = {
    "FLOAT32": 4, "FLOAT16": 2, "FLOAT64": 8, "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "INT32": 4, "UINT32": 4,
    "INT64": 8, "UINT64": 8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Quant:
    """``real = scale · (code − zero_point)``; one of each, or one per index of ``axis``."""

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """How a sparse constant lies in the file: ``levels`` are the dense sizes, or the segments and indices, axis after axis."""

    order: tuple[int, ...]
    blocks: tuple[int, ...]
    levels: tuple[int | tuple[NDArray[np.int64], NDArray[np.int64]], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FileTensor:
    """A tensor of the file. ``signature``: its shape with −1 where a size is free. ``data``: the bytes of a constant, else None."""

    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str
    data: NDArray[np.uint8] | None
    quant: Quant | None
    sparse: Stored | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator:
    """An operator: its kind (``CONV_2D``), the indices of its tensors (−1: none) and its options by the format's names (``StrideW``)."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]

    def option(self, name: str, default: Any) -> Any:
        """An option; the format's default where the file leaves the options out."""
        return self.options.get(name, default)


@dataclass(frozen=True, kw_only=True, eq=False)
class File:
    """The main graph of a file; ``names`` are what its signature calls inputs and outputs, by tensor."""

    tensors: tuple[FileTensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: Mapping[int, str]


def schema() -> Any:
    """The classes of the format, from an optional package."""
    try:
        return importlib.import_module("ai_edge_litert.schema_py_generated")
    except ImportError:
        raise ToolError('reading a .tflite file needs the package ai-edge-litert; pip install "karui[litert]"') from None


def read_file(path: str | Path) -> File:
    """The file's main graph. Raises FileError where there is no such file or it is damaged, ToolError without the format's package."""
    path = Path(path)
    classes = schema()
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise FileError(f"'{path.name}' is larger than {LARGEST_FILE >> 30} GiB; expected a TFLite network for a small device")
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"'{path}' can't be read: {first_line(error)}; check the path") from None
    if len(data) < 16 or data[4:8] != b"TFL3":
        raise FileError(f"'{path.name}' is no TFLite file (it lacks the mark TFL3 at byte 4); expected a .tflite flatbuffer")
    reader = _Reader(data, classes, path.name)
    with reader.damage():
        return reader.file()


class _Reader:
    """One pass over the file. ``left``: how many bytes may still be read."""

    def __init__(self, data: bytes, classes: Any, name: str) -> None:
        self.data, self.classes, self.name = data, classes, name
        self.left = _READS * len(data) + (1 << 16)
        self.types = _by_number(classes.TensorType)
        self.kinds = _by_number(classes.BuiltinOperator)

    @contextmanager
    def damage(self) -> Iterator[None]:
        """Whatever goes wrong while reading is the file's damage."""
        try:
            yield
        except _DAMAGE as error:
            raise FileError(f"'{self.name}' is damaged ({first_line(error)[:120]}); copy or convert it again") from None

    def wrong(self, what: str) -> FileError:
        """The error for a file that contradicts itself."""
        return FileError(f"'{self.name}' is damaged: {what[:400]}; copy or convert it again")

    # ── lists ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def count(self, table: Any, field: str, width: int = 4) -> int:
        """The length of a list, which the file must have room for."""
        length = int(getattr(table, f"{field}Length")())
        if length * width > len(self.data):
            raise self.wrong(f"a list of {length} in {len(self.data)} bytes")
        self.left -= length * width + 8
        if self.left < 0:
            raise self.wrong("its lists overlap")
        return length

    def tables(self, table: Any, field: str) -> list[Any]:
        """The tables of a list."""
        return [getattr(table, field)(i) for i in range(self.count(table, field))]

    def numbers(self, table: Any, field: str, width: int = 4) -> NDArray[Any]:
        """A list of numbers; empty where there is none."""
        if getattr(table, f"{field}IsNone")():
            return np.zeros(0, np.int64)
        self.count(table, field, width)
        return np.array(getattr(table, f"{field}AsNumpy")())

    def indices(self, table: Any, field: str, limit: int) -> tuple[int, ...]:
        """A list of indices below ``limit``; −1 stands for none."""
        found = tuple(int(i) for i in self.numbers(table, field))
        if any(not -1 <= i < limit for i in found):
            raise self.wrong(f"an index of {max(found, key=abs)} among {limit}")
        return found

    def text(self, raw: Any) -> str:
        """A name, of printable characters; what a damaged length makes one of is cut off."""
        words = (raw or b"")[:_NAME].decode("utf-8", "replace")
        self.left -= len(words)
        return "".join(c if c.isprintable() else "_" for c in words)

    # ── the parts of the file ───────────────────────────────────────────────────────────────────────────────────────────────────

    def file(self) -> File:
        model = self.classes.Model.GetRootAs(self.data, 0)
        if model.Version() != 3:
            raise FileError(f"'{self.name}' is of version {model.Version()} of the TFLite format; expected version 3")
        if not self.count(model, "Subgraphs"):
            raise self.wrong("it holds no graph")
        graph, buffers, codes = model.Subgraphs(0), self.tables(model, "Buffers"), self.tables(model, "OperatorCodes")
        tensors = tuple(self.tensor(each, buffers) for each in self.tables(graph, "Tensors"))
        count = len(tensors)
        return File(
            tensors=tensors,
            operators=tuple(self.operator(each, codes, count) for each in self.tables(graph, "Operators")),
            inputs=self.indices(graph, "Inputs", count),
            outputs=self.indices(graph, "Outputs", count),
            names=self.names(model, count),
        )

    def names(self, model: Any, count: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for signature in self.tables(model, "SignatureDefs")[:1]:
            for field in ("Inputs", "Outputs"):
                for entry in self.tables(signature, field):
                    if signature.SubgraphIndex() == 0 and entry.TensorIndex() < count:
                        found.setdefault(int(entry.TensorIndex()), self.text(entry.Name()))
        return found

    def tensor(self, table: Any, buffers: Sequence[Any]) -> FileTensor:
        name, dtype = self.text(table.Name()), self.types.get(table.Type(), f"of type {table.Type()}")
        shape = tuple(int(n) for n in self.numbers(table, "Shape"))
        signature = tuple(int(n) for n in self.numbers(table, "ShapeSignature"))
        if len(shape) > _RANK or any(n < 0 for n in shape) or prod(shape) > LARGEST_TENSOR:
            raise self.wrong(f"tensor '{name}' has the shape {list(shape)[:12]}")
        if len(signature) != len(shape) or any(s not in (-1, n) for s, n in zip(signature, shape, strict=True)):
            signature = shape
        sparse = self.sparse(table.Sparsity(), len(shape))
        data = self.constant(buffers, table.Buffer(), name)
        if data is not None and sparse is None:
            self.check_size(data, name, shape, dtype)
        return FileTensor(
            name=name,
            shape=shape,
            signature=signature,
            dtype=dtype,
            data=data,
            quant=self.quant(table.Quantization(), name, shape),
            sparse=sparse,
        )

    def check_size(self, data: NDArray[np.uint8], name: str, shape: tuple[int, ...], dtype: str) -> None:
        """A constant has as many bytes as its shape says; types without a row (strings, resources) are refused where they are used."""
        packed = {"INT4": 2, "UINT4": 2, "INT2": 4}.get(dtype)
        expected = -(-prod(shape) // packed) if packed else prod(shape) * _BYTES[dtype] if dtype in _BYTES else len(data)
        if len(data) != expected:
            raise self.wrong(f"constant '{name}' of shape {list(shape)} ({dtype}) has {len(data)} bytes, {expected} expected")

    def constant(self, buffers: Sequence[Any], index: int, name: str) -> NDArray[np.uint8] | None:
        """The bytes of a buffer; None for none. Buffers of large files stand behind the flatbuffer."""
        if not 0 <= index < len(buffers):
            raise self.wrong(f"tensor '{name}' has buffer {index} of {len(buffers)}")
        buffer = buffers[index]
        if buffer.Offset() > 1:
            start, size = int(buffer.Offset()), int(buffer.Size())
            if start + size > len(self.data):
                raise self.wrong(f"the bytes of '{name}' lie behind its end")
            self.left -= size
            return np.frombuffer(self.data, np.uint8, size, start) if size else None
        if buffer.DataIsNone() or not self.count(buffer, "Data", 1):
            return None
        return buffer.DataAsNumpy()

    def quant(self, table: Any, name: str, shape: tuple[int, ...]) -> Quant | None:
        if table is None:
            return None
        scale, zero_point = self.numbers(table, "Scale"), self.numbers(table, "ZeroPoint", 8)
        if not len(scale):
            return None
        axis = int(table.QuantizedDimension()) if len(scale) > 1 else 0
        zero_point = np.zeros(len(scale), np.int64) if not len(zero_point) else zero_point
        zero_point = np.repeat(zero_point, len(scale)) if len(zero_point) == 1 else zero_point
        fits = len(zero_point) == len(scale) and (len(scale) == 1 or (0 <= axis < len(shape) and shape[axis] == len(scale)))
        if not fits or not np.isfinite(scale).all() or (scale < 0).any() or (np.abs(zero_point) > 1 << 31).any():
            raise self.wrong(f"the scales of tensor '{name}' don't fit its shape {list(shape)}")
        return Quant(scale=scale.astype(np.float32), zero_point=zero_point.astype(np.int64), axis=axis)

    def sparse(self, table: Any, rank: int) -> Stored | None:
        if table is None:
            return None
        order, blocks = self.numbers(table, "TraversalOrder"), self.numbers(table, "BlockMap")
        levels = [self.level(each) for each in self.tables(table, "DimMetadata")]
        count = rank + len(blocks)
        if sorted(order) != list(range(count)) or len(levels) != count or any(not 0 <= b < rank for b in blocks):
            raise self.wrong("a sparse constant's axes don't fit its shape")
        return Stored(order=tuple(int(i) for i in order), blocks=tuple(int(b) for b in blocks), levels=tuple(levels))

    def level(self, table: Any) -> int | tuple[NDArray[np.int64], NDArray[np.int64]]:
        if table.Format() == self.classes.DimensionType.DENSE:
            return int(table.DenseSize())
        lists = []
        for field in ("ArraySegments", "ArrayIndices"):
            kind = {1: "Int32Vector", 2: "Uint16Vector", 3: "Uint8Vector"}[getattr(table, f"{field}Type")()]
            found, inner = getattr(table, field)(), getattr(self.classes, kind)()
            inner.Init(found.Bytes, found.Pos)
            lists.append(self.numbers(inner, "Values", 1).astype(np.int64))
        return lists[0], lists[1]

    def operator(self, table: Any, codes: Sequence[Any], count: int) -> Operator:
        index = table.OpcodeIndex()
        if not 0 <= index < len(codes):
            raise self.wrong(f"an operator has code {index} of {len(codes)}")
        number = max(codes[index].BuiltinCode(), codes[index].DeprecatedBuiltinCode())
        kind = self.kinds.get(number, f"operator {number}")
        if kind == "CUSTOM":
            kind = f"CUSTOM {self.text(codes[index].CustomCode())[:80]!r}"
        outputs = self.indices(table, "Outputs", count)
        if -1 in outputs:
            raise self.wrong(f"an operator {kind} leaves an output out")
        return Operator(kind=kind, inputs=self.indices(table, "Inputs", count), outputs=outputs, options=self.options(table))

    def options(self, table: Any) -> dict[str, Any]:
        """The options as plain numbers and lists of them, by the names of the format."""
        for which in ("", "2"):
            names = _by_number(getattr(self.classes, f"BuiltinOptions{which}"))
            name, found = names.get(getattr(table, f"BuiltinOptions{which}Type")(), "NONE"), getattr(table, f"BuiltinOptions{which}")()
            if name == "NONE" or found is None or not hasattr(self.classes, name):
                continue
            options = getattr(self.classes, name)()
            options.Init(found.Bytes, found.Pos)
            return {field: value for field in _fields(type(options)) if (value := self.option(options, field)) is not None}
        return {}

    def option(self, options: Any, field: str) -> Any:
        if hasattr(options, f"{field}AsNumpy"):
            return None if getattr(options, f"{field}IsNone")() else tuple(self.numbers(options, field, 1).tolist())
        value = getattr(options, field)()
        return value if isinstance(value, bool | int | float) else None


def _by_number(names: Any) -> dict[int, str]:
    return {value: name for name, value in vars(names).items() if not name.startswith("_")}


def _fields(options: Any) -> list[str]:
    """The fields that options of this class have: what is read without an index, and lists of numbers."""
    known = vars(options)
    plain = [name for name, each in known.items() if isinstance(each, FunctionType) and each.__code__.co_argcount == 1]
    lists = [name.removesuffix("AsNumpy") for name in plain if name.endswith("AsNumpy")]
    return [name for name in plain if not name.endswith(("AsNumpy", "Length", "IsNone"))] + lists
