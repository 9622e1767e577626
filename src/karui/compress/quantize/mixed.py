"""Bits layer by layer: which layers bear few is measured, and an integer program spends the bytes where they are worth most."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from karui.compress.layerwise import walk
from karui.compress.quantize.points import FAKE_QUANTIZE, channel_axis
from karui.compress.quantize.ranges import best_share, channel_scale
from karui.compress.quantize.rounding import Rounding, nearest, round_site, roundable
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.network import Network


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a layer's weights cost at each width.

    bytes: width → bytes. harm: width → how much the network's answers change when this layer alone has that width.
    """

    bytes: Mapping[int, float]
    harm: Mapping[int, float]


def measured(
    network: Network,
    layers: Mapping[str, list[fx.Node]],
    widths: Sequence[int],
    batches: Sequence[Batch],
    rule: Rounding = nearest,
    *,
    bias_correction: bool = False,
) -> dict[str, Measured]:
    """Each layer at each width, all others as they are: the network's weights and mode are as they were afterwards.

    rule, bias_correction: the rounding that is to follow: GPTQ makes some layers ten times less sensitive, and others hardly at all. What
    it repairs on the samples that it sees is more than what it repairs on others: it is shown every other batch, and judged by the rest.
    Harm is ``KL(softmax of the answers now ‖ with that layer's weights on its grid)``, the mean over samples and outputs; of outputs that
    aren't scores of classes ([N, C] with C ≥ 2) it is the squared change over the square.
    """
    training, alone = network.training, roundable(dict(layers))
    walked = [] if rule is nearest and not bias_correction else alone
    shown, judging = (batches[::2], batches[1::2] or batches) if walked else ([], batches)
    axes = {name: channel_axis(nodes) or 0 for name, nodes in layers.items()}
    state = {name: tensor.clone() for name, tensor in network.state().items()}
    harms: dict[str, dict[int, float]] = {name: {} for name in layers}
    network.eval()
    try:
        before = _answers(network, judging)

        def judge(name: str, bits: int) -> None:
            harms[name][bits] = _distance(before, _answers(network, judging))
            network.load_state(state)

        for site in walk(network, shown, walked) if walked else ():
            name, weight = site.parameter, edit.value_of(network, site.parameter).clone()
            for bits in widths:
                grid = (scale_of(weight, axes[name], bits), top_at(bits))
                round_site(network, site, site, grid, rule, bias_correction=bias_correction)
                judge(name, bits)
        for name in layers.keys() - set(walked):
            weight = edit.value_of(network, name).clone()
            for bits in widths:
                network.get(name).detach().copy_(rounded(weight, axes[name], bits))
                judge(name, bits)
    finally:
        network.load_state(state)
        network.train(training)
    sizes = {name: {bits: _size(network.get(name), axes[name], bits) for bits in widths} for name in layers}
    return {name: Measured(bytes=sizes[name], harm=harms[name]) for name in layers}


def _size(weight: Tensor, axis: int, bits: int) -> int:
    """Packed codes, and a scale for each channel."""
    return math.ceil(weight.numel() * bits / 8) + 4 * weight.shape[axis]


def top_at(bits: int) -> int:
    """The greatest code; the least is its negative."""
    return int(2 ** (bits - 1) - 1)


def scale_of(weight: Tensor, axis: int, bits: int) -> Tensor:
    """The range of each channel that leaves the least squared error, as a scale: ``[O]``."""
    scale = channel_scale(weight, axis, top_at(bits))
    return scale * best_share(weight, scale, axis, top_at(bits))


def rounded(weight: Tensor, axis: int, bits: int) -> Tensor:
    """To the nearest of the codes."""
    top, scale = top_at(bits), scale_of(weight, axis, bits)
    return FAKE_QUANTIZE(weight, scale, torch.zeros_like(scale), -top, top, axis)


def _answers(network: Network, batches: Sequence[Batch]) -> list[Tensor]:
    with torch.no_grad():
        each = [network(*batch.inputs) for batch in batches]
    return [torch.cat(outputs).float() for outputs in zip(*each, strict=True)]


def _distance(before: list[Tensor], after: list[Tensor]) -> float:
    return float(np.mean([_of_output(a, b) for a, b in zip(before, after, strict=True)]))


def _of_output(before: Tensor, after: Tensor) -> float:
    if before.dim() == 2 and before.shape[1] >= 2:
        sure, found = before.double().log_softmax(1), after.double().log_softmax(1)  # of answers that are sure, floats leave but noise
        return max(0.0, float(F.kl_div(found, sure, reduction="batchmean", log_target=True)))
    return float((after - before).square().sum() / before.square().sum().clamp_min(1e-12))


def spent(layers: Mapping[str, Measured], share: float) -> dict[str, int]:
    """The width of each layer that does the least harm in all within ``share`` of the bytes that all take at their greatest width.

    One width a layer, harms added up: a multiple-choice knapsack, solved exactly by HiGHS (scipy.optimize.milp). Raises RecipeError where
    the narrowest widths are too large.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    pairs = [(name, bits) for name, each in layers.items() for bits in each.bytes]
    sizes = np.array([layers[name].bytes[bits] for name, bits in pairs])
    harm = np.array([layers[name].harm[bits] for name, bits in pairs])
    one = np.array([[float(name == other) for other, _ in pairs] for name in layers])
    whole = sum(max(each.bytes.values()) for each in layers.values())
    constraints = [LinearConstraint(one, 1, 1), LinearConstraint(sizes[None], 0, share * whole * (1 + 1e-9))]
    found = milp(harm / max(harm.max(initial=0.0), 1e-30), integrality=np.ones(len(pairs)), bounds=Bounds(0, 1), constraints=constraints)
    if found.x is None:
        least = sum(min(each.bytes.values()) for each in layers.values()) / whole
        raise RecipeError(f"bytes: {share:g} can't be met: with the fewest bits everywhere weights take {least:.3f}; give that or more")
    return {name: bits for (name, bits), taken in zip(pairs, found.x, strict=True) if taken > 0.5}


def frontier(layers: Mapping[str, Measured], points: int = 12) -> list[tuple[float, float]]:
    """``cost`` of the best choices, from the narrowest to the widest."""
    whole = sum(max(each.bytes.values()) for each in layers.values())
    least = sum(min(each.bytes.values()) for each in layers.values())
    return [cost(layers, spent(layers, float(share))) for share in np.linspace(least / whole, 1.0, points)]


def cost(layers: Mapping[str, Measured], widths: Mapping[str, int]) -> tuple[float, float]:
    """(share of the bytes at the greatest width, harm added up) of one choice."""
    whole = sum(max(each.bytes.values()) for each in layers.values())
    size = sum(layers[name].bytes[bits] for name, bits in widths.items())
    return size / whole, sum(layers[name].harm[bits] for name, bits in widths.items())
