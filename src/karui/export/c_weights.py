"""A Weight as two streams in C: where its stored weights are, and what they are. The decoders are c_runtime/weights.c."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from karui.errors import UnsupportedOp
from karui.program.check_weight import block_mask
from karui.program.coding import huffman
from karui.program.program import (
    AffineValues,
    Array,
    Block,
    CodebookValues,
    Dense,
    FloatValues,
    NofM,
    SignValues,
    TernaryValues,
    Weight,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One half of a weight in C: ``tables`` become constants, ``fields`` are written as they are; names are those of ``k_weight``."""

    tables: Mapping[str, Array] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of read-only memory."""
        return sum(array.nbytes for array in self.tables.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """A whole weight. ``most``: stored weights of the fullest row. ``in_place``: rows can be read without a decoder.

    raw_zero: int16 [O·G], what still must be subtracted from codes that then need more than 8 bits; None elsewhere.
    """

    tables: Mapping[str, Array]
    fields: Mapping[str, Any]
    rows: int
    inputs: int
    most: int
    stored: int
    in_place: bool
    raw_zero: Array | None = None

    @property
    def sparse(self) -> bool:
        """True where a support decoder lists the stored weights."""
        return "where" in self.fields


def coded(weight: Weight, *, integer: bool, in_order: bool = True) -> Coded:
    """The streams of a weight, [O, K] row by row: for an integer op (``codes``) or for a float op (``reals``).

    A weight with a codebook was made to be small: its streams are Huffman codes where those are shorter, and rows are read ``in_order``.
    """
    rows, inputs = weight.shape[0], prod(weight.shape[1:])
    huffman_coded = isinstance(weight.values, CodebookValues) and in_order
    support, stored = _support(weight, huffman_coded)
    if isinstance(weight.values, CodebookValues):
        values = _indexed(weight, weight.values, stored, integer, huffman_coded)
    else:
        values = _integers(weight, stored) if integer else _floats(weight, stored)
    raw_zero = values.tables.get("raw_zero")
    tables = {**values.tables, **support.tables}
    tables.pop("raw_zero", None)
    return Coded(
        tables=tables,
        fields={**values.fields, **support.fields, "inputs": inputs},
        rows=rows,
        inputs=inputs,
        most=int(stored.sum(1).max(initial=0)),
        stored=int(stored.sum()),
        in_place=not support.fields and values.fields.get("codes", values.fields.get("reals")) in ("k_codes_bytes", "k_reals_plain"),
        raw_zero=raw_zero,
    )


def in_full(weight: Weight) -> Coded | None:
    """An integer weight as a byte for each code, zeros too; None where codes need more than 8 bits."""
    codes, rows, inputs = weight.codes(), weight.shape[0], prod(weight.shape[1:])
    if codes.min(initial=0) < -128 or codes.max(initial=0) > 127:
        return None
    fields = {"codes": "k_codes_bytes", "inputs": inputs}
    tables = {"values": codes.astype(np.int8).reshape(-1)}
    return Coded(tables=tables, fields=fields, rows=rows, inputs=inputs, most=inputs, stored=rows * inputs, in_place=True)


# ── Support ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _support(weight: Weight, huffman_coded: bool) -> tuple[Part, NDArray[np.bool_]]:
    """The smallest spelling of the support, and which weights it stores, bool [O, K]."""
    mask = weight.mask.reshape(weight.shape[0], -1)
    if isinstance(weight.support, Dense):
        return Part(), mask
    rows, columns = (weight.support.rows, weight.support.columns) if isinstance(weight.support, Block) else (1, 1)
    blocks = block_mask(mask, rows, columns)
    candidates = [_bitmask(blocks), *(_gaps(blocks, bits) for bits in range(2, 9))]
    candidates = [_of_blocks(part, rows, columns) for part in candidates]
    if huffman_coded and (rows, columns) == (1, 1) and (codes := _huffman(_gap_numbers(blocks, 255))) is not None:
        candidates.append(Part(tables={"support": codes[0], "gaps": codes[1]}, fields={"where": "k_where_huffman"}))
    if isinstance(weight.support, NofM) and (part := _runs(weight, weight.support)) is not None:
        candidates.insert(0, part)
    return min(candidates, key=lambda part: part.nbytes), mask


def _of_blocks(part: Part, rows: int, columns: int) -> Part:
    return Part(tables=part.tables, fields={**part.fields, "block_rows": rows, "block_columns": columns})


def _bitmask(blocks: NDArray[np.bool_]) -> Part:
    return Part(tables={"support": np.packbits(blocks, axis=1, bitorder="little").reshape(-1)}, fields={"where": "k_where_bitmask"})


def _gaps(blocks: NDArray[np.bool_], bits: int) -> Part:
    numbers = _gap_numbers(blocks, (1 << bits) - 1)
    return Part(tables={"support": packed(numbers, bits)}, fields={"where": "k_where_gaps", "where_bits": bits})


def _gap_numbers(blocks: NDArray[np.bool_], escape: int) -> NDArray[np.int64]:
    """Distances between stored blocks; the end counts as one, so that a decoder never reads past it."""
    places = np.concatenate([[-1], np.flatnonzero(blocks), [blocks.size]])
    gaps = np.diff(places) - 1
    lengths = gaps // escape + 1
    numbers = np.full(int(lengths.sum()), escape)
    numbers[np.cumsum(lengths) - 1] = gaps % escape
    return numbers


def _runs(weight: Weight, support: NofM) -> Part | None:
    """Positions in each run of m; None where a run is not exactly full or the last axis ends in a part of a run."""
    if weight.shape[-1] % support.m:
        return None
    runs = support.mask.reshape(-1, support.m)
    if (runs.sum(1) != support.n).any():
        return None
    bits = max(1, (support.m - 1).bit_length())
    if bits > 8:
        return None
    fields = {"where": "k_where_runs", "where_bits": bits, "stored": support.n, "run": support.m}
    return Part(tables={"support": packed(np.nonzero(runs)[1], bits)}, fields=fields)


def packed(numbers: Array, bits: int) -> NDArray[np.uint8]:
    """Unsigned numbers of ``bits`` bits, least significant bit first, and the spare byte that the reader wants."""
    stream = (numbers.reshape(-1, 1).astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.append(np.packbits(stream.astype(np.uint8).reshape(-1), bitorder="little"), np.uint8(0))


# ── Values ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _integers(weight: Weight, stored: NDArray[np.bool_]) -> Part:
    """Codes that are at most 8 bits wide and, where that is possible, have their zero point subtracted already."""
    v = weight.values
    codes = _of(weight.codes(), stored)
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    if isinstance(v, SignValues):
        return _pack(codes, {"codes": "k_codes_packed", "bits": 1, "step": 2, "offset": 1})
    if isinstance(v, TernaryValues):
        return _pack(codes, {"codes": "k_codes_packed", "bits": 2, "step": 1, "offset": 1})
    if not isinstance(v, AffineValues):
        raise UnsupportedOp(f"'{weight.name}' holds floats, so no integer op can use it; quantize it first")
    grouped = {"group": v.group, "groups": v.scale.shape[1]} if v.group else {}
    if v.bits < 8:
        if high - low < 1 << v.bits:
            return _pack(codes, {"codes": "k_codes_packed", "bits": v.bits, "step": 1, "offset": -low, **grouped})
        part = _pack(
            _of(v.codes, stored).astype(np.int32),
            {"codes": "k_codes_packed", "bits": v.bits, "step": 1, "offset": 1 << (v.bits - 1), **grouped},
        )
        return Part(tables={**part.tables, "zero": _per_row(weight, v.zero_point).astype(np.int16)}, fields=part.fields)
    if low >= -128 and high <= 127:
        return Part(tables={"values": codes.astype(np.int8)}, fields={"codes": "k_codes_bytes", **grouped})
    raw = _of(v.codes, stored)
    tables: dict[str, Array] = {"values": raw.astype(np.int8), "raw_zero": _per_row(weight, v.zero_point).astype(np.int16)}
    return Part(tables=tables, fields={"codes": "k_codes_bytes", **grouped})


def _floats(weight: Weight, stored: NDArray[np.bool_]) -> Part:
    """Numbers of a float op: as they are, or as codes with their scales."""
    v = weight.values
    if isinstance(v, FloatValues):
        return Part(tables={"values": _of(v.data, stored)}, fields={"reals": "k_reals_plain"})
    assert not isinstance(v, CodebookValues)
    codes = _of(v.codes, stored).astype(np.int32)
    if isinstance(v, TernaryValues):
        part = _pack(codes, {"reals": "k_reals_ternary", "bits": 2, "step": 1, "offset": 1})
        scales = {"scale": _per_row(weight, v.positive), "negative": _per_row(weight, v.negative)}
        return Part(tables={**part.tables, **scales}, fields=part.fields)
    scale = {"scale": _per_row(weight, v.scale)}
    if isinstance(v, SignValues):
        part = _pack(codes, {"reals": "k_reals_packed", "bits": 1, "step": 2, "offset": 1})
        return Part(tables={**part.tables, **scale}, fields=part.fields)
    grouped = {"group": v.group, "groups": v.scale.shape[1]} if v.group else {}
    part = _pack(codes, {"reals": "k_reals_packed", "bits": v.bits, "step": 1, "offset": 1 << (v.bits - 1), **grouped})
    zero = {"zero": _per_row(weight, v.zero_point).astype(np.int16)} if v.zero_point.any() else {}
    return Part(tables={**part.tables, **scale, **zero}, fields=part.fields)


def _of(array: Array, stored: NDArray[np.bool_]) -> Array:
    """The stored ones in order; no copy where all are."""
    return array.reshape(-1) if stored.all() else array.reshape(stored.shape)[stored]


def _pack(codes: NDArray[np.int32], fields: Mapping[str, Any]) -> Part:
    """code = step · number − offset, solved for the numbers."""
    numbers = (codes + fields["offset"]) // fields["step"]
    return Part(tables={"values": packed(numbers, fields["bits"])}, fields=fields)


def _indexed(weight: Weight, values: CodebookValues, stored: NDArray[np.bool_], integer: bool, huffman_coded: bool) -> Part:
    """Indices, packed or as Huffman codes, and the codebook."""
    role, tables = "codes" if integer else "reals", {"table": values.codebook}
    if not integer:
        tables = {"table": values.codebook.astype(np.float32), "scale": _per_row(weight, values.scale)}
    bits = max(1, (len(values.codebook) - 1).bit_length())
    index = _of(values.index, stored)
    plain = Part(tables={"values": packed(index, bits), **tables}, fields={role: f"k_{role}_table", "bits": bits})
    codes = _huffman(index) if huffman_coded else None
    if codes is None:
        return plain
    return min(
        plain, Part(tables={"values": codes[0], "book": codes[1], **tables}, fields={role: f"k_{role}_huffman"}), key=lambda p: p.nbytes
    )


def _huffman(symbols: Array) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """The stream and the book of ``k_symbol``; None for no symbols, or for a book that bytes can't write."""
    if not len(symbols):
        return None
    stream, lengths = huffman.stream(symbols)
    counts = np.bincount(lengths, minlength=huffman.LONGEST + 1)[1:]
    if (counts > 255).any():
        return None
    used = sorted(np.flatnonzero(lengths), key=lambda symbol: (lengths[symbol], symbol))
    return np.frombuffer(stream, np.uint8), np.concatenate([counts, used]).astype(np.uint8)


def _per_row(weight: Weight, parameter: Array) -> Array:
    """A scale or zero point as [O] or [O, G], spread from a single one."""
    parameter = np.asarray(parameter)
    return parameter if parameter.ndim == 2 else np.broadcast_to(parameter, (weight.shape[0],)).copy()
