"""Which way each weight is rounded: layer by layer, from calibration samples that need no targets.

A rounding is a plain function ``(layer) → codes``: whole numbers of steps, of ``layer.weight``'s shape. Each layer is looked at with the
inputs that the rounded layers before it give, and is to give what the float network's layer gave on its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, fx

from karui.compress.layerwise import LAYERS, Site, adapted, damped, second, solve, walk
from karui.compress.select import rule_named
from karui.compress.statistics import Behind, moments
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph.network import Network

DAMPING = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer at the moment when its weight is rounded, group by group (one group, but for grouped convolutions).

    name: the weight's. weight: float32 ``[groups, O / groups, K]``, after its masks. step: of its codes, ``[groups, O / groups, 1]``.
    top: the greatest code; the least is ``−top``. now: the layer as it stands, and its inputs. was: the float network's. centred: whether a
    bias or a batch-norm behind it takes the mean of what changes.
    """

    name: str
    weight: Tensor
    step: Tensor
    top: int
    now: Site
    was: Site
    centred: bool

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes; what a mask took stays zero."""
        return (weight / self.step).round().clamp(-self.top, self.top) * (self.weight != 0)

    @cached_property
    def hessian(self) -> Tensor:
        """Of the inputs of now, damped: float64 ``[groups, K, K]``."""
        return torch.stack([damped(h, DAMPING) for h in self._raw])

    @cached_property
    def aimed(self) -> Tensor:
        """What would give the float network's outputs on the inputs of now, were nothing rounded: float64, the weight's shape."""
        cross = second(self.was, self.now, self.centred)
        parts = zip(self.weight, self.hessian, cross, self._raw, strict=True)
        return torch.stack([adapted(w, safe, c + safe - h) for w, safe, c, h in parts])

    @cached_property
    def _raw(self) -> Tensor:
        return second(self.now, self.now, self.centred)


Rounding = Callable[[Layer], Tensor]
RoundingName = Literal["nearest", "gptq"]


def nearest(layer: Layer) -> Tensor:
    """Each weight to the code that is nearest."""
    return layer.codes(layer.weight)


def gptq(layer: Layer) -> Tensor:
    """Input by input, those first that matter most; those still to come repair the error.

    Frantar et al. 2022, "GPTQ: accurate post-training quantization for generative pre-trained transformers", alg. 1, with the order of its
    "act-order"; the target is that of Frantar & Alistarh 2022, "Optimal Brain Compression", §4.
    """
    found = torch.zeros_like(layer.weight)
    for group, (weight, hessian) in enumerate(zip(layer.aimed, layer.hessian, strict=True)):
        order = hessian.diagonal().argsort(descending=True)
        keep, step = (layer.weight[group] != 0)[:, order], layer.step[group][:, 0]

        def column(k: int, w: Tensor, keep: Tensor = keep, step: Tensor = step) -> Tensor:
            return (w / step).round().clamp(-layer.top, layer.top) * step * keep[:, k]

        solved = solve(weight[:, order].float(), hessian[order][:, order], column, damping=0.0)
        found[group, :, order] = (solved / layer.step[group]).round()
    return found


RULES: dict[RoundingName, Rounding] = {"nearest": nearest, "gptq": gptq}


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
        behind = Behind.of(network, now.node, variance=False) if bias_correction else None
        old = moments(was) if behind else None
        layer = _layer(now, was, grids[now.parameter], centred=behind is not None)
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
