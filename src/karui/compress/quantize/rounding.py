"""Which way each weight is rounded: layer by layer, from calibration samples that need no targets.

A rounding is a plain function ``(layer) → codes``: whole numbers of steps, of ``layer.weight``'s shape. Each layer is looked at with the
inputs that the rounded layers before it give, and is to give what the float network's layer gave on its own.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, fx

from karui.compress.layerwise import LAYERS, Site, walk
from karui.compress.quantize.adaround import adaround
from karui.compress.quantize.gptq import gptq
from karui.compress.quantize.layer import Layer
from karui.compress.select import rule_named
from karui.compress.statistics import Behind, moments
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph.network import Network

Rounding = Callable[[Layer], Tensor]
RoundingName = Literal["nearest", "gptq", "adaround"]


def nearest(layer: Layer) -> Tensor:
    """Each weight to the code that is nearest."""
    return layer.whole(layer.weight / layer.step)


RULES: dict[RoundingName, Rounding] = {"nearest": nearest, "gptq": gptq, "adaround": adaround}


def rounding_of(rule: RoundingName | Rounding) -> Rounding:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    return rule_named(rule, RULES, "rounding", kind="a rounding", form="(layer) → codes")


Grid = tuple[Tensor, int]
"""A weight's scales ``[O]`` and its greatest code."""


def round_layers(
    network: Network,
    before: Network,
    batches: Sequence[Batch],
    grids: dict[str, Grid],
    rule: Rounding,
    *,
    bias_correction: bool,
) -> None:
    """Put each weight on its grid, in the graph's order. network: quantized, in evaluation mode. before: the same in floats.

    bias_correction: the bias behind a layer, or the running mean of its batch-norm, takes over what the mean of its outputs lost (Nagel et
    al. 2019, "Data-free quantization through weight equalization and bias correction", §4.2, with samples).
    Raises RecipeError where a rule gives something else than codes.
    """
    for now, was in zip(walk(network, batches, grids), walk(before, batches, grids), strict=True):
        round_site(network, now, was, grids[now.parameter], rule, bias_correction=bias_correction)


def round_site(network: Network, now: Site, was: Site, grid: Grid, rule: Rounding, *, bias_correction: bool) -> None:
    """Put one weight on its grid. now, was: the layer in ``network``, and in floats, where both may be the same."""
    behind = Behind.of(network, now.node, variance=False) if bias_correction else None
    old = moments(was) if behind else None
    layer = _layer(now, was, grid, centred=behind is not None)
    codes = _checked(rule(layer), layer)
    parameter = network.get(now.parameter).detach()
    parameter.copy_((codes * layer.step).reshape(parameter.shape))
    if behind and old:
        behind.follow(network, old, moments(now))


def roundable(layers: dict[str, list[fx.Node]]) -> list[str]:
    """The weights that one layer has for itself, of a kind that can be looked at alone."""
    return [name for name, nodes in layers.items() if len(nodes) == 1 and str(nodes[0].target) in LAYERS]


def _layer(now: Site, was: Site, grid: Grid, *, centred: bool) -> Layer:
    weight = was.weight()
    rows = weight.reshape(now.groups, weight.shape[0] // now.groups, -1)
    step = grid[0].detach().reshape(*rows.shape[:2], 1)
    return Layer(name=now.parameter, weight=rows, step=step, top=grid[1], now=now, was=was, centred=centred)


def _checked(codes: Tensor, layer: Layer) -> Tensor:
    """Raises RecipeError unless they are whole numbers that the grid has."""
    if tuple(codes.shape) != tuple(layer.weight.shape):
        raise RecipeError(
            f"rounding: gave shape {list(codes.shape)} for '{layer.name}'; give a code for each of {list(layer.weight.shape)}"
        )
    if not bool((codes == codes.round()).all()) or float(codes.abs().max()) > layer.top:
        raise RecipeError(f"rounding: gave something else than whole numbers in −{layer.top} … {layer.top} for '{layer.name}'")
    return codes
