"""What follows a layer's outputs when its weight changes: its bias, or the running statistics of the batch-norm behind it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from karui.compress.layerwise import Site
from karui.data import Batch
from karui.graph.carry import argument
from karui.graph.network import Network

BATCH_NORM = torch.ops.aten.batch_norm.default
LEAST = 0.02  # of a variance: a channel that is as good as gone doesn't become loud again
TINY = 1e-6

Moments = tuple[Tensor, Tensor]


def moments(site: Site) -> Moments:
    """The mean and the variance of each output channel of a layer as it is now, float64 ``[O]``."""
    axis = -1 if str(site.node.target) == "aten.linear.default" else 1
    outputs = [y.movedim(axis, 0).flatten(1) for y in site.outputs()]
    count = sum(y.shape[1] for y in outputs)
    mean = torch.stack([y.sum(1, dtype=torch.float64) for y in outputs]).sum(0) / count
    around = torch.stack([(y - mean[:, None]).square().sum(1) for y in outputs]).sum(0)
    return mean, around / count


@dataclass(frozen=True, kw_only=True)
class Behind:
    """What follows a layer's outputs as they change: its bias, or the running statistics of the batch-norm behind it."""

    bias: str = ""
    mean: str = ""
    variance: str = ""
    eps: float = 0.0

    @classmethod
    def of(cls, network: Network, node: fx.Node, *, variance: bool) -> "Behind | None":
        """None where there is neither, or others use it too. variance: whether a batch-norm's variance follows."""
        users = list(node.users)
        if len(users) == 1 and users[0].target is BATCH_NORM:
            held = [argument(users[0], name) for name in ("running_mean", "running_var")]
            if all(isinstance(each, fx.Node) and each.op == "get_attr" and len(each.users) == 1 for each in held):
                mean, spread = (str(each.target) for each in held)
                return cls(mean=mean, variance=spread if variance else "", eps=argument(users[0], "eps"))
        bias = argument(node, "bias")
        own = isinstance(bias, fx.Node) and bias.op == "get_attr" and len(bias.users) == 1
        return cls(bias=str(bias.target)) if own else None

    def follow(self, network: Network, old: Moments, new: Moments) -> None:
        """Make up for the outputs' change from the old moments to the new ones, with statistics that were true of the old."""
        if self.bias:
            network.get(self.bias).detach().add_(old[0] - new[0])
            return
        ratio = torch.ones_like(old[1])
        if self.variance:
            spread = network.get(self.variance)
            ratio = ((new[1] + TINY * old[1]) / (old[1] + TINY * old[1].max()).clamp_min(1e-30)).clamp(LEAST, 1 / LEAST)
            spread.copy_((spread + self.eps) * ratio - self.eps).clamp_min_(0)
        mean = network.get(self.mean)
        mean.copy_(new[0] - (old[0] - mean) * ratio.sqrt())


def estimate_batch_norm(network: Network, batches: Iterable[Batch]) -> None:
    """Set every batch-norm's running statistics to what calibration samples give it, those before it being set so too; nothing is trained.

    Within a batch its own statistics are used, so the batches should not be small.
    """
    runner = _Normed(network)
    with torch.no_grad():
        for batch in batches:
            runner.run(*batch.inputs)
        for node, seen in runner.seen.items():
            means, variances = (torch.stack(each) for each in zip(*seen, strict=True))
            for name, value in (("running_mean", means.mean(0)), ("running_var", variances.mean(0) + means.var(0, correction=0))):
                network.get(str(argument(node, name).target)).copy_(value)


class _Normed(fx.Interpreter):
    """Runs a graph with each batch-norm on its batch's statistics, and remembers them."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.seen: dict[fx.Node, list[tuple[Tensor, Tensor]]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.target is not BATCH_NORM or not isinstance(argument(n, "running_mean"), fx.Node):
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        x, scale, shift = args[:3]
        variance, mean = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0)
        self.seen.setdefault(n, []).append((mean, variance))
        return F.batch_norm(x, mean, variance, scale, shift, eps=argument(n, "eps"))
