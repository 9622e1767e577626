"""How the shipped weights were trained: ``python -m karui.zoo.train lenet5 -o lenet5.safetensors``.

The settings in ``RECIPES`` are the whole recipe; the data is the full data set of the network's entry, the seed 0. Training goes on where
it was stopped when the same command is given again (its checkpoint lies beside the output).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import torch
import typer

from karui import datasets
from karui.errors import RecipeError
from karui.finetune.checkpoint import Checkpoints
from karui.finetune.evaluate import score
from karui.finetune.loop import Training, finetune
from karui.finetune.progress import RichProgress
from karui.graph.doors.torch import capture
from karui.workspace import save_arrays
from karui.zoo import catalogue

RECIPES: Mapping[str, Training] = MappingProxyType(
    {
        "lenet5": Training(epochs=20, lr=0.05, weight_decay=5e-4, schedule="onecycle", warmup=0.2),
        "resnet8": Training(epochs=30, lr=0.1, weight_decay=5e-4, schedule="onecycle", warmup=0.2, channels_last=True),
        "resnet20_cifar10": Training(epochs=30, lr=0.1, weight_decay=5e-4, schedule="onecycle", warmup=0.2, channels_last=True),
        "resnet20": Training(epochs=14, lr=0.1, weight_decay=5e-4, schedule="onecycle", warmup=0.2),
    }
)


def train(name: str, out: Path, *, threads: int = 0) -> None:
    """Train the network ``name`` of the zoo by its recipe and write its weights, with the recipe and the scores in the file's metadata."""
    if name not in RECIPES:
        raise RecipeError(f"zoo: '{name}' has no training recipe; choose one of {', '.join(RECIPES)}")
    if threads:
        torch.set_num_threads(threads)
    entry, training = catalogue.entry(name), RECIPES[name]
    assert entry.data is not None
    data = datasets.load(entry.data)
    torch.manual_seed(0)
    network = capture(catalogue.build(name), torch.zeros(2, *entry.input), name=name)
    checkpoint = Checkpoints(out.with_suffix(".checkpoint"), seconds=60, identity=f"zoo {name}")
    with RichProgress() as progress:
        finetune(network, data, training, seed=0, label=name, checkpoint=checkpoint, progress=progress)
    network.eval()
    scores = {part: score(network, getattr(data, part), data.metric) for part in ("validation", "test")}
    arrays = {key: tensor.detach().numpy() for key, tensor in network.state().items() if not key.endswith("num_batches_tracked")}
    told = {"network": name, "data": data.name, "seed": "0", "training": repr(training), "scores": json.dumps(scores)}
    save_arrays(out, arrays, told)
    print(f"{name}: validation {scores['validation']:.2f}, test {scores['test']:.2f} {data.metric.unit} → {out}")


def _command(name: str, out: Annotated[Path, typer.Option("-o", "--out")], threads: int = 0) -> None:
    train(name, out, threads=threads)


if __name__ == "__main__":
    typer.run(_command)
