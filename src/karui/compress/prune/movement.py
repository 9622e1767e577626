"""Movement: which weights grow while training goes on, and which shrink."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from karui.compress.technique import Attached
from karui.graph.network import Network


class Moving(Attached):
    """Gathers ``moved``: ``−Σ w · dL/dw`` of some weights over the training steps (Sanh et al. 2020, eq. 4), for a pruning."""

    def __init__(self, network: Network, names: Sequence[str], pruning: Attached) -> None:
        self.network, self.pruning, self.settles = network, pruning, pruning.settles
        self.moved: dict[str, Tensor] = {name: torch.zeros_like(network.get(name).detach()) for name in names}

    def step(self, progress: float) -> bool:
        """The pruning's own."""
        return self.pruning.step(progress)

    def after_backward(self, progress: float) -> None:
        """Add this step's movement."""
        for name, moved in self.moved.items():
            weight = self.network.get(name)
            if weight.grad is not None:
                moved.addcmul_(weight.detach(), weight.grad, value=-1)

    def state(self) -> dict[str, Any]:
        """The pruning's, and what moved so far."""
        return {**self.pruning.state(), **{f"moved.{name}": moved for name, moved in self.moved.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back both."""
        self.pruning.load_state(state)
        for name, moved in self.moved.items():
            moved.copy_(state[f"moved.{name}"])

    def finish(self) -> dict[str, Any]:
        """The pruning's facts."""
        return self.pruning.finish()
