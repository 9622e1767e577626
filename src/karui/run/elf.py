"""How large the sections of a compiled object are. Reads ELF, 32 and 64 bits, either byte order."""

import struct
from dataclasses import dataclass
from pathlib import Path

from karui.errors import FileError

_WRITE, _ALLOC, _EXECUTE, _NOBITS = 1, 2, 4, 8


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Bytes by what becomes of them: code, constants, initialised variables, zeroed variables."""

    text: int
    rodata: int
    data: int
    bss: int

    @property
    def flash(self) -> int:
        """What a device stores: code, constants and the initial values of variables."""
        return self.text + self.rodata + self.data


def sections(*paths: Path) -> Sections:
    """Sums over the sections of object files. Constants that hold addresses (``.data.rel.ro``) are constants: nothing writes to them.

    Raises FileError for a file that isn't ELF or ends too soon.
    """
    total = {"text": 0, "rodata": 0, "data": 0, "bss": 0}
    for name, kind, flags, size in (each for path in paths for each in _read(path)):
        if not flags & _ALLOC:
            continue
        constant = not flags & _WRITE or name.startswith(".data.rel.ro")
        total["text" if flags & _EXECUTE else "bss" if kind == _NOBITS else "rodata" if constant else "data"] += size
    return Sections(**total)


def _read(path: Path) -> list[tuple[str, int, int, int]]:
    content = Path(path).read_bytes()
    try:
        return _headers(content)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise FileError(f"'{path}' is no ELF object ({error}); compile for Linux or a bare-metal target") from error


def _headers(content: bytes) -> list[tuple[str, int, int, int]]:
    """(name, type, flags, size) of every section."""
    if content[:4] != b"\x7fELF":
        raise ValueError("it doesn't begin with the ELF mark")
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    start = struct.unpack_from(order + ("Q" if wide else "I"), content, 40 if wide else 32)[0]
    entry, count, names = struct.unpack_from(order + "HHH", content, 58 if wide else 46)
    layout = order + ("IIQQQQ" if wide else "IIIIII")
    rows = [struct.unpack_from(layout, content, start + i * entry) for i in range(count)]
    strings = rows[names][4]
    found = []
    for name, kind, flags, _, _, size in rows:
        end = content.index(b"\0", strings + name)
        found.append((content[strings + name : end].decode("ascii", "replace"), kind, flags, size))
    return found
