"""Sizes of sections, against the binutils and by hand."""

import struct
import subprocess
from pathlib import Path

import pytest

from karui.errors import FileError
from karui.export import c
from karui.run import compiler
from karui.run.elf import Sections, sections
from tests.program import builders

CODE = """
const int table[1000] = {1}; const char *const names[4] = {"a", "b", "c", "d"};
int counter = 5; char zeros[4096]; int f(int i) { return table[i] + counter + zeros[i] + names[i & 3][0]; }
"""


def test_each_kind_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(CODE)
    compiler.compile_c(["gcc"], ["-O1", "-fPIC", "-c", "-o", tmp_path / "x.o", tmp_path / "x.c"], what="x")
    found = sections(tmp_path / "x.o")
    assert 10 < found.text < 300
    assert 4000 + 32 <= found.rodata < 4400, "names hold addresses: they lie in .data.rel.ro, and nothing writes to them"
    assert found.data == 4 and found.bss == 4096
    assert found.flash == found.text + found.rodata + found.data


def test_as_size_says(tmp_path: Path) -> None:
    source = c.write(builders.lenet(integer=True), tmp_path).main
    compiler.compile_c(["gcc"], ["-O2", "-c", "-o", tmp_path / "m.o", source], what="m")
    text, data, bss = (
        int(n) for n in subprocess.run(["size", tmp_path / "m.o"], capture_output=True, text=True).stdout.split("\n")[1].split()[:3]
    )
    found = sections(tmp_path / "m.o")
    assert found.flash == text + data and found.bss == bss


def elf32(order: str) -> bytes:
    """A 32-bit object of either byte order with one section of each kind."""
    names = b"\0.text\0.rodata\0.data\0.bss\0.comment\0.shstrtab\0"
    rows = [(".text", 1, 6, 100), (".rodata", 1, 2, 20), (".data", 1, 3, 3), (".bss", 8, 3, 500), (".comment", 1, 0, 77)]
    table = struct.pack(order + "10I", *[0] * 10)
    for name, kind, flags, size in rows:
        table += struct.pack(order + "10I", names.index(name.encode() + b"\0"), kind, flags, 0, 0, size, 0, 0, 1, 0)
    table += struct.pack(order + "10I", names.index(b".shstrtab"), 3, 0, 0, 52, len(names), 0, 0, 1, 0)
    head = b"\x7fELF" + bytes([1, 1 if order == "<" else 2, 1]) + bytes(9)
    head += struct.pack(order + "HHIIIIIHHHHHH", 1, 40, 1, 0, 0, 52 + len(names), 0, 52, 0, 0, 40, 7, 6)
    return head + names + table


@pytest.mark.parametrize("order", ["<", ">"])
def test_32_bits_of_both_byte_orders(order: str, tmp_path: Path) -> None:
    (tmp_path / "m.o").write_bytes(elf32(order))
    assert sections(tmp_path / "m.o") == Sections(text=100, rodata=20, data=3, bss=500)


@pytest.mark.parametrize("content", [b"", b"MZ" + bytes(100), elf32("<")[:200], b"\x7fELF\x02\x01" + b"\xff" * 60])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.o").write_bytes(content)
    with pytest.raises(FileError, match="is no ELF object"):
        sections(tmp_path / "m.o")
