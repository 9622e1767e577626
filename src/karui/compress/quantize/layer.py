"""A layer at the moment when its weight is rounded."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from karui.compress.layerwise import Site, second
from karui.compress.solver import adapted, damped

DAMPING = 0.01  # at least


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """What a rounding may look at, group by group (one group, but for grouped convolutions).

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

    def whole(self, codes: Tensor) -> Tensor:
        """The nearest codes of the grid; what a mask took stays zero."""
        return codes.round().clamp(-self.top, self.top) * (self.weight != 0)

    @cached_property
    def hessian(self) -> Tensor:
        """Of the inputs of now, damped: float64 ``[groups, K, K]``."""
        return torch.stack([damped(h, self.damping) for h in self._raw])

    @property
    def damping(self) -> float:
        """What the diagonal gets, as a share of its mean: the more, the fewer samples there are for K inputs.

        200 photos say little of how 1,280 features go together, and a rounding that repairs itself by that repairs what isn't broken. The
        places of one sample resemble each other; a sample with P of them counts as √P. On EfficientNet-Lite0 the changes of the scores on
        photos that weren't seen were least near this, layer by layer.
        """
        samples = sum(len(x) for x in self.now.inputs)
        return max(DAMPING, self.weight.shape[2] / math.sqrt(samples * self.now.samples))

    @cached_property
    def aimed(self) -> Tensor:
        """What would give the float network's outputs on the inputs of now, were nothing rounded: float64, the weight's shape."""
        cross = second(self.was, self.now, self.centred)
        parts = zip(self.weight, self.hessian, cross, self._raw, strict=True)
        return torch.stack([adapted(w, safe, c + safe - h) for w, safe, c, h in parts])

    @cached_property
    def _raw(self) -> Tensor:
        return second(self.now, self.now, self.centred)
