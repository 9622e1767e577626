"""What training went through, epoch by epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass. step: steps made at its end. loss: the mean training loss. score: the metric on validation. lr: at its last step."""

    epoch: int
    step: int
    loss: float
    score: float
    lr: float


@dataclass(frozen=True, kw_only=True)
class History:
    """The epochs of one phase. metric, unit: what the scores are. stopped: early, because validation got no better."""

    metric: str
    unit: str
    epochs: tuple[Epoch, ...] = ()
    stopped: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"metric": self.metric, "unit": self.unit, "stopped": self.stopped, "epochs": [asdict(e) for e in self.epochs]}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``."""
        epochs = tuple(Epoch(**e) for e in value["epochs"])
        return cls(metric=value["metric"], unit=value["unit"], epochs=epochs, stopped=value["stopped"])
