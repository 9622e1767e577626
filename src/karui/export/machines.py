"""The machines that target ``c`` has faster kernels for, by the names that users give them."""

from dataclasses import dataclass

from karui.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of processor.

    sets: the function of c_runtime that chooses, on the device, among the instruction sets that the program may use; None: portable C only.
    unsign: 128 where its instructions want inputs without a sign, else 0. most_code: the largest |weight| that they bear.
    signs: the function that chooses among those for weights of one bit. spread: bytes in which eight bits of an activation lie for them.
    paired: whether two blocks of such weights lie side by side. few: the same as signs for weights of few bits over bytes.
    pools: how names of pools of codes end that choose by themselves what the processor may do.
    reals: sums become codes in float32 where that is proved (c_requant.py, c_nearest.py).
    floats: the function that chooses among those for layers of floats; None: portable C.
    duos: layers go by two channels and three pixels (c_runtime/duo.c), chosen by the compiler; memory is scarce.
    """

    name: str
    about: str
    sets: str | None = None
    unsign: int = 0
    most_code: int = 128
    signs: str = "k_signs_plain"
    spread: int = 1
    paired: bool = False
    pools: str = ""
    reals: bool = False
    few: str = ""
    floats: str | None = None
    duos: bool = False


MACHINES = {
    each.name: each
    for each in (
        Machine(name="portable", about="any processor: plain C99"),
        Machine(
            name="x86-64-v3",
            about="PCs with AVX2",
            sets="k_set_v3",
            unsign=128,
            signs="k_signs_v3",
            spread=2,
            floats="k_floats_v3",
            few="k_few_v3",
        ),
        Machine(
            name="x86-64-v4",
            about="AVX-512 with VNNI, AVX2 where those are missing",
            sets="k_set_v4",
            unsign=128,
            signs="k_signs_v4",
            paired=True,
            pools="_v4",
            reals=True,
            few="k_few_v4",
            floats="k_floats_v4",
        ),
        Machine(
            name="pi4",
            about="Raspberry Pi 3 and 4, every 64-bit ARM: NEON",
            sets="k_set_neon",
            most_code=127,
            signs="k_signs_neon",
            few="k_few_neon",
            floats="k_floats_neon",
        ),
        Machine(
            name="pi5",
            about="Raspberry Pi 5: dot products, NEON without them",
            sets="k_set_dot",
            most_code=127,
            signs="k_signs_neon",
            few="k_few_dot",
            floats="k_floats_neon",
        ),
        Machine(
            name="cortex-m4",
            about="microcontrollers with DSP instructions: Cortex-M4, M33",
            most_code=127,
            duos=True,
            signs="k_signs_word",
            spread=2,
        ),
        Machine(name="cortex-m7", about="the same for Cortex-M7", most_code=127, duos=True, signs="k_signs_word", spread=2),
    )
}
PORTABLE = MACHINES["portable"]


def machine_of(name: str) -> Machine:
    """The machine of a name. Raises RecipeError for one that isn't known."""
    if name not in MACHINES:
        raise RecipeError(f"machine '{name}' is unknown; choose from {', '.join(MACHINES)}")
    return MACHINES[name]
