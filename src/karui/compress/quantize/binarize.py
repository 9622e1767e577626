"""One bit for each weight, and one number for each channel."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from karui.compress.quantize.points import BINARIZE, channel_axis
from karui.compress.select import kept, patterns, refuse_unfit, weights
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.graph import edit
from karui.graph.network import Network


@dataclass(frozen=True, kw_only=True)
class Binarize(Technique):
    """Weights of ±α, with ``α = mean |w|`` over each output channel (a transposed convolution's: over all): the nearest to ``w``.

    Rastegari et al. 2016, "XNOR-Net", eq. 6. α follows the weights while training goes on; gradients go straight through where |w| ≤ 1.
    What a mask took stays zero. With ``Quantize(activation_bits=1)``, or 2, behind it in the same phase, layers multiply few bits by one.
    include, exclude: patterns over names; first and last layers rarely bear it.
    """

    stage: ClassVar[Stage] = "numbers"

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    def attach(self, network: Network, context: Context) -> "Binarized":
        """Put the form on each chosen weight. Raises RecipeError for one that has a number format."""
        layers = weights(network, self.include, self.exclude)
        refuse_unfit(network, layers)
        for name, nodes in layers.items():
            scale = magnitude(network, name, by_channel=channel_axis(nodes) == 0)
            edit.put_on_parameter(network, name, BINARIZE, state={"scale": scale}, beneath=True)
        return Binarized(network, layers)


class Binarized(Attached):
    """Scales follow the weights."""

    settles = 0.0

    def __init__(self, network: Network, names: Iterable[str]) -> None:
        self.network, self.names = network, tuple(names)

    def step(self, progress: float) -> bool:
        """The scales of the weights as they are now."""
        for name in self.names:
            scale = self.network.get(f"{name}_scale")
            scale.copy_(magnitude(self.network, name, by_channel=scale.dim() == 1))
        return False

    def finish(self) -> dict[str, Any]:
        """Fit the scales to the last step's weights; tells how many became binary."""
        self.step(1.0)
        return {"weights": len(self.names)}


def magnitude(network: Network, name: str, *, by_channel: bool) -> Tensor:
    """The mean of ``|w|`` over the weights that masks leave: float32, ``[O]`` over the first axis or ``[]`` over all."""
    weight, stay = network.get(name).detach(), kept(network, name)
    axes = list(range(1 if by_channel else 0, weight.dim()))
    return (weight.abs() * stay).sum(axes) / stay.sum(axes).clamp_min(1)
