"""Layer by layer: what a layer sees, and the solver that fits its weight to it; shared by every layer-wise method.

A layer's output error under a change of its weight W (``[O, K]``) is ``½ tr(ΔW H ΔWᵀ)``, with the Hessian ``H = 2/n Σ x xᵀ`` of its inputs.
``walk`` gives each layer with its H, after everything before it has taken its final form; ``solve`` changes a weight column by column and
makes the columns still to come repair what each change broke (LeCun et al. 1989, "Optimal brain damage"; Hassibi & Stork 1993, "Second
order derivatives for network pruning"; in this order and blocked: Frantar et al. 2022, "GPTQ", alg. 1, and 2023, "SparseGPT", alg. 1).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from karui.data import Batch
from karui.errors import DataError
from karui.graph.carry import argument, parameter_of
from karui.graph.network import Network

LAYERS = {"aten.linear.default", "aten.conv1d.default", "aten.conv1d.padding", "aten.conv2d.default", "aten.conv2d.padding"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """A linear layer or convolution, and what it sees.

    parameter: its weight's name. groups: of a grouped convolution, else 1. hessian: float64 ``[groups, K, K]`` with K the inputs of one
    output channel: ``weight.reshape(groups, O / groups, K)`` fits it. samples: how many vectors x were seen.
    inputs: what goes into the layer, a tensor per batch; they are kept as long as the site is. weight: gives the weight as the layer sees
    it now, through its forms. layer: ``layer(input, weight)`` is its output with a weight of one's own, bias and all; gradients go through
    it, so a rounding or a scale can be learned against ``outputs`` (Nagel et al. 2020, "Up or down?", AdaRound, §3). The outputs of a
    network that nobody changed are those of the second site of ``zip(walk(network, batches), walk(untouched, batches))``.
    """

    parameter: str
    groups: int
    hessian: Tensor
    samples: int
    inputs: tuple[Tensor, ...]
    weight: Callable[[], Tensor]
    layer: Callable[[Tensor, Tensor], Tensor]

    def outputs(self) -> tuple[Tensor, ...]:
        """What the layer gives for each of ``inputs``, with its weight as it is now, seen through its forms; no gradients."""
        with torch.no_grad():
            weight = self.weight()
            return tuple(self.layer(x, weight) for x in self.inputs)


def walk(network: Network, batches: Iterable[Batch]) -> Iterator[Site]:
    """Every linear layer and convolution in the graph's order, each with the inputs that the layers before it give *now*.

    Change a site's weight before asking for the next one, and the next one's inputs follow. Each node runs once per batch: the values
    that are still needed are kept between layers, all batches side by side. The network should be in evaluation mode.
    Raises DataError: no batch.
    """
    nodes = list(network.module.graph.nodes)
    last_use = {source: node for node in nodes for source in node.all_input_nodes}
    moving = _moving(nodes)
    values = _inputs(nodes, batches)
    for node in nodes:
        if node not in moving or node.op in ("placeholder", "output"):
            continue
        if str(node.target) in LAYERS and node.args[1] not in moving and (name := parameter_of(node.args[1])) is not None:
            yield _site(network, node, name, [env[node.args[0]] for env in values])
        _advance(network, node, moving, values)
        for source in node.all_input_nodes:
            if last_use[source] is node and source in moving:
                for env in values:
                    del env[source]


def _advance(network: Network, node: fx.Node, moving: set[fx.Node], values: list[dict[fx.Node, Any]]) -> None:
    """Compute one node for every batch; what depends on no input is computed once."""
    still: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for env in values:

            def operand(source: fx.Node, env: dict[fx.Node, Any] = env) -> Any:
                return env[source] if source in moving else _still(network, source, still)

            args, kwargs = fx.node.map_arg((node.args, node.kwargs), operand)
            env[node] = node.target(*args, **kwargs)  # type: ignore[operator]


def _inputs(nodes: list[fx.Node], batches: Iterable[Batch]) -> list[dict[fx.Node, Any]]:
    """One environment per batch, holding the network's inputs."""
    places = [node for node in nodes if node.op == "placeholder"]
    values = [dict(zip(places, batch.inputs, strict=True)) for batch in batches]
    if not values:
        raise DataError("layer-wise: there is no calibration sample; give Data a calibration part")
    return values


def _moving(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes whose value depends on the input; the others are weights and what is computed of them."""
    moving: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(source in moving for source in node.all_input_nodes):
            moving.add(node)
    return moving


def _still(network: Network, node: fx.Node, cache: dict[fx.Node, Any]) -> Any:
    """The value, as of now, of a node that depends on no input."""
    if node not in cache:
        if node.op == "get_attr":
            cache[node] = network.get(str(node.target)).detach()
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _still(network, n, cache))
            cache[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return cache[node]


def _site(network: Network, node: fx.Node, name: str, inputs: list[Tensor]) -> Site:
    kernel = network.get(name).shape[2:]
    total: Tensor | None = None
    count = 0
    for x in inputs:
        rows = columns(node, x, kernel)
        part = (rows @ rows.mT).double()
        total = part if total is None else total + part
        count += rows.shape[-1]
    assert total is not None

    def weight() -> Tensor:
        found: Tensor = _still(network, node.args[1], {})  # type: ignore[arg-type]
        return found

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        given = {node.args[0]: x, node.args[1]: weight}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: given[n] if n in given else _still(network, n, {}))
        found: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        return found

    hessian = total * (2.0 / count)
    return Site(parameter=name, groups=len(total), hessian=hessian, samples=count, inputs=tuple(inputs), weight=weight, layer=layer)


def columns(node: fx.Node, x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """The vectors that a layer multiplies its weight with, ``[groups, K, samples]``, from its input and its weight's trailing axes."""
    if str(node.target) == "aten.linear.default":
        return x.reshape(-1, x.shape[-1]).T.unsqueeze(0)
    groups = argument(node, "groups")
    stride, dilation = (_pair(argument(node, name), len(kernel)) for name in ("stride", "dilation"))
    padding = argument(node, "padding")
    if padding == "valid":
        padding = [0]
    if padding == "same":  # the odd one goes to the end, as torch does it
        spread = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        x = F.pad(x, [side for total in reversed(spread) for side in (total // 2, total - total // 2)])
        padding = [0]
    padding = _pair(padding, len(kernel))
    if len(kernel) == 1:  # a row is a picture of height one
        x, kernel = x.unsqueeze(2), (1, *kernel)
        stride, dilation, padding = ([first, *each] for first, each in ((1, stride), (1, dilation), (0, padding)))
    patches = F.unfold(x, kernel, tuple(dilation), tuple(padding), tuple(stride))  # [N, C · kernel, places]
    return patches.transpose(0, 1).reshape(groups, patches.shape[1] // groups, -1)


def _pair(given: list[int], dims: int) -> list[int]:
    return list(given) * dims if len(given) == 1 else list(given)


# ── the solver ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def damped(hessian: Tensor, damping: float = 0.01) -> Tensor:
    """``[K, K]`` made safe to invert: ``damping`` times its mean diagonal is added, and inputs that were never active get a one."""
    diagonal = hessian.diagonal()
    mean = diagonal.mean().clamp_min(torch.finfo(hessian.dtype).tiny)
    return hessian + torch.diag(torch.where(diagonal == 0, 1.0, damping * mean))


def saliency(weight: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """What removing each single weight costs when all others may adapt: ``w² / (2 [H⁻¹]_kk)`` (Hassibi & Stork 1993, eq. 5), ``[O, K]``."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian, damping)))
    return (weight.double() ** 2 / (2 * inverse.diagonal())).to(weight.dtype)


def solve(weight: Tensor, hessian: Tensor, column: Callable[[int, Tensor], Tensor], *, damping: float = 0.01, block: int = 128) -> Tensor:
    """Give each column of ``weight`` (``[O, K]``) the form ``column(k, w)`` (``w``: ``[O]``, compensated so far); returns the new weight.

    ``column`` may zero entries by a mask, round to a grid, or look up a codebook. After each, the error moves into the columns to its
    right along the rows of the Cholesky factor of H⁻¹ (GPTQ, eq. 3 and 4); in blocks, so that most of the work is matrix products.
    """
    w = weight.double().clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian.double(), damping)))
    factor = torch.linalg.cholesky(inverse, upper=True)
    width = w.shape[1]
    for start in range(0, width, block):
        stop = min(start + block, width)
        errors = torch.zeros(w.shape[0], stop - start, dtype=w.dtype)
        for k in range(start, stop):
            new = column(k, w[:, k].to(weight.dtype)).double()
            errors[:, k - start] = (w[:, k] - new) / factor[k, k]
            w[:, k:stop] -= torch.outer(errors[:, k - start], factor[k, k:stop])
            w[:, k] = new
        w[:, stop:] -= errors @ factor[start:stop, stop:]
    return w.to(weight.dtype)


def prune(weight: Tensor, mask: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """Zero ``weight`` (``[O, K]``) where ``mask`` is 0 and let what is left compensate; ``solve`` with a mask (SparseGPT)."""
    keep = mask.to(weight.dtype)
    return solve(weight, hessian, lambda k, w: w * keep[:, k], damping=damping)


def least_squares(weight: Tensor, mask: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """The best weight with zeros where ``mask`` is 0: ``H_SS w_S = (H w₀)_S`` row by row. Exact; O · |S|³, so for sparse rows."""
    h = damped(hessian.double(), damping)
    target = weight.double() @ h
    result = torch.zeros_like(weight)
    for row, kept in enumerate(mask.bool()):
        if bool(kept.any()):
            result[row, kept] = torch.linalg.solve(h[kept][:, kept], target[row, kept]).to(weight.dtype)
    return result


def error(before: Tensor, after: Tensor, hessian: Tensor) -> float:
    """``½ tr(ΔW H ΔWᵀ)``: the squared change of the layer's outputs, summed over them, for the mean input."""
    change = (before - after).double()
    return float(0.5 * ((change @ hessian.double()) * change).sum())
