"""C on ARM processors in QEMU, with a system and without: the interpreter's integers on each, and no instruction that they don't have."""

import shutil
from pathlib import Path

import pytest

from karui.errors import RecipeError, ToolError
from karui.export import c
from karui.program.interpreter import run
from karui.program.program import Program
from karui.run import bare, qemu
from tests.export.many import agree, inputs_of, merged
from tests.export.test_c_duo_forms import FORMS, LISTED, ONE
from tests.export.test_c_few import ALL as FEW
from tests.export.test_c_floats import SIZES as FLOATS
from tests.export.test_c_layers import all_pairs
from tests.export.test_c_machines import SIZES
from tests.export.test_c_pairs import PAIRS
from tests.export.test_c_signs import SIZES as SIGNS
from tests.export.test_c_signs import STACKS
from tests.program import builders
from tests.program.weights import SUPPORTS

needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs QEMU: apt-get install qemu-user")
needs_boards = pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="needs QEMU: apt-get install qemu-system-arm")
FASTEST = [
    pytest.param("pi4", "cortex-a72", marks=needs_qemu),
    pytest.param("pi5", "cortex-a76", marks=needs_qemu),
    pytest.param("cortex-m4", "cortex-m4", marks=needs_boards),
]
PLACES = [
    *FASTEST,
    pytest.param("portable", "cortex-a72", marks=needs_qemu),
    pytest.param("pi5", "cortex-a72", marks=needs_qemu),
    pytest.param("portable", "cortex-m4", marks=needs_boards),
    pytest.param("cortex-m7", "cortex-m7", marks=needs_boards),
]


def same(p: Program, folder: Path, machine: str, processor: str, flags: tuple[str, ...] = ("-O1",)) -> qemu.Emulated | bare.Bare:
    inputs = inputs_of(p, seed=2)
    emulated = qemu.build(c.write(p, folder, machine=machine), processor, flags=flags)
    agree(p, emulated.run(inputs), run(p, inputs))
    return emulated


@pytest.mark.parametrize(("machine", "processor"), PLACES)
def test_sizes(machine: str, processor: str, tmp_path: Path) -> None:
    same(merged(SIZES), tmp_path, machine, processor)


@needs_boards
@pytest.mark.parametrize("machine", ["cortex-m4", "cortex-m7"])
def test_weights_by_two_channels(machine: str, tmp_path: Path) -> None:
    same(merged(FORMS | LISTED | {f"{name}, one pixel": p for name, p in ONE.items()}), tmp_path, machine, machine)


@pytest.mark.parametrize(("machine", "processor"), PLACES[:2])
def test_floats(machine: str, processor: str, tmp_path: Path) -> None:
    same(merged(FLOATS), tmp_path, machine, processor)


@pytest.mark.parametrize(("machine", "processor"), PLACES)
def test_signs(machine: str, processor: str, tmp_path: Path) -> None:
    same(merged(SIGNS | {name: p for name, (p, _) in STACKS.items()}), tmp_path, machine, processor)


@pytest.mark.parametrize(("machine", "processor"), PLACES)
def test_two_scales(machine: str, processor: str, tmp_path: Path) -> None:
    same(merged(PAIRS), tmp_path, machine, processor)


@needs_qemu
@pytest.mark.parametrize(("machine", "processor"), [("pi4", "cortex-a72"), ("pi5", "cortex-a76"), ("pi5", "cortex-a72")])
def test_few_bits(machine: str, processor: str, tmp_path: Path) -> None:
    same(FEW, tmp_path, machine, processor)


@pytest.mark.parametrize(("machine", "processor"), FASTEST)
@pytest.mark.parametrize("support", SUPPORTS)
def test_every_pair(support: str, machine: str, processor: str, tmp_path: Path) -> None:
    same(all_pairs(support, integer=True), tmp_path, machine, processor)


@needs_qemu
def test_a_whole_network(tmp_path: Path) -> None:
    p = builders.lenet(integer=True, sparsity=0.8)
    found = same(p, tmp_path, "pi5", "cortex-a76", qemu.FLAGS)
    assert found.bytes > 1000
    assert found.peak_ram == found.signature.arena_bytes > 0


@needs_qemu
def test_a_program_for_a_better_processor_is_refused_by_name(tmp_path: Path) -> None:
    artifact = c.write(merged(SIZES), tmp_path, machine="pi5")
    text = artifact.main.read_text()
    assert "getauxval" in text
    artifact.main.write_text(text.replace("if (getauxval(AT_HWCAP) & (1ul << 20))", "if (getauxval(AT_HWCAP))"))  # a wrong choice
    with pytest.raises(ToolError, match="'cortex-a72' doesn't know an instruction"):
        qemu.build(artifact, "cortex-a72").run(inputs_of(merged(SIZES)))


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = c.write(builders.lenet(integer=True), tmp_path)
    with pytest.raises(RecipeError, match="processor 'z80' is unknown; choose from cortex-a72, cortex-a76, cortex-m4, cortex-m7"):
        qemu.build(artifact, "z80")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError, match=r"'qemu-aarch64' was not found; install it \(Debian: apt install qemu-user\)"):
        qemu.build(artifact, "cortex-a72")
