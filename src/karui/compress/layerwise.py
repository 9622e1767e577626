"""Layer by layer: each layer with what it sees, after everything before it has taken its final form; shared by every layer-wise method.

What then fits its weight to that is in ``solver``.
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


def second(was: Site, site: Site, centred: bool) -> Tensor:
    """``2/n Σ x x̂ᵀ``, ``[groups, K, K]``, of a layer's inputs x in one network and x̂ in another; centred: about their means."""
    found = site.hessian if was is site else was.cross(site)
    return found - 2 * was.mean[:, :, None] * site.mean[:, None, :] if centred else found
