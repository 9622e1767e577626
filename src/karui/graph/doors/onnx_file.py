"""An ONNX file, read without trust: what is used of it is checked first, and nothing outside its folder is opened.

Every float becomes float32. No memory is taken on the word of a number in the file: a tensor's bytes have to be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from karui.errors import FileError, ToolError, UnsupportedOp, first_line

LARGEST = (1 << 31) - 1  # bytes that a protobuf can have
OPSETS = range(7, 27)
_DOMAINS = {"": "", "ai.onnx": "", "com.microsoft": "com.microsoft"}
_BITS = {"FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64, "BOOL": 8, "FLOAT16": 16} | {
    "DOUBLE": 64,
    "UINT32": 32,
    "UINT64": 64,
    "BFLOAT16": 16,
    "UINT4": 4,
    "INT4": 4,
}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_DTYPES = {
    "FLOAT": torch.float32,
    "FLOAT16": torch.float32,
    "BFLOAT16": torch.float32,
    "DOUBLE": torch.float32,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "UINT16": torch.int32,
    "UINT32": torch.int64,
    "UINT64": torch.int64,
    "INT4": torch.int8,
    "UINT4": torch.uint8,
}
CODES = ("UINT8", "INT8", "UINT16", "INT16", "UINT4", "INT4")  # types that quantized numbers have


@dataclass(frozen=True, kw_only=True)
class File:
    """What was read. opsets: the version of each domain. functions: the file's own ops, by domain and name."""

    path: Path
    model: Any
    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str], Any]

    @property
    def source(self) -> str:
        """Its name, for messages."""
        return self.path.name

    def check_text(self, *texts: Any) -> None:
        """Refuse names that aren't one line of text; protobuf hands over what is no Unicode as bytes."""
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise self.damaged("a name in it is no text")

    def damaged(self, what: str) -> FileError:
        """The error of a file that can't be what it says."""
        return FileError(f"'{self.source}' is damaged: {what}; export it again")


def load(path: Path) -> File:
    """Read the file; raises FileError where it is none, damaged or of another kind, ToolError without the package onnx."""
    onnx = package()
    model = onnx.ModelProto()
    try:
        if not path.is_file():
            raise FileError(f"can't read '{path}': it is no file; give an .onnx file")
        if path.stat().st_size > LARGEST:
            raise FileError(f"'{path}' has {path.stat().st_size:,} bytes, at most {LARGEST:,} are opened")
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise FileError(f"can't read '{path}': {error.strerror}") from None
    except FileError:
        raise
    except Exception as error:  # protobuf raises several kinds
        raise FileError(f"'{path.name}' is no ONNX file ({first_line(error)[:120]}); export it again") from None
    if not model.HasField("graph") or not model.graph.node:
        raise FileError(f"'{path.name}' is no ONNX file: it has no nodes; export it again")
    opsets = {_DOMAINS.get(each.domain, each.domain): each.version for each in model.opset_import}
    if opsets.get("", OPSETS[-1]) not in OPSETS:
        raise UnsupportedOp(
            f"'{path.name}' is of opset {opsets['']}, opsets {OPSETS[0]} to {OPSETS[-1]} are read; export it with one of these"
        )
    functions = {(each.domain, each.name): each for each in model.functions}
    return File(path=path, model=model, opsets=opsets, functions=functions)


def package() -> Any:
    """The package onnx."""
    try:
        import onnx
    except ImportError:
        raise ToolError("an .onnx file needs the package onnx; install it with: pip install onnx") from None
    return onnx


def domain_of(name: str) -> str:
    """One spelling for the domain of ONNX's own ops."""
    return _DOMAINS.get(name, name)


def kind_of(code: int) -> str:
    """The name of an element type; empty where there is none of this number."""
    types = package().TensorProto.DataType
    return str(types.Name(code)) if code in types.values() else ""


def dtype_of(code: int) -> torch.dtype | None:
    """What holds an element type here; None for one that nothing holds (strings, 8-bit floats)."""
    return _DTYPES.get(kind_of(code))


def tensor_of(file: File, proto: Any) -> Tensor:
    """A tensor of the file: the bytes must be there, as many as its shape takes."""
    name = str(proto.name)[:80]
    kind = kind_of(proto.data_type)
    if kind not in _BITS:
        raise UnsupportedOp(f"'{file.source}': the constant '{name}' is of type {kind or proto.data_type}, which no rule can hold")
    count = prod(proto.dims)
    if any(size < 0 for size in proto.dims) or len(proto.dims) > 64:
        raise file.damaged(f"the constant '{name}' has the shape {list(proto.dims)[:8]}")
    raw = _external(file, proto) if proto.data_location == 1 else proto.raw_data if proto.HasField("raw_data") else None
    if raw is not None:
        if len(raw) != (count * _BITS[kind] + 7) // 8:
            raise file.damaged(f"the constant '{name}' has {len(raw):,} bytes, {list(proto.dims)} of {kind} need another number")
    elif not any(len(getattr(proto, field)) in _lengths(count, _BITS[kind]) for field in _FIELDS):
        raise file.damaged(f"the constant '{name}' lacks numbers: {list(proto.dims)} are {count:,}")
    try:
        array = _array(proto, raw, kind)
    except Exception as error:  # the package raises many kinds
        raise file.damaged(f"the constant '{name}' can't be read ({first_line(error)[:100]})") from None
    return torch.from_numpy(np.ascontiguousarray(array)).reshape(tuple(proto.dims))


def _lengths(count: int, bits: int) -> tuple[int, ...]:
    return (count, (count + 1) // 2) if bits == 4 else (count,)


def _array(proto: Any, raw: bytes | None, kind: str) -> Any:
    onnx = package()
    if raw is not None:
        whole = onnx.TensorProto()
        whole.data_type, whole.raw_data = proto.data_type, raw
        whole.dims.extend(proto.dims)
        proto = whole
    array = onnx.numpy_helper.to_array(proto)
    if kind in ("FLOAT16", "BFLOAT16", "DOUBLE"):
        return array.astype(np.float32)
    wider = {"UINT4": np.uint8, "INT4": np.int8, "UINT16": np.int32, "UINT32": np.int64, "UINT64": np.int64}
    return array.astype(wider[kind]) if kind in wider else array.copy()


def _external(file: File, proto: Any) -> bytes:
    """Bytes of another file in the same folder."""
    entries = {each.key: each.value for each in proto.external_data}
    location, folder = entries.get("location", ""), file.path.resolve().parent
    try:
        other = (folder / location).resolve()
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
    except (ValueError, OSError, RuntimeError):
        raise file.damaged(f"the place of the constant '{str(proto.name)[:80]}' can't be read") from None
    if not location or not other.is_relative_to(folder) or not location.isprintable():
        raise FileError(f"'{file.source}' is not safe to open: it wants to read {location[:80]!r}, outside its own folder")
    if not other.is_file():
        raise FileError(f"'{file.source}' keeps its weights in '{location[:80]}', which isn't beside it; put both into one folder")
    size = other.stat().st_size
    length = size - offset if length < 0 else length
    if offset < 0 or length < 0 or offset + length > size:
        raise FileError(f"'{location[:80]}' has {size:,} bytes, fewer than '{file.source}' says; copy it again")
    with other.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)
