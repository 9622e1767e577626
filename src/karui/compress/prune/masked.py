"""One weight under its mask: what can leave it, at what score, and the mask that is left."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from karui.compress.prune.patterns import Pattern, Units, layout_of
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.network import Network

MASK = torch.ops.karui.mask.default


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A weight that has a mask, by its name. macs: the multiply–accumulates of one sample that it is used for while dense."""

    name: str
    units: Units
    macs: int

    def mask(self, network: Network) -> Tensor:
        """The mask, as it lies in the network."""
        found = mask_of(network, self.name)
        assert found is not None
        return network.get(found)

    def weight(self, network: Network, *, latent: bool = False) -> Tensor:
        """The weight after its mask; latent: what lies beneath."""
        weight = network.get(self.name).detach()
        return weight if latent else weight * self.mask(network)

    def checked(self, scores: Any) -> Tensor:
        """A rule's scores, float32. Raises RecipeError: another shape than the weight's, or a score that is no number."""
        shape = self.units.layout.shape
        if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
            told = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise RecipeError(f"importance: gave {told} for the {list(shape)} weights of '{self.name}'; give one score for each")
        scores = scores.detach().float()
        if not torch.isfinite(scores.sum()) and not bool(torch.isfinite(scores).all()):  # the sum takes no memory
            raise RecipeError(f"importance: gave a score that is not finite for '{self.name}'; check the rule, and the network's weights")
        return scores

    def scores(self, network: Network, scores: Tensor, *, free: bool) -> tuple[Tensor, Tensor]:
        """The units' scores, −inf for those that are gone; and the weights', from which n:m chooses. free: what is gone may come back."""
        mask = self.mask(network)
        if free or not zeros_in(mask):
            return self.units.scores(scores), scores
        gone = mask == 0
        if self.units.pattern == Pattern() or self.units.pattern.m:
            scores = scores.masked_fill(gone, -torch.inf)
            return self.units.scores(scores), scores
        scores = scores.masked_fill(gone, 0.0)  # of a block that an earlier phase thinned, the rest counts
        return self.units.scores(scores).masked_fill(self.stays(network) == 0, -torch.inf), scores

    def put(self, network: Network, stays: Tensor, scores: Tensor, *, free: bool) -> None:
        """Mask all but the units that stay. Unless ``free``, nothing comes back."""
        mask = self.mask(network)
        new = self.units.mask(stays, scores)
        mask.copy_(new if free or self.units.pattern == Pattern() else new & (mask != 0))

    def stays(self, network: Network) -> Tensor:
        """Which units have a weight left: bool ``[units]``."""
        return self.units.scores(self.mask(network).float()) > 0


def mask_weights(
    network: Network, layers: dict[str, list[fx.Node]], pattern: Pattern, *, dense: bool = False
) -> tuple[tuple[Masked, ...], dict[str, str]]:
    """Put a mask on each weight that has none; returns the weights, and those that the pattern doesn't fit, each with the reason.

    dense: whether masked weights go on learning. Raises RecipeError if the pattern fits no weight.
    """
    units = {name: Units(layout=layout_of(network, nodes[0], name), pattern=pattern) for name, nodes in layers.items()}
    misfits = {name: reason for name, each in units.items() if (reason := each.misfit())}
    if len(misfits) == len(units):
        raise RecipeError(
            f"pattern: {pattern.n}:{pattern.m} fits no chosen layer of '{network.name}':"
            f" {'; '.join(f'{name}: {reason}' for name, reason in misfits.items())}"
        )
    values = network.values()
    made = []
    for name in (each for each in units if each not in misfits):
        if mask_of(network, name) is None:
            edit.put_on_parameter(network, name, MASK, state={"mask": torch.ones_like(network.get(name))})
        made.append(
            Masked(name=name, units=units[name], macs=sum(_places(node, values) for node in layers[name]) * network.get(name).numel())
        )
    if dense:
        let_through(network, [each.name for each in made], True)
    return tuple(made), misfits


def let_through(network: Network, names: Sequence[str], dense: bool) -> None:
    """Whether gradients pass the masks on these weights where they are zero."""
    for name in names:
        for form in edit.forms_on(network, name):
            if form.op is MASK:
                form.node.args = (*form.node.args[:2], *((True,) if dense else ()))
    network.module.recompile()


def mask_of(network: Network, parameter: str) -> str | None:
    """The name of the mask on a parameter, if it has one."""
    return next((form.state["mask"] for form in edit.forms_on(network, parameter) if form.op is MASK), None)


def zeros_in(mask: Tensor) -> int:
    """How many entries are zero; quicker than a sum."""
    return mask.numel() - int(torch.count_nonzero(mask))


def _places(node: fx.Node, values: dict[fx.Node, Any]) -> int:
    """How often one sample uses each weight: at each place of the output (of a transposed convolution: of the input)."""
    at: Any = node.args[0] if "conv_transpose" in str(node.target) else node
    return prod(values[at].shape[1:-1] if "linear" in str(node.target) else values[at].shape[2:])
