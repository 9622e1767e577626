"""The machines that target ``c`` has faster kernels for, by the names that users give them."""

from dataclasses import dataclass

from karui.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of processor.

    sets: the function of c_runtime that chooses, on the device, among the instruction sets that the program may use; None: portable C only.
    most_listed: the density of weights below which lists of single weights are faster than rows in full.
    """

    name: str
    about: str
    sets: str | None = None
    most_listed: float = 0.15  # docs/adr/0005; where there are no vectors, the best threshold was not measured


MACHINES = {
    each.name: each
    for each in (
        Machine(name="portable", about="any processor: plain C99"),
        Machine(name="x86-64-v3", about="PCs with AVX2", sets="k_set_v3", most_listed=0.05),
        Machine(
            name="x86-64-v4", about="PCs and servers with AVX-512 and VNNI, AVX2 where those are missing", sets="k_set_v4", most_listed=0.01
        ),
    )
}
PORTABLE = MACHINES["portable"]


def machine_of(name: str) -> Machine:
    """The machine of a name. Raises RecipeError for one that isn't known."""
    if name not in MACHINES:
        raise RecipeError(f"machine '{name}' is unknown; choose from {', '.join(MACHINES)}")
    return MACHINES[name]
