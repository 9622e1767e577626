"""A Weight as an entry of the header and a run of bytes: index, values, then its scales, each in the coding that is smallest for it."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from karui.program.check_weight import LARGEST, block_mask, group_shape, spread_blocks
from karui.program.coding import huffman, reading
from karui.program.coding.bits import pack, pack_base3, packed_size, unpack, unpack_base3, width_of
from karui.program.coding.index import decode_index, encode_index, index_sizes
from karui.program.coding.reading import Sections
from karui.program.coding.runs import decode_runs, encode_runs, runs_size
from karui.program.program import (
    AffineValues,
    Array,
    Block,
    CodebookValues,
    Dense,
    Element,
    FloatValues,
    NofM,
    SignValues,
    Support,
    TernaryValues,
    Values,
    Weight,
    per_channel,
)

Entry = dict[str, Any]


def encode_weight(weight: Weight) -> tuple[Entry, bytes]:
    """The header's entry and the bytes. The weight must be well formed (``check_weight``)."""
    support, index = _encode_support(weight.support)
    values, data = _encode_values(weight)
    return {"name": weight.name, "shape": list(weight.shape), "support": support, "values": values}, index + data


def decode_weight(entry: Mapping[str, Any], sections: Sections) -> Weight:
    """The opposite; ValueError names the weight where entry and bytes don't agree."""
    name = reading.text(entry, "name")
    try:
        shape = reading.shape(entry, "shape", most=LARGEST)
        support = _decode_support(reading.record(entry.get("support"), "'support'"), shape, sections)
        mask = np.ones(shape, bool) if isinstance(support, Dense) else support.mask
        values = _decode_values(reading.record(entry.get("values"), "'values'"), mask, sections)
    except ValueError as error:
        raise ValueError(f"weight '{name}': {error}") from None
    return Weight(name=name, shape=shape, support=support, values=values)


# ── which are stored ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def index_bytes(support: Support) -> int:
    """How long the index of a support is, without writing it."""
    if isinstance(support, Dense):
        return 0
    size = min(index_sizes(_units(support)).values())
    return min(size, runs_size(support.mask, support.n, support.m) or size) if isinstance(support, NofM) else size


def _encode_support(support: Support) -> tuple[Entry, bytes]:
    if isinstance(support, Dense):
        return {"kind": "dense"}, b""
    units = _units(support)
    entry: Entry = {"kind": "element"}
    coding, data = encode_index(units)
    if isinstance(support, Block):
        entry = {"kind": "block", "rows": support.rows, "columns": support.columns}
    elif isinstance(support, NofM):
        entry = {"kind": "n:m", "n": support.n, "m": support.m}
        runs = encode_runs(support.mask, support.n, support.m)
        coding, data = (coding, data) if runs is None or len(data) <= len(runs) else ("runs", runs)
    return {**entry, "coding": coding, "stored": int(units.sum()), "bytes": len(data)}, data


def _units(support: Element | Block | NofM) -> Array:
    """What an index counts: weights or blocks, bool [rows, columns]."""
    return block_mask(support.mask, support.rows, support.columns) if isinstance(support, Block) else _matrix(support.mask)


def _matrix(mask: Array) -> Array:
    return mask.reshape(mask.shape[0], -1)


def _decode_support(entry: Mapping[str, Any], shape: tuple[int, ...], sections: Sections) -> Support:
    kind = reading.text(entry, "kind")
    if kind == "dense":
        return Dense()
    if kind not in ("element", "block", "n:m"):
        raise ValueError(f"the support '{kind}' is unknown")
    if not shape:
        raise ValueError("a sparse weight needs an axis")
    high, wide = shape[0], prod(shape[1:])
    rows, columns = (reading.integer(entry, key, least=1) for key in ("rows", "columns")) if kind == "block" else (1, 1)
    data, coding, stored = sections.take(reading.integer(entry, "bytes")), reading.text(entry, "coding"), reading.integer(entry, "stored")
    n, m = (reading.integer(entry, key, least=1) for key in ("n", "m")) if kind == "n:m" else (1, 1)
    if kind == "n:m" and coding == "runs":
        mask = decode_runs(data, n, m, shape)
        if int(mask.sum()) != stored:
            raise ValueError(f"an index of {int(mask.sum())} places, expected {stored}")
        return NofM(n=n, m=m, mask=mask)
    units = decode_index(coding, data, (-(-high // rows), -(-wide // columns)), stored)
    if kind == "block":
        # a block may be larger than the weight: spread no further than the weight reaches
        mask = spread_blocks(units, min(rows, high), min(columns, wide), shape)
        return Block(rows=rows, columns=columns, mask=mask)
    mask = units.reshape(shape)
    return Element(mask=mask) if kind == "element" else NofM(n=n, m=m, mask=mask)


# ── how each is written ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_values(weight: Weight) -> tuple[Entry, bytes]:
    v, mask = weight.values, weight.mask
    if isinstance(v, FloatValues):
        return {"kind": "float"}, _raw(v.data[mask], "float32")
    if isinstance(v, AffineValues):
        entry, data = _smallest(v.codes[mask].astype(np.int16) + (1 << (v.bits - 1)), ("packed", "huffman"), v.bits)
        entry = {"kind": "affine", "bits": v.bits, **({"group": v.group} if v.group else {}), **entry, "scale": list(v.scale.shape)}
        if not v.zero_point.any():
            return entry, data + _raw(v.scale, "float32")
        return {**entry, "zero_point": True}, data + _raw(v.scale, "float32") + _raw(v.zero_point, "int32")
    if isinstance(v, SignValues):
        entry, data = _smallest((v.codes[mask] + 1) // 2, ("packed", "bytes"), 1)
        return {"kind": "sign", **entry, "scale": list(v.scale.shape)}, data + _raw(v.scale, "float32")
    if isinstance(v, TernaryValues):
        entry, data = _smallest(v.codes[mask] + 1, ("packed", "base3", "base3 huffman"), 2)
        entry = {"kind": "ternary", **entry, "positive": list(v.positive.shape), "negative": list(v.negative.shape)}
        return entry, data + _raw(v.positive, "float32") + _raw(v.negative, "float32")
    entry, data = _smallest(v.index[mask], ("packed", "huffman"), width_of(len(v.codebook)))
    entry = {"kind": "codebook", **entry, "entries": len(v.codebook), "dtype": v.codebook.dtype.name, "scale": list(v.scale.shape)}
    return entry, data + _raw(v.codebook, v.codebook.dtype.name) + _raw(v.scale, "float32")


def _raw(array: Array, dtype: str) -> bytes:
    return np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()


def _smallest(symbols: Array, codings: tuple[str, ...], width: int) -> tuple[Entry, bytes]:
    """The first of the smallest ``codings``."""
    written = [(coding, _WRITE[coding](symbols, width)) for coding in codings]
    coding, data = min(written, key=lambda pair: len(pair[1]))
    return {"coding": coding, "bytes": len(data)}, data


_WRITE: Mapping[str, Callable[[Array, int], bytes]] = {
    "packed": pack,
    "huffman": lambda symbols, width: huffman.encode(symbols),
    "bytes": lambda symbols, width: huffman.encode(np.frombuffer(pack(symbols, width), np.uint8)),  # eight signs are one symbol
    "base3": lambda symbols, width: pack_base3(symbols).tobytes(),
    "base3 huffman": lambda symbols, width: huffman.encode(pack_base3(symbols)),
}
_READ: Mapping[str, Callable[[bytes, int, int], Array]] = {
    "packed": unpack,
    "huffman": lambda data, width, count: huffman.decode(data, count),
    "bytes": lambda data, width, count: unpack(huffman.decode(data, packed_size(count, width)).tobytes(), width, count),
    "base3": lambda data, width, count: unpack_base3(np.frombuffer(data, np.uint8), count),
    "base3 huffman": lambda data, width, count: unpack_base3(huffman.decode(data, -(-count // 5)), count),
}


def _decode_values(entry: Mapping[str, Any], mask: Array, sections: Sections) -> Values:
    kind = reading.text(entry, "kind")
    if kind == "float":
        return FloatValues(data=_spread(sections.array("float32", (int(mask.sum()),)), mask, np.float32(0)))
    if kind not in ("affine", "sign", "ternary", "codebook"):
        raise ValueError(f"the values '{kind}' are unknown")
    entries = reading.integer(entry, "entries", least=1) if kind == "codebook" else 0
    width = {"sign": 1, "ternary": 2, "affine": reading.integer(entry, "bits", 1, least=1), "codebook": width_of(entries)}[kind]
    if width > 8:
        raise ValueError(f"{kind} values of {width} bits")
    coding = reading.text(entry, "coding")
    if coding not in _READ:
        raise ValueError(f"the value coding '{coding}' is unknown")
    symbols = _READ[coding](sections.take(reading.integer(entry, "bytes")), width, int(mask.sum()))
    if kind == "affine":
        return _decode_affine(entry, symbols, mask, sections, width)
    if kind == "codebook":
        dtype = reading.text(entry, "dtype")
        if dtype not in ("float32", "int8"):
            raise ValueError(f"a codebook of {dtype}")
        codebook = sections.array(dtype, (entries,))
        index = _spread(symbols.astype(np.uint8), mask, np.uint8(0))
        return CodebookValues(index=index, codebook=codebook, scale=_scale(entry, "scale", mask, sections))
    codes = _spread(((2 if kind == "sign" else 1) * symbols.astype(np.int8) - 1).astype(np.int8), mask, np.int8(0))
    if kind == "sign":
        return SignValues(codes=codes, scale=_scale(entry, "scale", mask, sections))
    positive = _scale(entry, "positive", mask, sections)
    return TernaryValues(codes=codes, positive=positive, negative=_scale(entry, "negative", mask, sections))


def _decode_affine(entry: Mapping[str, Any], symbols: Array, mask: Array, sections: Sections, bits: int) -> AffineValues:
    if symbols.size and int(symbols.max()) >> bits:
        raise ValueError(f"a code of more than {bits} bits")
    empty = AffineValues(bits=bits, codes=mask, scale=mask, zero_point=mask, group=reading.integer(entry, "group", 0))
    if empty.group:
        if mask.ndim < 2:
            raise ValueError("groups need two axes")
        allowed = group_shape(empty, mask.shape)
        if tuple(items := reading.items(entry, "scale")) != allowed:
            raise ValueError(f"a scale of shape {items}, expected {list(allowed)}")
        scale = sections.array("float32", allowed)
    else:
        scale = _scale(entry, "scale", mask, sections)
    zero_point = sections.array("int32", scale.shape) if entry.get("zero_point") is True else np.zeros(scale.shape, np.int32)
    if (np.abs(zero_point.astype(np.int64)) > 128).any():
        raise ValueError("a zero point that is no code")
    codes = np.broadcast_to(per_channel(zero_point, mask.shape, empty.group), mask.shape).astype(np.int8)
    codes[mask] = (symbols.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
    return AffineValues(bits=bits, codes=codes, scale=scale, zero_point=zero_point, group=empty.group)


def _scale(entry: Mapping[str, Any], key: str, mask: Array, sections: Sections) -> Array:
    shape = tuple(reading.items(entry, key))
    if shape not in (mask.shape[:1], ()):
        raise ValueError(f"'{key}' has shape {list(shape)}, expected {list(mask.shape[:1])} or []")
    return sections.array("float32", shape)


def _spread(stored: Array, mask: Array, empty: Any) -> Array:
    full = np.full(mask.shape, empty)
    full[mask] = stored
    return full
