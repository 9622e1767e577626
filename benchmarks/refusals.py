"""Bad input: each mistake gets one line that names it, and the network stays as it was."""

from collections.abc import Callable, Iterator, Mapping

import torch

from benchmarks.harness import Row
from karui.compress.technique import Technique
from karui.data import Data
from karui.errors import KaruiError
from karui.finetune.attach import attach_all
from karui.graph.network import Network

Cases = Mapping[str, tuple[Callable[[Network], object], str]]  # what is wrong → a call that has to refuse it, and the word it has to say


def refused(line: str, network: Network, cases: Cases) -> Iterator[Row]:
    """Each mistake, the message it gets, whether that names it, and whether the network is whole."""
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    for label, (call, word) in cases.items():
        told = _told(lambda call=call: call(network))  # type: ignore[misc]
        now = network.state()
        whole = now.keys() == before.keys() and all(torch.equal(tensor, before[name]) for name, tensor in now.items())
        ok = word in told and "\n" not in told and whole
        yield Row(case=f"{line} {label}", figure="message", value=told.replace("|", "/"), goal=f"names '{word}', network untouched", ok=ok)


def attached(network: Network, technique: Technique, samples: int = 8) -> object:
    """The technique put on the network, after training, with pictures of nothing."""
    shape = (samples, *network.inputs[0].shape)
    part = (torch.zeros(shape), torch.zeros(samples, dtype=torch.int64))
    return attach_all(network, [technique], Data.of(train=part, validation=part, test=part), teacher=network, steps=0, seed=0)


def _told(call: Callable[[], object]) -> str:
    try:
        call()
    except KaruiError as error:
        return str(error)
    return "nothing was refused"
