"""What this machine reaches: measured, and near to what its kernels took."""

import platform
from pathlib import Path

import pytest

from karui.errors import ToolError
from karui.export import ceilings
from karui.export.machines import MACHINES
from karui.run import calibrate, compiler


@pytest.mark.slow
@pytest.mark.parametrize("machine", calibrate.machines())
def test_a_table_of_this_machine(machine: str, tmp_path: object) -> None:
    found = calibrate.calibrate(machine, seconds=0.3)
    assert found.measured and found.machine == machine
    assert ceilings.read(ceilings.keep(found, tmp_path / "t.json")) == found  # type: ignore[operator]
    peaks = found.ceilings
    assert 1 < peaks["int8"] < 5000 and peaks["int8"] > peaks["float"] and peaks["binary"] > peaks["int8"]
    assert peaks["l1"] > peaks["dram"]
    assert 0 < found.costs["panels.mac"] and 1 / found.costs["panels.mac"] < 1.5 * peaks["int8"]
    assert found.error is not None and found.error < 0.5


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64")
@pytest.mark.parametrize(
    ("loop", "word", "each"),
    [
        ("int8_x86_64_v3", "vpmaddwd", 16),
        ("float_x86_64_v3", "vfmadd", 8),
        ("int8_x86_64_v4", "vpdpbusd", 64),
        ("float_x86_64_v4", "vfmadd", 16),
        ("binary_x86_64_v3", "vpshufb", 128),
        ("popcount_x86_64_v3", "popcnt", 64),
        ("popcount_x86_64_v4", "vpopcntq", 512),
    ],
)
def test_a_loop_does_what_it_is_counted_for(loop: str, word: str, each: int, tmp_path: Path) -> None:
    """A compiler leaves out a chain whose end nobody reads; the ceiling would be too high."""
    text = tmp_path / "loops.s"
    compiler.compile_c(compiler.find(), ["-O3", "-S", "-o", text, Path(calibrate.__file__).with_name("ceilings.c")], what="ceilings.c")
    body = text.read_text().partition(f"\n{loop}:")[2].partition(f".size\t{loop}")[0]
    others = {name: macs for found in calibrate.COUNTS.values() for name, macs, _ in found}
    macs = ({name: macs for found in calibrate.LOOPS.values() for name, macs in found.values()} | others)[loop]
    assert sum(word in line for line in body.splitlines()) * each == macs


def test_another_processor_is_refused() -> None:
    elsewhere = next(name for name in MACHINES if name not in calibrate.machines())
    with pytest.raises(ToolError, match="lacks its instructions"):
        calibrate.calibrate(elsewhere)
