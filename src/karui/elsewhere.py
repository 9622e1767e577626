"""The proof in other places: a program in C on this machine, on emulated processors and on devices, beside the interpreter's answers."""

from pathlib import Path

from karui.errors import KaruiError
from karui.evidence import hold, rounds_floats
from karui.export import c
from karui.export.artifact import Artifact
from karui.program import interpreter
from karui.program.program import Program
from karui.report.record import Placed
from karui.run.places import Place
from karui.verify.cost import random_inputs
from karui.workspace import replacing_folder

SAMPLES = 4  # of noise


def placed(program: Program, form: str, place: Place, folder: Path) -> Placed:
    """What a program comes to at a place. form: what it is called in tables. A place that isn't there, or can't take it, says why."""

    def write(machine: str) -> Artifact:
        with replacing_folder(folder) as fresh:
            artifact = c.write(program, fresh, machine=machine)
        return artifact.moved(fresh, folder)

    inputs = random_inputs(program, SAMPLES)
    try:
        told = place.tell(write, inputs)
    except KaruiError as error:
        return Placed(place=place.name, form=form, note=str(error))
    parity = hold(place.name, True, told.outputs, interpreter.run(program, inputs), promised=not rounds_floats(program))
    found = Placed(place=place.name, form=form, about=told.about, machine=told.machine, bytes=told.bytes, arena=told.arena, parity=parity)
    if told.timing is not None:
        times = {"median_ms": told.timing.median_ms, "p10_ms": told.timing.p10, "p90_ms": told.timing.p90}
        found = found.model_copy(update=times)
    return found.model_copy(update={"instructions": told.instructions})
