"""Files that older versions of karui wrote must load for ever: one file per format version, and the Program that it holds."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from karui.errors import FileError
from karui.program import codec
from tests.golden.every import every
from tests.program.test_codec import same_program

GOLDEN = Path(__file__).parent / "every-v1.karui"


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The container's header, the Program as JSON, the weights' bytes; lengths and checksum apart, which depend on zlib's build."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    begin, middle = header["program"]["data_offsets"]
    program, weights = data[end + begin : end + middle], data[end + middle :]
    assert header["__metadata__"].pop("crc32") == f"{zlib.crc32(data[end:]):08x}"
    for entry in (header["program"], header["weights"]):
        del entry["data_offsets"]
    del header["program"]["shape"]
    return header, json.loads(zlib.decompress(program)), weights


def test_version_1_loads() -> None:
    assert same_program(codec.load(GOLDEN), every())


def test_it_holds_what_todays_version_writes() -> None:
    """Every word of both headers and every byte of the weights: a change of the format shows here before it reaches anybody's files."""
    for then, now in zip(parts(GOLDEN.read_bytes()), parts(codec.encode(every())), strict=True):
        assert then == now


def test_a_file_without_its_checksum_is_refused() -> None:
    with pytest.raises(FileError, match="CRC-32"):
        codec.decode(GOLDEN.read_bytes().replace(b'"crc32"', b'"crc31"'))
