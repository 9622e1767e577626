"""The ``.karui`` file: a Program as a safetensors container (docs/format-karui.md).

The container holds two byte tensors, ``program`` (the Program as compressed JSON) and ``weights`` (all weights, one after the other, each
in the coding that is smallest for it), and ``format_version`` in its metadata. Writing is deterministic; reading trusts nothing: whatever
is wrong with a file ends in a FileError of one line, and no file makes the reader allocate much more than a network of its size needs.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from karui.errors import FileError
from karui.pixels import Pixels
from karui.program.check import check
from karui.program.check_weight import LARGEST, check_weight
from karui.program.coding import reading
from karui.program.coding.reading import Sections
from karui.program.coding.weight import decode_weight, encode_weight
from karui.program.program import Affine, Input, Op, Output, Program, Sign, Tensor
from karui.workspace import atomic_write

FORMAT_VERSION = 1
SUFFIX = ".karui"
LARGEST_FILE = 1 << 30  # bytes
LARGEST_HEADER = 1 << 24  # bytes of the JSON
_FREE_WEIGHTS, _WEIGHTS_PER_BYTE = 1 << 22, 4096  # how many weights a file may claim: so many, and so many for each of its bytes


def save(program: Program, path: str | os.PathLike[str]) -> int:
    """Write the file, whole or not at all; returns its bytes.

    Raises:
        ValueError: a Program that is not well formed.
        RunError: the system refuses the write (a full disk).
    """
    data = encode(program)
    atomic_write(path, data)
    return len(data)


def load(path: str | os.PathLike[str]) -> Program:
    """Read a file that may come from anywhere. Raises FileError, in one line that names the file."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():  # a device would be read without end
            raise FileError(f"can't read '{path}': it is no file; give one that 'karui compress' made")
        if size > LARGEST_FILE:
            raise FileError(f"'{path}' has {size} bytes; a .karui file has at most {LARGEST_FILE}")
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"can't read '{path}': {error.strerror or error}; check the path") from None
    return decode(data, name=str(path))


def encode(program: Program) -> bytes:
    """The whole file as bytes; the same Program gives the same bytes. Raises ValueError for a Program that is not well formed."""
    check(program)
    encoded = [encode_weight(weight) for weight in program.weights.values()]
    facts = {**_program_to_json(program), "weights": [entry for entry, _ in encoded]}
    header = zlib.compress(json.dumps(facts, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode(), 9)
    data = _container({"program": header, "weights": b"".join(data for _, data in encoded)})
    _check_claim([weight.shape for weight in program.weights.values()], len(data))
    return data


def decode(data: bytes, *, name: str = "data") -> Program:
    """The Program that ``encode`` wrote; ``name`` is what a message calls the file. Raises FileError."""
    try:
        program = _decode(data)
        check(program)
    except FileError as error:
        raise FileError(f"'{name}' {error}") from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, zlib.error) as error:
        reason = " ".join(str(error).split())[:300]
        raise FileError(f"'{name}' is damaged: {reason}; make the file again, or copy it again") from None
    return program


def weight_bytes(weight: Any) -> int:
    """Bytes of one weight as the file stores them: index, values and scales; its line in the header is not counted."""
    check_weight(weight)
    return len(encode_weight(weight)[1])


# ── the container ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _container(tensors: Mapping[str, bytes]) -> bytes:
    # written by hand: the library's order of metadata keys is not fixed
    metadata = {"format": "karui", "format_version": str(FORMAT_VERSION), "crc32": _checksum(b"".join(tensors.values()))}
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


def _checksum(data: bytes) -> str:
    """CRC-32 of what follows the header: a flipped bit in a weight is no error of form, and would go unnoticed."""
    return f"{zlib.crc32(data):08x}"


def _decode(data: bytes) -> Program:
    tensors = _open_container(data)
    inflate = zlib.decompressobj()
    text = inflate.decompress(tensors["program"], LARGEST_HEADER)
    if not inflate.eof or inflate.unused_data:
        raise ValueError(f"its header is cut off, or has more than {LARGEST_HEADER} bytes")
    facts = reading.record(json.loads(text, parse_constant=_refuse), "the program")
    entries = [reading.record(entry, "a weight") for entry in reading.items(facts, "weights")]
    _check_claim([reading.shape(entry, "shape", most=LARGEST) for entry in entries], len(data))
    sections = Sections(tensors["weights"])
    weights = [decode_weight(entry, sections) for entry in entries]
    if sections.at != len(sections.data):
        raise ValueError(f"{len(sections.data) - sections.at} bytes of weights that nothing names")
    if len({weight.name for weight in weights}) != len(weights):
        raise ValueError("two weights have one name")
    return _program_from_json(facts, {weight.name: weight for weight in weights})


def _check_claim(shapes: Sequence[tuple[int, ...]], size: int) -> None:
    """A small file can't ask for a huge allocation: its weights are counted before any is made."""
    claimed, allowed = sum(prod(shape) for shape in shapes), min(LARGEST, _FREE_WEIGHTS + _WEIGHTS_PER_BYTE * size)
    if claimed > allowed:
        raise ValueError(f"{claimed} weights in {size} bytes; at most {allowed} are allowed")


def _open_container(data: bytes) -> dict[str, bytes]:
    """The two tensors; every byte of the file is accounted for."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or data[8:9] != b"{" or not 2 <= length <= LARGEST_HEADER:
        raise FileError("is not a .karui file; give one that 'karui compress' or karui.program.codec.save made")
    if 8 + length > len(data):
        raise ValueError("it is cut off inside its header")
    header = reading.record(json.loads(data[8 : 8 + length], parse_constant=_refuse), "the container's header")
    metadata = reading.text_map(header, "__metadata__")
    if metadata.get("format") != "karui":
        raise FileError("is a safetensors file, but not a .karui file; give one that 'karui compress' made")
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise FileError(f"has format version {version[:20]!r}, this karui reads {FORMAT_VERSION}; install a newer karui")
    found, at = {}, 0
    for name in ("program", "weights"):
        entry = reading.record(header.get(name), f"tensor '{name}'")
        size = reading.shape({"shape": entry.get("shape")}, "shape", most=LARGEST_FILE) if entry.get("shape") != [0] else (0,)
        if entry.get("dtype") != "U8" or len(size) != 1 or entry.get("data_offsets") != [at, at + size[0]]:
            raise ValueError(f"tensor '{name}' isn't the bytes that follow")
        found[name] = data[8 + length + at : 8 + length + at + size[0]]
        at += size[0]
    if 8 + length + at != len(data) or set(header) != {"__metadata__", *found}:
        raise ValueError(f"it has {len(data)} bytes, but its header speaks of {8 + length + at}")
    if metadata.get("crc32") != _checksum(data[8 + length :]):
        raise ValueError("its bytes are not those that were written (their CRC-32 differs)")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"its header holds {constant}")


# ── Program ⇄ JSON; what is left out has its default ────────────────────────────────────────────────────────────────────────────────


def _program_to_json(program: Program) -> dict[str, Any]:
    return {
        "name": program.name,
        "inputs": [
            {"name": i.name, "tensor": i.tensor, **({"pixels": asdict(i.pixels)} if i.pixels is not None else {})} for i in program.inputs
        ],
        "outputs": [{"name": o.name, "tensor": o.tensor, **({"labels": list(o.labels)} if o.labels else {})} for o in program.outputs],
        "states": [list(pair) for pair in program.states],
        "metadata": dict(program.metadata),
        "tensors": [_tensor_to_json(tensor) for tensor in program.tensors.values()],
        "ops": [
            {
                "kind": op.kind,
                "name": op.name,
                "inputs": list(op.inputs),
                "outputs": list(op.outputs),
                "weights": dict(op.weights),
                "attributes": dict(op.attributes),
            }
            for op in program.ops
        ],
    }


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "layout": tensor.layout}
    if isinstance(tensor.quant, Affine):
        facts["affine"] = {"bits": tensor.quant.bits, "scale": tensor.quant.scale, "zero_point": tensor.quant.zero_point}
    if isinstance(tensor.quant, Sign):
        facts["sign"] = {"scale": tensor.quant.scale}
    return facts


def _tensor_from_json(facts: Mapping[str, Any]) -> Tensor:
    quant: Affine | Sign | None = None
    if "affine" in facts:
        affine = reading.record(facts["affine"], "'affine'")
        zero_point = reading.integer(affine, "zero_point", least=-128)
        quant = Affine(bits=reading.integer(affine, "bits"), scale=reading.number(affine, "scale"), zero_point=zero_point)
    elif "sign" in facts:
        quant = Sign(scale=reading.number(reading.record(facts["sign"], "'sign'"), "scale"))
    shape = reading.shape(facts, "shape", most=LARGEST)
    dtype, layout = reading.text(facts, "dtype"), reading.text(facts, "layout")
    return Tensor(name=reading.text(facts, "name"), shape=shape, dtype=dtype, quant=quant, layout=layout)  # type: ignore[arg-type]  # check() looks


def _program_from_json(facts: Mapping[str, Any], weights: Mapping[str, Any]) -> Program:
    tensors = [_tensor_from_json(reading.record(entry, "a tensor")) for entry in reading.items(facts, "tensors")]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError("two tensors have one name")
    states = [tuple(pair) for pair in reading.items(facts, "states")]
    if not all(len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in states):
        raise ValueError("'states' must be pairs of tensors")
    return Program(
        name=reading.text(facts, "name"),
        tensors={tensor.name: tensor for tensor in tensors},
        weights=weights,
        ops=tuple(_op_from_json(reading.record(entry, "an op")) for entry in reading.items(facts, "ops")),
        inputs=tuple(_input_from_json(reading.record(entry, "an input")) for entry in reading.items(facts, "inputs")),
        outputs=tuple(
            Output(name=reading.text(o, "name"), tensor=reading.text(o, "tensor"), labels=reading.texts(o, "labels"))
            for o in (reading.record(entry, "an output") for entry in reading.items(facts, "outputs"))
        ),
        states=tuple(states),
        metadata=reading.text_map(facts, "metadata"),
    )


def _op_from_json(facts: Mapping[str, Any]) -> Op:
    return Op(
        kind=reading.text(facts, "kind"),
        name=reading.text(facts, "name"),
        inputs=reading.texts(facts, "inputs"),
        outputs=reading.texts(facts, "outputs"),
        weights=reading.text_map(facts, "weights"),
        attributes=reading.record(facts.get("attributes", {}), "'attributes'"),
    )


def _input_from_json(facts: Mapping[str, Any]) -> Input:
    pixels = None
    if "pixels" in facts:
        given = reading.record(facts["pixels"], "'pixels'")
        mean, std = reading.numbers(given, "mean"), reading.numbers(given, "std")
        pixels = Pixels(scale=reading.number(given, "scale"), mean=mean, std=std)
    return Input(name=reading.text(facts, "name"), tensor=reading.text(facts, "tensor"), pixels=pixels)
