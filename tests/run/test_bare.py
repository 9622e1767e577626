"""C on Cortex-M in QEMU: what a run took, and how a wrong program ends; whether the integers are right is test_qemu.py's."""

import shutil
from pathlib import Path

import pytest

from karui.errors import RecipeError, ToolError
from karui.export import c
from karui.export.artifact import Artifact
from karui.program.interpreter import run
from karui.run import bare, qemu
from tests.export.many import agree, inputs_of
from tests.program import builders

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="needs QEMU: apt-get install qemu-system-arm")
FLAGS = ("-O1",)


@needs_qemu
def test_weights_in_a_file(tmp_path: Path) -> None:
    p = builders.lenet(integer=True)
    inputs = inputs_of(p, 1)
    built = bare.build(c.write(p, tmp_path, machine="cortex-m4", weights="incbin"), "cortex-m4", flags=FLAGS)
    agree(p, built.run(inputs), run(p, inputs))
    assert built.sections.rodata > 4000


@needs_qemu
def test_a_whole_network_counted(tmp_path: Path) -> None:
    """The same number each time; the layers' numbers are the whole."""
    p = builders.lenet(integer=True)
    inputs = inputs_of(p, 2)
    artifact = c.write(p, tmp_path, machine="cortex-m4")
    built = bare.build(artifact, "cortex-m4")
    found = built.count(inputs)
    agree(p, found.outputs, run(p, inputs))
    assert built.count(inputs).instructions == found.instructions
    assert found.layers == ()
    assert 64 < found.stack < 4096
    assert built.bytes > 1000
    assert built.peak_ram == built.signature.arena_bytes > 0
    layers = bare.build(artifact, "cortex-m4", layers=True).count(inputs)
    agree(p, layers.outputs, run(p, inputs))
    assert [(name, kind) for name, kind, _ in layers.layers] == [(op.name, op.kind) for op in p.ops]
    assert sum(n for *_, n in layers.layers) == pytest.approx(found.instructions[0], rel=0.01)


def stopped(tmp_path: Path, statement: str) -> Artifact:
    """A model that begins with a statement of ours."""
    artifact = c.write(builders.lenet(integer=True), tmp_path)
    head, brace, rest = artifact.main.read_text().partition("*arena)\n{")
    assert brace
    artifact.main.write_text(f"{head}{brace}\n    {statement}\n{rest}")
    return artifact


@needs_qemu
def test_instructions_are_counted_one_by_one(tmp_path: Path) -> None:
    """A loop of 100,000 turns of two instructions, and one before it."""
    inputs = inputs_of(builders.lenet(integer=True), 1)
    texts = ("", '__asm__ volatile("ldr r3, =100000\\n1: subs r3, r3, #1\\n\\tbne 1b" ::: "r3", "cc");')
    without, with_loop = (bare.build(stopped(tmp_path, text), "cortex-m4").count(inputs).instructions[0] for text in texts)
    assert abs(with_loop - without - 200_001) <= 4  # a compiler may lay out the rest a little differently


@needs_qemu
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ('__asm__ volatile("udf #0");', "doesn't know an instruction"),
        ("*(volatile int32_t *)0x90000000 = 1;", "reaches for memory that isn't there"),
        ("return 1;", "failed with status 2"),
    ],
)
def test_faults_have_names(statement: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=f"'model' on 'cortex-m4'.*{reason}"):
        bare.build(stopped(tmp_path, statement), "cortex-m4", flags=("-O1", "-Wno-unreachable-code")).run(
            inputs_of(builders.lenet(integer=True), 1)
        )


@needs_qemu
def test_a_program_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "SECONDS", 2)
    built = bare.build(stopped(tmp_path, '__asm__ volatile("b .");'), "cortex-m4")
    with pytest.raises(ToolError, match="'model' on 'cortex-m4' didn't end within 2 s"):
        built.run(inputs_of(builders.lenet(integer=True), 1))


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = c.write(builders.lenet(integer=True), tmp_path)
    with pytest.raises(RecipeError, match="processor 'z80' is unknown; choose from cortex-m4, cortex-m7"):
        bare.build(artifact, "z80")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError, match=r"'qemu-system-arm' was not found; install it \(Debian: apt install qemu-system-arm\)"):
        qemu.build(artifact, "cortex-m4")
