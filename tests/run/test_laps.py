"""Instructions of processors with a system in QEMU: the same number each time, and QEMU's own, of each layer."""

import shutil
import subprocess
from pathlib import Path

import pytest

from karui.errors import ToolError
from karui.export import c
from karui.program.interpreter import run
from karui.run import cross, laps, qemu
from tests.export.many import agree, inputs_of
from tests.program import builders
from tests.run.test_bare import stopped

needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs QEMU: apt-get install qemu-user")
LENET = builders.lenet(integer=True)
TURN = '__asm__ volatile("mov x9, #65536\\n1: subs x9, x9, #1\\n\\tbne 1b" ::: "x9", "cc");'


def traced(built: qemu.Emulated, fed: bytes) -> list[int]:
    """The laps by QEMU's own trace: one line an instruction."""
    emulator = built.processor.emulator
    told = subprocess.run([emulator, "-h"], capture_output=True, text=True, check=False).stdout
    singly = "-one-insn-per-tb" if "one-insn-per-tb" in told else "-singlestep"
    command = [emulator, "-cpu", built.processor.name, singly, "-d", "nochain,exec", "-D", "trace.txt", built.binary]
    subprocess.run(command, input=fed, cwd=built.binary.parent, capture_output=True, check=True)
    lines = (built.binary.parent / "trace.txt").read_text(errors="replace").splitlines()
    instructions = [line for line in lines if line.startswith("Trace")]
    return [i for i, line in enumerate(instructions) if line.split()[-1] == laps.CALL]


@needs_qemu
@pytest.mark.parametrize(("machine", "processor"), [("portable", "cortex-a72"), ("pi5", "cortex-a76")])
def test_a_whole_network_counted(machine: str, processor: str, tmp_path: Path) -> None:
    """The layers' numbers are the whole, and each is that of the trace."""
    inputs = inputs_of(LENET, 2)
    artifact = c.write(LENET, tmp_path, machine=machine)
    built, layers = (qemu.build(artifact, processor, layers=each, flags=("-O1",)) for each in (False, True))
    assert isinstance(layers, qemu.Emulated)
    found, each = built.count(inputs), layers.count(inputs)
    agree(LENET, found.outputs, run(LENET, inputs))
    agree(LENET, each.outputs, run(LENET, inputs))
    assert built.count(inputs).instructions == found.instructions and found.layers == () and len(found.instructions) == 2
    assert layers.count(inputs).layers == each.layers
    assert [(name, kind) for name, kind, _ in each.layers] == [(op.name, op.kind) for op in LENET.ops]
    assert sum(n for *_, n in each.layers) == pytest.approx(found.instructions[0], rel=0.01)
    places = traced(layers, cross.fed(layers.signature, [a[:1] for a in inputs]))
    assert laps.per_layer(places, layers.layers) == each.layers
    assert places[-1] - places[1] - (places[1] - places[0]) == each.instructions[0]


@needs_qemu
def test_instructions_are_counted_one_by_one(tmp_path: Path) -> None:
    """A loop of 65,536 turns of two instructions, and what loads its number."""
    inputs = inputs_of(LENET, 1)
    without, turns = (qemu.build(stopped(tmp_path, text), "cortex-a72").count(inputs).instructions[0] for text in ("", TURN))
    assert abs(turns - without - 131_073) <= 4  # a compiler may lay out the rest a little differently


@needs_qemu
def test_weights_in_a_file(tmp_path: Path) -> None:
    artifact = c.write(LENET, tmp_path, machine="pi4", weights="incbin")
    inputs = inputs_of(LENET, 1)
    found = qemu.build(artifact, "cortex-a72", layers=True, flags=("-O1",)).count(inputs)
    agree(LENET, found.outputs, run(LENET, inputs))
    assert len(found.layers) == len(LENET.ops)


@needs_qemu
def test_what_can_not_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that refuses says so; where it is QEMU or the compiler that lacks something, the message says what to install."""
    inputs = inputs_of(LENET, 1)
    refusing = qemu.build(stopped(tmp_path / "r", "return 1;"), "cortex-a72", flags=("-O1", "-Wno-unreachable-code"))
    with pytest.raises(ToolError, match="^'model' on 'cortex-a72' failed with status 2"):
        refusing.count(inputs)
    built = qemu.build(c.write(LENET, tmp_path / "m"), "cortex-a72", flags=("-O1",))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ToolError, match="C compiler 'no-such-compiler' was not found; install one"):
        built.count(inputs)
    monkeypatch.setattr(laps, "plugin", lambda folder: folder / "nothing.so")
    with pytest.raises(ToolError, match=r"'qemu-aarch64' doesn't take the plugin.*install a QEMU with plugins.*apt install qemu-user"):
        built.count(inputs)
