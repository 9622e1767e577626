"""The constants of a model: arrays of C in its source, or one file of bytes beside it that the assembler takes in (``.incbin``).

A compiler reads an array number by number, in minutes and gigabytes where there are millions; the assembler copies bytes. That form is for
ELF (Linux, and most that runs without a system) and little-endian processors. No text of all the weights is ever in memory: they are
written piece by piece.
"""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from karui.errors import RecipeError, UnsupportedOp
from karui.export import c_text
from karui.program.program import Array

FORMS = ("array", "incbin")
MANY = 4 << 20  # bytes of constants from which on they are a file, unless one is asked for: more than microcontrollers hold
SMALL = 1024  # bytes; a smaller constant stays in the source
PIECE = 1 << 12  # numbers that are text at a time
WIDEST = 16  # of a float: -1.23456789e-38f
ALIGNMENT = 64


def checked(name: str, array: Array) -> Array:
    """The array as it lies in C. Raises UnsupportedOp for floats that aren't finite."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == np.float32 and not np.isfinite(flat).all():
        raise UnsupportedOp(f"'{name}' holds values that aren't finite, which C can't store; train again or drop the layer")
    return flat


def digest(flat: Array) -> bytes:
    """What tells equal content."""
    return hashlib.blake2b(flat.view(np.uint8).data, digest_size=16).digest()


# ── As arrays ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_array(name: str, flat: Array) -> Iterator[str]:
    """``static const`` numbers, in pieces; lines are wrapped."""
    yield f"static const {c_text.C_TYPES[flat.dtype.name]} {name}[{max(1, len(flat))}] = {{\n"
    if not len(flat):
        yield "0"
    ends = (WIDEST,) if flat.dtype == np.float32 else (len(str(n)) for n in (flat.min(initial=0), flat.max(initial=0)))
    step = max(1, c_text.LINE // (max(ends) + 1))
    whole = max(1, PIECE // step) * step
    for start in range(0, len(flat), whole):
        words = _words(flat[start : start + whole])
        yield ",\n" * (start > 0) + ",\n".join(",".join(words[i : i + step]) for i in range(0, len(words), step))
    yield "\n};\n"


def _words(flat: Array) -> list[str]:
    if flat.dtype != np.float32:
        return list(map(str, flat.tolist()))
    return [f"{text}f" if "." in text or "e" in text else f"{text}.0f" for text in map("{:.9g}".format, flat.tolist())]


# ── As a file ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_file(tables: Mapping[str, Array | str], weights: str | None) -> dict[str, Array]:
    """Which of a model's constants go into the file. weights: of ``FORMS``; None: the file where they are ``MANY``.

    Raises RecipeError for another form.
    """
    if weights not in (None, *FORMS):
        raise RecipeError(f"weights '{weights}': expected one of {', '.join(FORMS)}")
    arrays = {name: each for name, each in tables.items() if not isinstance(each, str) and each.nbytes >= SMALL}
    return arrays if weights == "incbin" or (weights is None and sum(each.nbytes for each in arrays.values()) >= MANY) else {}


def declared(name: str, flat: Array) -> str:
    """What stands in the source of a constant that is in the file."""
    return f"extern const {c_text.C_TYPES[flat.dtype.name]} {name}[{len(flat)}];\n"


def guard(name: str) -> str:
    """The lines of the source that refuse a compiler which can't take the file."""
    cure = "export it with the weights as arrays: --weights array"
    return f"""\
#if !defined(__ELF__) || (defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
#error "{name}_weights.S is for ELF and little-endian processors; {cure}"
#endif
"""


def assembly(name: str, blob: Mapping[str, Array], title: str) -> str:
    """``NAME_weights.S``. It says what the file holds, so that a compiler that keeps old objects sees when that has changed."""
    held = hashlib.blake2b(b"".join(digest(each) for each in blob.values()), digest_size=16).hexdigest()
    lines, start = [], 0
    for symbol, each in blob.items():
        lines += [f".balign {ALIGNMENT}", f".globl {symbol}", f".hidden {symbol}", f".type {symbol}, %object"]
        lines += [f".size {symbol}, {each.nbytes}", f"{symbol}:", f".incbin {name.upper()}_WEIGHTS, {start}, {each.nbytes}"]
        start += each.nbytes
    text = "\n".join(lines)
    return f"""\
/* {title}: the weights of {name}.c, which are the bytes of {name}_weights.bin; written by karui.
 * {held} */

#ifndef {name.upper()}_WEIGHTS
#define {name.upper()}_WEIGHTS "{name}_weights.bin" /* the path, as seen from where the compiler runs */
#endif

.section .rodata
{text}
#if defined(__linux__)
.section .note.GNU-stack,"",%progbits
#endif
"""


def content(blob: Mapping[str, Array]) -> Iterator[bytes]:
    """``NAME_weights.bin``, in pieces."""
    for each in blob.values():
        yield np.ascontiguousarray(each, each.dtype.newbyteorder("<")).tobytes()
