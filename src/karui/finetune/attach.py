"""Putting techniques on a network: the part that phases and a person's own loop share."""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from karui.analyse.cost import measure
from karui.compress.technique import Attached, Context, Technique
from karui.data import Data
from karui.finetune.evaluate import device_of
from karui.finetune.progress import SILENT, Progress
from karui.finetune.schedule import derive
from karui.graph.network import Network


@contextlib.contextmanager
def own_random_numbers(network: Network) -> Iterator[None]:
    """Leave the caller's random numbers as they were, whatever the block draws."""
    device = device_of(network)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def attach_all(
    network: Network,
    techniques: Sequence[Technique],
    data: Data,
    *,
    teacher: Network,
    steps: int,
    seed: int,
    progress: Progress = SILENT,
) -> list[Attached]:
    """Attach each technique in turn to ``network``, in evaluation mode, each with a seed of its own; the same way each time."""
    network.eval()
    shown = data.without_test()
    attached = []
    for place, technique in enumerate(techniques):
        own = derive(seed, "attach", place)
        torch.manual_seed(own)
        context = Context(data=shown, teacher=teacher, steps=steps, seed=own, cost=measure, report=progress.note)
        attached.append(technique.attach(network, context))
    return attached
