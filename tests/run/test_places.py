"""Every place by its name: what C is written for there, and that it answers as the interpreter does."""

import shutil
from pathlib import Path

import pytest

from karui.errors import RecipeError
from karui.export import c
from karui.export.machines import MACHINES
from karui.program.interpreter import run
from karui.run import laps, ssh
from karui.run.places import PLACES, SAME, Told, place_of
from tests.export.many import agree, inputs_of
from tests.program import builders

needs_user = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs QEMU: apt-get install qemu-user")
LENET = builders.lenet(integer=True, sparsity=0.8)


def told(name: str, folder: Path, samples: int = 2) -> Told:
    inputs = inputs_of(LENET, samples)
    found = place_of(name).tell(lambda machine: c.write(LENET, folder, machine=machine), inputs)
    agree(LENET, found.outputs, run(LENET, inputs))
    return found


def test_this_machine(tmp_path: Path) -> None:
    found = told("host", tmp_path)
    assert found.timing and found.timing.median_ms > 0 and found.instructions is None and found.about == "this machine"
    assert found.machine in MACHINES and found.bytes > 1000 and found.arena > 0


@needs_user
@pytest.mark.parametrize("name", ["pi4", "cortex-a76"])
def test_emulated(name: str, tmp_path: Path) -> None:
    found = told(name, tmp_path, 1)
    assert (
        found.timing is None
        and found.machine == SAME.get(name, name)
        and found.about.endswith("in QEMU, instructions of one sample counted")
    )
    assert found.instructions and found.instructions > 10_000


@needs_user
def test_without_plugins_answers_are_told_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laps, "plugin", lambda folder: folder / "nothing.so")
    found = told("pi4", tmp_path, 1)
    assert found.instructions is None and "doesn't take the plugin that counts instructions" in found.about


@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="needs QEMU: apt-get install qemu-system-arm")
def test_counted(tmp_path: Path) -> None:
    found = told("cortex-m4", tmp_path, 1)
    assert found.timing is None and found.machine == "cortex-m4" and found.instructions and found.instructions > 10_000


def test_a_device_is_written_for_by_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of ``ssh``: the artefact is for the machine of the device's own processor."""
    asked: list[object] = []
    device = ssh.Device(address="ssh://pi@host", arguments=("--", "host"), kind=ssh.KINDS["aarch64"], about="Raspberry Pi 5")
    monkeypatch.setattr(ssh, "look", lambda address: asked.append(address) or device)

    def write(machine: str) -> c.Artifact:
        asked.append(machine)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        place_of("ssh://pi@host").tell(write, inputs_of(LENET, 1))
    assert asked == ["ssh://pi@host", "pi5"]


@pytest.mark.parametrize("machine", sorted({kind.machine for kind in ssh.KINDS.values()}))
def test_every_kind_of_device_has_a_machine(machine: str) -> None:
    assert machine in MACHINES


@pytest.mark.parametrize(("name", "message"), [("z80", "place 'z80' is unknown; choose"), ("ssh://a b", "is no address of a device")])
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        place_of(name)


def test_names_are_said_once() -> None:
    assert not set(SAME) & set(PLACES) and set(SAME.values()) <= set(PLACES)
    assert all(isinstance(place.about, str) and place.name == name for name, place in PLACES.items())
