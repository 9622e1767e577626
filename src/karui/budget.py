"""Budget: what the compressed network may cost. Cost: what one does cost."""

from dataclasses import dataclass, fields
from math import isfinite

from karui.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a compressed network costs; None means not measured.

    bytes: the artefact (text + read-only data of the compiled C, or the file). peak_ram: bytes of the arena.
    latency_ms: median of one sample. macs: multiply–accumulates of one sample.
    """

    bytes: int | None = None
    peak_ram: int | None = None
    latency_ms: float | None = None
    macs: int | None = None
    params: int | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits, each optional. ``drop`` is the greatest loss of the metric in its own unit (points, for an accuracy in per cent).

    bytes: of the artefact for ``target``. peak_ram: bytes. latency_ms: median on this machine, one sample, one thread.
    target: where they are measured; a file of the room ``run`` has to know it.
    """

    drop: float = 0.5
    bytes: int | None = None
    peak_ram: int | None = None
    latency_ms: float | None = None
    target: str = "c"

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits that are set and are measured on the target."""
        return tuple(name for name in ("bytes", "peak_ram", "latency_ms") if getattr(self, name) is not None)

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.name == "target":
                if not isinstance(value, str):
                    raise RecipeError(f"budget: target = {value!r} is no text; give a target's name, as 'c'")
            elif value is None and limit.name != "drop":
                continue
            elif isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise RecipeError(f"budget: {limit.name} = {value!r} is no finite number; give a limit as a number, or leave it out")
            elif value < 0:
                raise RecipeError(f"budget: {limit.name} = {value} is negative; give a limit of 0 or more, or leave it out")
