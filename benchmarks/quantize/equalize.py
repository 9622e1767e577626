"""Line 5b: why karui has no cross-layer equalization: where each output channel has a scale of its own, it brings nothing.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", §4.1: for a layer, its batch-norm, a ReLU and
the next layer, channel i is divided by ``s_i = sqrt(r1_i / r2_i)`` in the first and multiplied by it in the next, where r1 and r2 are the
greatest weights of channel i in both. The float network stays the same; the ranges of a layer's channels come nearer to each other.
"""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.harness import Row, skipped
from benchmarks.subjects import agreement, kl_divergence, outputs_of
from karui import datasets, zoo
from karui.compress.quantize.int8 import Quantize
from karui.data import Data
from karui.errors import DataError
from karui.finetune.phases import Phase, run_phases
from karui.graph.network import Network

NETWORKS = ("resnet8", "resnet20_cifar10")
LEAST = {"observer": "mse", "weight_range": "mse"}
SETTINGS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int4 weights": {"bits": 4, **LEAST},
    "int4 weights, GPTQ": {"bits": 4, "rounding": "gptq", **LEAST},
    "int4 weights and activations": {"bits": 4, "activation_bits": 4, **LEAST},
}


def rows(quick: bool) -> Iterator[Row]:
    """Divergence and agreement on validation, as the network is and equalized."""
    try:
        data = datasets.load("cifar-10")
    except DataError as reason:
        yield skipped("5b cifar-10", str(reason))
        return
    for name in NETWORKS:
        network = zoo.load(name).eval()
        yield from compared(f"5b {name}", network, equalized(network), data)


def compared(case: str, network: Network, equal: Network, data: Data) -> Iterator[Row]:
    """Both networks at each of ``SETTINGS``, against the float network."""
    far = outputs_of(network, data.validation)
    for label, settings in SETTINGS.items():
        for which, start in (("as it is", network), ("equalized", equal)):
            made = run_phases(start, data, [Phase(techniques=(Quantize(**settings),))]).network
            outputs = outputs_of(made, data.validation)
            kl, same = kl_divergence(outputs, far), 100 * float(agreement(outputs, far).mean())
            yield Row(case=f"{case}, {label}, {which}", figure="KL(float ‖ it), validation", value=float(kl.mean()), unit="nat")
            yield Row(case=f"{case}, {label}, {which}", figure="agreement with float, validation", value=same, unit="%")


@torch.no_grad()
def equalized(network: Network) -> Network:
    """A residual network of the zoo with the two layers of each block equalized."""
    made = network.copy()
    for later in [name for name in made.parameters() if name.endswith("conv2.weight")]:
        block = later.removesuffix("conv2.weight")
        gain, shift = made.get(f"{block}bn1.weight"), made.get(f"{block}bn1.bias")
        folded = gain / (made.get(f"{block}bn1.running_var") + 1e-5).sqrt()
        first = made.get(f"{block}conv1.weight").abs().amax((1, 2, 3)) * folded.abs()
        second = made.get(later).abs().amax((0, 2, 3))
        scale = (first.clamp_min(1e-8) / second.clamp_min(1e-8)).sqrt()
        gain.div_(scale)
        shift.div_(scale)
        made.get(later).mul_(scale.reshape(1, -1, 1, 1))
    return made
