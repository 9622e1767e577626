"""The optimizer of a network whose parameters come and go: state is kept by parameter name."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from karui.graph import edit
from karui.graph.network import Network

Kind = Literal["sgd", "adamw"]
KINDS: tuple[str, ...] = get_args(Kind)
FAKE_QUANTIZE = torch.ops.karui.fake_quantize.default


def scales_of(network: Network) -> set[str]:
    """The names of the scales of the network's quantizers, learned or not."""
    forms = [edit.form_of(node) for node in network.module.graph.nodes if node.target is FAKE_QUANTIZE]
    return {form.state["scale"] for form in forms if "scale" in form.state}


class Optimizer:
    """SGD with momentum, or AdamW, over a network's named parameters, and ``more``: parameters that techniques own, by name.

    Weight decay leaves out parameters of one dimension (biases, batch-norm's gain and offset; He et al. 2019, "Bag of tricks", §3.1) and
    learned scales, which have a learning rate of their own: ``lr · scale_lr``; and ``more``, for which a technique's loss may say it.
    """

    def __init__(
        self,
        network: Network,
        *,
        kind: Kind = "sgd",
        lr: float = 0.01,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        scale_lr: float = 0.1,
        more: Mapping[str, torch.nn.Parameter] | None = None,
    ) -> None:
        self.lr = lr
        self._names = {name: p for name, p in {**network.parameters(), **(more or {})}.items() if p.requires_grad}
        quantizers = scales_of(network)
        plain = [n for n, p in self._names.items() if n not in quantizers and (p.ndim <= 1 or n in (more or {}))]
        scales = [n for n in self._names if n in quantizers]
        decayed = [n for n in self._names if n not in {*plain, *scales}]
        groups = [
            {"params": [self._names[n] for n in names], "weight_decay": decay, "share": share}
            for names, decay, share in ((decayed, weight_decay, 1.0), (plain, 0.0, 1.0), (scales, 0.0, scale_lr))
            if names
        ]
        self._torch: torch.optim.Optimizer | None = None
        if groups and kind == "sgd":
            self._torch = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)
        elif groups:
            self._torch = torch.optim.AdamW(groups, lr=lr)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained, in the network's order, then ``more``."""
        return [*self._names.values()]

    def set_factor(self, factor: float) -> float:
        """Put every learning rate to its base times ``factor``; returns the weights' rate."""
        for group in self._torch.param_groups if self._torch else ():
            group["lr"] = self.lr * factor * group["share"]
        return self.lr * factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._names.values():
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        if self._torch:
            self._torch.step()

    def state(self) -> dict[str, Tensor]:
        """Everything remembered, flat: ``"momentum_buffer.conv1.weight"`` → tensor."""
        return {
            f"{key}.{name}": value
            for name, parameter in self._names.items()
            for key, value in (self._torch.state.get(parameter, {}) if self._torch else {}).items()
            if isinstance(value, Tensor)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what ``state()`` gave, for each parameter that has the same name and shape; the others start afresh."""
        if self._torch is None:
            return
        remembered: dict[str, dict[str, Tensor]] = {}
        for flat, value in state.items():
            key, name = flat.split(".", 1)
            remembered.setdefault(name, {})[key] = value
        for name, values in remembered.items():
            parameter = self._names.get(name)
            if parameter is not None and all(value.shape == parameter.shape for key, value in values.items() if key != "step"):
                # the count of steps is a number on the CPU, whatever device the parameter is on
                self._torch.state[parameter] = {k: v.to("cpu" if k == "step" else parameter.device).clone() for k, v in values.items()}
