"""The places where target ``c`` can be tried, by the names that users give them: this machine, processors in QEMU, devices behind ssh.

A place is one entry: its name, and the function that brings a program there, runs samples and tells what there is to tell.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from karui.errors import RecipeError, ToolError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import host, qemu, ssh
from karui.run.measure import Timing, latency

Write = Callable[[str], Artifact]
"""machine → the program as target ``c`` writes it for that machine."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a program does at a place.

    machine: what C was written for.   about: what the place says of itself.   bytes: text and read-only data.   arena: bytes.   outputs:
    ``[N, *shape]`` each.   timing: where the time there is a device's.   instructions: of one sample, where they are counted.
    """

    machine: str
    about: str
    bytes: int
    arena: int
    outputs: list[Array]
    timing: Timing | None = None
    instructions: int | None = None


Tell = Callable[[Write, Sequence[Array]], Told]


@dataclass(frozen=True, kw_only=True)
class Place:
    """tell: given what writes the artefact, and N samples. Raises ToolError where the place isn't to be had."""

    name: str
    about: str
    tell: Tell


def _here(write: Write, inputs: Sequence[Array]) -> Told:
    kind = ssh.KINDS.get(platform.machine())
    machine = kind.machine if kind else "portable"
    library = host.build(write(machine))
    outputs, timing = library.run(inputs), latency(library.call(inputs))
    return Told(machine=machine, about="this machine", bytes=library.bytes, arena=library.peak_ram, outputs=outputs, timing=timing)


def _emulated(processor: str, machine: str, write: Write, inputs: Sequence[Array]) -> Told:
    made = qemu.build(write(machine), processor)
    try:
        found = made.count(inputs)
        outputs, counts, said = found.outputs, sorted(found.instructions), "instructions of one sample counted"
    except ToolError as error:
        outputs, counts, said = made.run(inputs), [], str(error)  # if it is the model that refuses, it does so again
    about = f"{processor} in QEMU, {said}"
    middle = counts[len(counts) // 2] if counts else None
    return Told(machine=machine, about=about, bytes=made.bytes, arena=made.peak_ram, outputs=outputs, instructions=middle)


def _behind_ssh(address: str, write: Write, inputs: Sequence[Array]) -> Told:
    device = ssh.look(address)
    machine = device.kind.machine
    with ssh.build(write(machine), device) as made:
        outputs, timing = made.run(inputs), made.latency(inputs)
    return Told(machine=machine, about=device.about, bytes=made.bytes, arena=made.peak_ram, outputs=outputs, timing=timing)


PLACES = {
    each.name: each
    for each in (
        Place(name="host", about="this machine, with the fastest kernels that it may have", tell=_here),
        Place(
            name="pi4", about="Raspberry Pi 4: Cortex-A72 in QEMU, which counts instructions", tell=partial(_emulated, "cortex-a72", "pi4")
        ),
        Place(
            name="pi5", about="Raspberry Pi 5: Cortex-A76 in QEMU, which counts instructions", tell=partial(_emulated, "cortex-a76", "pi5")
        ),
        Place(name="cortex-m4", about="Cortex-M4 in QEMU, which counts instructions", tell=partial(_emulated, "cortex-m4", "cortex-m4")),
        Place(name="cortex-m7", about="Cortex-M7 in QEMU, which counts instructions", tell=partial(_emulated, "cortex-m7", "cortex-m7")),
    )
}
SAME = {"cortex-a72": "pi4", "cortex-a76": "pi5"}  # what else they are called


def place_of(name: str) -> Place:
    """The place of a name, or behind ``ssh://[user@]host[:port]``. Raises RecipeError for one that isn't known; nothing is started."""
    if name.startswith("ssh:"):
        ssh.arguments_of(name)
        return Place(name=name, about="a device", tell=partial(_behind_ssh, name))
    known = SAME.get(name, name)
    if known not in PLACES:
        raise RecipeError(f"place '{name}' is unknown; choose from {', '.join(PLACES)}, or a device: ssh://user@host")
    return PLACES[known]
