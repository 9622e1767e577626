"""Layer by layer: what a layer sees, and the solver that fits its weight to it; shared by every layer-wise method.

A layer's output error under a change of its weight W (``[O, K]``) is ``½ tr(ΔW H ΔWᵀ)``, with the Hessian ``H = 2/n Σ x xᵀ`` of its inputs.
``walk`` gives each layer with its H, after everything before it has taken its final form; ``solve`` changes a weight column by column and
makes the columns still to come repair what each change broke (LeCun et al. 1989, "Optimal brain damage"; Hassibi & Stork 1993, "Second
order derivatives for network pruning"; in this order and blocked: Frantar et al. 2022, "GPTQ", alg. 1, and 2023, "SparseGPT", alg. 1).
"""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from karui.data import Batch
from karui.errors import DataError
from karui.graph.carry import argument, parameter_of
from karui.graph.network import Network
from karui.graph.placement import BATCH_NORMS, CLAMPS

LAYERS = {"aten.linear.default", "aten.conv1d.default", "aten.conv1d.padding", "aten.conv2d.default", "aten.conv2d.padding"}
PIECE = 2**24  # numbers of a convolution's vectors at a time: 64 MB
EXACT = 1e12


@dataclass(frozen=True, kw_only=True)
class Site:
    """A linear layer or convolution, and what it sees.

    parameter: its weight's name. node: where it stands in the graph. groups: of a grouped convolution, else 1. inputs: what goes into the
    layer, a tensor per batch; they are kept as long as the site is. weight: gives the weight as the layer sees it now, through its forms.
    layer: ``layer(input, weight)`` is its output with a weight of one's own, bias and all; ``tail(output)`` what the batch-norm and the
    activation behind it make of that. Gradients go through both, so a rounding or a scale can be learned against ``outputs`` (Nagel et al.
    2020, "Up or down?", AdaRound, §3). The outputs of a network that nobody changed are those of the second site of ``zip(walk(network,
    batches), walk(untouched, batches))``.
    """

    parameter: str
    node: fx.Node
    groups: int
    inputs: tuple[Tensor, ...]
    weight: Callable[[], Tensor]
    layer: Callable[[Tensor, Tensor], Tensor]
    tail: Callable[[Tensor], Tensor]

    @cached_property
    def hessian(self) -> Tensor:
        """Float64 ``[groups, K, K]`` with K the inputs of one output channel: ``weight.reshape(groups, O / groups, K)`` fits it."""
        return self.cross(self)

    def cross(self, other: "Site") -> Tensor:
        """``2/n Σ x yᵀ`` of this layer's inputs x and those y that the same layer has in another network, ``[groups, K, K]``."""
        total = sum((x @ y.mT).double() for x, y in zip(self.columns(), self.columns() if other is self else other.columns(), strict=True))
        assert isinstance(total, Tensor)
        return total * (2.0 / self.samples)

    @cached_property
    def mean(self) -> Tensor:
        """The mean x, float64 ``[groups, K]``."""
        total = sum(x.sum(2, dtype=torch.float64) for x in self.columns())
        assert isinstance(total, Tensor)
        return total / self.samples

    @cached_property
    def samples(self) -> int:
        """How many vectors x were seen: a convolution sees one at each place of each sample."""
        kernel = self.weight().shape[2:]
        return sum(len(x) * columns(self.node, x[:1], kernel).shape[2] for x in self.inputs)

    def columns(self) -> Iterator[Tensor]:
        """The vectors x, ``[groups, K, …]``, some samples at a time: a convolution's overlap, and all would be many times the inputs."""
        kernel = self.weight().shape[2:]
        for x in self.inputs:
            for piece in x.split(max(1, PIECE // (x[0].numel() * prod(kernel)))):
                yield columns(self.node, piece, kernel)

    def outputs(self) -> tuple[Tensor, ...]:
        """What the layer gives for each of ``inputs``, with its weight as it is now, seen through its forms; no gradients."""
        with torch.no_grad():
            weight = self.weight()
            return tuple(self.layer(x, weight) for x in self.inputs)


def walk(network: Network, batches: Iterable[Batch], names: Container[str] | None = None) -> Iterator[Site]:
    """Every linear layer and convolution in the graph's order, each with the inputs that the layers before it give *now*.

    Change a site's weight before asking for the next one, and the next one's inputs follow. names: only the sites with these weights (None:
    all). Each node runs once per batch; from one site to the next, what is still needed is kept, all batches side by side. The network
    should be in evaluation mode. Raises DataError: no batch.
    """
    nodes = list(network.module.graph.nodes)
    moving = _moving(nodes)
    last_use = {source: node for node in nodes for source in node.all_input_nodes}
    values = _inputs(nodes, batches)
    waiting: list[fx.Node] = []
    for node in nodes:
        if node not in moving or node.op in ("placeholder", "output"):
            continue
        name = _layer_weight(node)
        if name is not None and (names is None or name in names):
            _advance(network, waiting, moving, last_use, values)
            waiting = []
            yield _site(network, node, name, values)
        waiting.append(node)


def _layer_weight(node: fx.Node) -> str | None:
    """The weight of a linear layer or convolution; None for any other node, and for weights that are computed."""
    return parameter_of(node.args[1]) if str(node.target) in LAYERS else None


def _advance(
    network: Network,
    nodes: list[fx.Node],
    moving: set[fx.Node],
    last_use: dict[fx.Node, fx.Node],
    values: list[dict[fx.Node, Any]],
) -> None:
    """Compute some nodes, batch after batch, and forget what nobody needs any more; what depends on no input is computed once."""
    still: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for env in values:

            def operand(source: fx.Node, env: dict[fx.Node, Any] = env) -> Any:
                return env[source] if source in moving else _still(network, source, still)

            for node in nodes:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), operand)
                env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
                for source in node.all_input_nodes:
                    if last_use[source] is node and source in moving:
                        del env[source]


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


def _site(network: Network, node: fx.Node, name: str, values: list[dict[fx.Node, Any]]) -> Site:
    inputs = tuple(env[node.args[0]] for env in values)  # type: ignore[index]

    def weight() -> Tensor:
        found: Tensor = _still(network, node.args[1], {})  # type: ignore[arg-type]
        return found

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        given = {node.args[0]: x, node.args[1]: weight}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: given[n] if n in given else _still(network, n, {}))
        found: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        return found

    def tail(output: Tensor) -> Tensor:
        known = {node: output}
        for after in _behind(node):
            args, kwargs = fx.node.map_arg((after.args, after.kwargs), lambda n: known[n] if n in known else _still(network, n, {}))
            known[after] = output = after.target(*args, **kwargs)  # type: ignore[operator]
        return output

    groups = 1 if str(node.target) == "aten.linear.default" else argument(node, "groups")
    return Site(parameter=name, node=node, groups=groups, inputs=inputs, weight=weight, layer=layer, tail=tail)


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    """The batch-norms and activations that alone see a layer's output, in order."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target not in BATCH_NORMS | CLAMPS:
            return
        yield node


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


def gains(network: Network, batches: Iterable[Batch], names: Container[str], *, seed: int = 0) -> dict[str, Tensor]:
    """How much the network's outputs change with each output channel of these layers: float64 ``[O]`` by weight name.

    ``E Σ_places (∂(ε · y)/∂v_o)²`` with ε ~ N(0, 1) for each of the network's outputs y: the squared Jacobian, summed over outputs
    (Hutchinson 1990). Times a channel's squared error it tells, to first order and as if errors at different places were independent (as
    Grosse & Martens 2016, "A Kronecker-factored approximate Fisher matrix for convolution layers", §3.1), the outputs' squared change.
    """
    layers = {n: name for n in network.module.graph.nodes if (name := _layer_weight(n)) is not None and name in names}
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    seen = 0
    for batch in batches:
        with torch.enable_grad():
            runner = _Kept(network.module, frozenset(layers))
            outputs = [y for y in runner.run(*batch.inputs) if y.is_floating_point() and y.requires_grad]
            noise = [torch.randn(y.shape, generator=generator).to(y.device) for y in outputs]
            values = list(runner.values.values())
            gradients = torch.autograd.grad(outputs, values, noise, allow_unused=True, materialize_grads=True)
        for node, gradient in zip(runner.values, gradients, strict=True):
            axis = gradient.dim() - 1 if str(node.target) == "aten.linear.default" else 1
            total = gradient.double().square().movedim(axis, 0).flatten(1).sum(1)
            found[layers[node]] = found.get(layers[node], 0) + total
        seen += len(batch)
    return {name: total / seen for name, total in found.items()}


class _Kept(fx.Interpreter):
    """Runs a graph and keeps the values of some nodes, so that gradients with respect to them can be asked for."""

    def __init__(self, module: fx.GraphModule, nodes: frozenset[fx.Node]) -> None:
        super().__init__(module)
        self.nodes, self.values = nodes, dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.nodes:
            self.values[n] = value = value if value.requires_grad else value.requires_grad_()
        return value


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
    """The best weight with zeros where ``mask`` is 0: ``H_SS w_S = (H w₀)_S`` row by row. Exact; O · min(|S|, K − |S|)³.

    Where less than half leaves it is the same to solve for what the others have to take over: ``w = w₀ − H⁻¹_:R (H⁻¹_RR)⁻¹ w₀_R``.
    """
    h = damped(hessian.double(), damping)
    w = weight.double()
    target, inverse = w @ h, torch.cholesky_inverse(torch.linalg.cholesky(h))
    result = torch.zeros_like(w)
    for row, (kept, gone) in enumerate(zip(mask.bool(), ~mask.bool(), strict=True)):
        if 2 * int(kept.sum()) > len(kept):
            result[row] = w[row] - inverse[:, gone] @ _solved(inverse[gone][:, gone], w[row, gone])
            result[row, gone] = 0
        else:
            result[row, kept] = _solved(h[kept][:, kept], target[row, kept])
    return result.to(weight.dtype)


def _solved(matrix: Tensor, vector: Tensor) -> Tensor:
    """``matrix⁻¹ vector``, of a positive definite one."""
    return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(matrix))[:, 0]


def reconstruct(weight: Tensor, mask: Tensor, hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """``least_squares`` where it takes no more than about a minute (10¹² operations), else ``prune``, which is near it and K³ + O · K²."""
    kept = mask.bool().sum(1).double()
    exact = float((torch.minimum(kept, mask.shape[1] - kept) ** 3).sum()) / 3
    return (least_squares if exact < EXACT else prune)(weight, mask, hessian, damping=damping)


def second(was: Site, site: Site, centred: bool) -> Tensor:
    """``2/n Σ x x̂ᵀ``, ``[groups, K, K]``, of a layer's inputs x in one network and x̂ in another; centred: about their means."""
    found = site.hessian if was is site else was.cross(site)
    return found - 2 * was.mean[:, :, None] * site.mean[:, None, :] if centred else found


def adapted(weight: Tensor, hessian: Tensor, cross: Tensor) -> Tensor:
    """The weight ``[O, K]`` whose outputs on the inputs x̂ of now are nearest to those that ``weight`` gave on the inputs x of once.

    hessian: ``2/n Σ x̂ x̂ᵀ``, damped; what was added to it pulls towards ``weight``. cross: ``2/n Σ x x̂ᵀ`` with the same added. As
    ``‖W x − W' x̂‖²`` is ``‖(W_adapted − W') x̂‖²`` and a constant, whatever is made of this weight next can forget about x.
    """
    return torch.cholesky_solve((weight.double() @ cross).mT, torch.linalg.cholesky(hessian)).mT


def admm(weight: Tensor, hessian: Tensor, choose: Callable[[Tensor, float], Tensor], *, rounds: int = 30) -> Tensor:
    """A mask for ``weight`` (``[groups, O, K]``) that knows how what stays will adapt; hessian: damped, ``[groups, K, K]``.

    ``choose(worth, progress)`` gives the mask (bool, the weight's shape) that keeps the most worth, at the sparsity of this progress in
    (0, 1]. Between rounds what was cut off pushes the others the way that makes it superfluous: Boža 2024, "Fast and effective weight
    update for pruned large language models", alg. 2, with inputs of norm 1 and ρ = 1. A round costs O · K².
    """
    norm = hessian.diagonal(dim1=1, dim2=2).sqrt()[:, None]  # [groups, 1, K]
    h, w = hessian / norm.mT / norm, weight.double() * norm
    step = torch.linalg.inv(h + torch.eye(h.shape[1], dtype=h.dtype, device=h.device))
    target, kept, dual = w @ h, w, torch.zeros_like(w)
    mask = torch.ones_like(w, dtype=torch.bool)
    for place in range(rounds):
        moved = (target + kept - dual) @ step
        mask = choose((moved + dual).square(), min(1.0, (place + 1) / (0.6 * rounds)))  # gradually: the last rounds settle
        kept = (moved + dual) * mask
        dual = dual + moved - kept
    return mask


def block_saliency(weight: Tensor, inverse: Tensor, width: int) -> Tensor:
    """What removing each block of ``width`` columns costs when the rest of its row may adapt: ``½ w_bᵀ ([H⁻¹]_bb)⁻¹ w_b``.

    Kurtic et al. 2022, "The Optimal BERT Surgeon", eq. 9; of the whole Hessian one row's. weight: ``[O, K]``. inverse: H⁻¹ ``[K, K]``.
    Returns float64 ``[O, ⌈K / width⌉]``; the last block may be narrower.
    """
    whole = weight.shape[1] // width
    edges = [(i * width, (i + 1) * width) for i in range(whole)] + ([(whole * width, weight.shape[1])] if weight.shape[1] % width else [])
    found = []
    for start, stop in edges:
        w = weight[:, start:stop].double()
        found.append(0.5 * (torch.linalg.solve(inverse[start:stop, start:stop], w.mT).mT * w).sum(1))
    return torch.stack(found, 1)


def chain_saliency(weight: Tensor, inverse: Tensor, order: Tensor) -> Tensor:
    """What each weight's removal adds to the cost when those before it in ``order`` (``[K]``) are gone already: ``½ z²``, float64 ``[K]``.

    weight: one row ``[K]``. z = L⁻¹ w with the Cholesky factor L of H⁻¹ in that order: the first sums of ``½ z²`` are ``½ w_Rᵀ (H⁻¹_RR)⁻¹
    w_R``, the least error without the weights R, so one factorization tells the whole curve.
    """
    factor = torch.linalg.cholesky(inverse[order][:, order])
    z = torch.linalg.solve_triangular(factor, weight.double()[order, None], upper=False)[:, 0]
    return torch.zeros_like(z).index_copy_(0, order, 0.5 * z**2)


def error(before: Tensor, after: Tensor, hessian: Tensor) -> float:
    """``½ tr(ΔW H ΔWᵀ)``: the squared change of the layer's outputs, summed over them, for the mean input."""
    change = (before - after).double()
    return float(0.5 * ((change @ hessian.double()) * change).sum())
