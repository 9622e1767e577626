"""The ladder: the few recipes that are tried when the user gives only a budget, from the gentlest rung to the hardest.

Each family (channels, sparsity) is climbed in order; a rung whose gentler sister already lost too much accuracy is not tried. Every rung
ends in int8 and is distilled from the original network, because both cost little and help nearly always (Mishra & Marr 2018, "Apprentice").
"""

from dataclasses import dataclass

from karui.compress.distill.hinton import Distill
from karui.compress.prune.channels import PruneChannels
from karui.compress.prune.weights import Prune
from karui.compress.quantize.int8 import Quantize
from karui.compress.technique import Technique
from karui.data import Data
from karui.finetune.loop import Training
from karui.finetune.phases import Phase

LONG_EPOCHS, LONG_STEPS, MOST_EPOCHS = 4, 2500, 40  # a phase that has to make up for lost weights
SHORT = 0.4  # a quantizing phase has less to repair


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One recipe to try. family: rungs of one family get harder; "" stands alone. why: a line for the report."""

    name: str
    family: str
    phases: tuple[Phase, ...]
    why: str


def ladder(data: Data, effort: float = 1.0) -> tuple[Rung, ...]:
    """The rungs for this data. effort: a factor on the training."""

    def train(techniques: tuple[Technique, ...], share: float, lr: float) -> Phase:
        training = Training(
            steps=max(1, round(effort * share * long_steps(data))), optimizer="adamw", lr=lr, weight_decay=1e-4, warmup=0.05
        )
        return Phase(techniques=(*techniques, Distill()), training=training)

    def quantized() -> Phase:
        return train((Quantize(),), SHORT, 1e-4)

    rungs = [Rung(name="int8", family="", phases=(quantized(),), why="8-bit integers: a quarter of the bytes at next to no loss")]
    for percent in (30, 50):
        prune = train((PruneChannels(pruning_ratio=percent / 100),), 1.0, 5e-4)
        why = f"{percent} % fewer channels: less arithmetic and less memory on any device"
        rungs.append(Rung(name=f"channels-{percent}-int8", family="channels", phases=(prune, quantized()), why=why))
    for percent in (80, 90, 95):
        prune = train((Prune(sparsity=percent / 100, schedule="cubic"),), 1.0, 5e-4)
        why = f"{percent} % of the weights gone, the rest stored with their places: the fewest bytes"
        rungs.append(Rung(name=f"sparse-{percent}-int8", family="sparse", phases=(prune, quantized()), why=why))
    return tuple(rungs)


def long_steps(data: Data) -> int:
    """Training steps of a long phase: four epochs, more on small data, never over forty epochs."""
    epoch = data.train.steps(Training().batch_size)
    return min(max(LONG_EPOCHS * epoch, LONG_STEPS), MOST_EPOCHS * epoch)
