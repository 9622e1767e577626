"""What calibration samples tell of a network's weights: gradients, their squares, and what each layer's inputs amount to.

Each is computed for all parameters at once, when it is first asked for. The network is looked at in evaluation mode, and is left alone.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from karui.analyse.observe import watch
from karui.compress.layerwise import columns
from karui.data import Batch, Data, Part
from karui.errors import DataError, KaruiError, RecipeError, first_line
from karui.graph import edit
from karui.graph.carry import parameter_of
from karui.graph.network import Network
from karui.graph.placement import CONVOLUTIONS, LINEARS

MASK = torch.ops.karui.mask.default
FEW = 8  # samples whose mean gradient is squared at once: one by one would take eight times as long


class Evidence:
    """The network as it is when it is first asked, seen through its first ``samples`` calibration samples, ``batch_size`` at a time.

    A parameter is meant by its name, and its value as it is after its masks; the gradient at that place is dense: a masked weight gets
    the one it would have if it were there (with the value zero). The same samples give the same bits.
    """

    def __init__(self, network: Network, data: Data, *, samples: int = 512, batch_size: int = 64) -> None:
        self.network, self.data, self.samples, self.batch_size = network, data, samples, batch_size

    def gradient(self, name: str) -> Tensor:
        """The mean of dL/dw over the samples, of the weight's shape. Raises DataError where the data's loss fails."""
        return self._of(self._gradients, name)

    def fisher(self, name: str) -> Tensor:
        """The diagonal of the empirical Fisher information: the mean of (dL/dw)², of the weight's shape.

        Eight samples are taken together: eight times the square of their mean gradient, which is the same on average where the mean over
        all samples is zero, as at the end of training. Raises DataError where the data's loss fails.
        """
        return self._of(self._squares, name)

    def inputs(self, name: str) -> Tensor:
        """``‖x_k‖₂`` of each input that the layer's weight is multiplied with, over samples and places; broadcasts against the weight.

        Sun et al. 2023, "A simple and effective pruning approach for large language models" (Wanda), eq. 1. It needs no targets.
        Raises RecipeError for what is no weight of a convolution or linear layer.
        """
        return self._of(self._norms, name)

    def loss(self, values: Mapping[str, Tensor] | None = None) -> float:
        """The mean loss, with these values (by parameter, after masks) in place of the network's own. Raises DataError where it fails."""
        instead = {self._leaves[self.network.canonical_name(name)]: value for name, value in (values or {}).items()}
        total = seen = 0.0
        for batch in self._batches(self.batch_size):
            with torch.no_grad():
                total += float(self._loss(_Instead(self._twin, instead), batch)) * len(batch)
            seen += len(batch)
        return total / seen

    def _of(self, found: Mapping[str, Tensor], name: str) -> Tensor:
        try:
            return found[self.network.canonical_name(name)]
        except KeyError:
            raise RecipeError(f"importance: there is no such evidence of '{name}' in '{self.network.name}'; ask for another") from None

    @cached_property
    def _twin(self) -> Network:
        return self.network.copy().eval()  # the network's own mode stays: a compiled one would have to be compiled again

    @cached_property
    def _leaves(self) -> dict[str, fx.Node]:
        """Each floating parameter's last mask, or the parameter's own node."""
        leaves = {}
        for name, parameter in self._twin.parameters().items():
            if parameter.is_floating_point():
                chain = edit.chain_of(self._twin, name)
                leaves[name] = next((node for node in reversed(chain) if node.target is MASK), chain[0])
        return leaves

    @cached_property
    def _gradients(self) -> dict[str, Tensor]:
        return self._summed(self.batch_size, lambda gradient, count: gradient * count)

    @cached_property
    def _squares(self) -> dict[str, Tensor]:
        return self._summed(FEW, lambda gradient, count: gradient.square() * count**2)

    def _summed(self, size: int, term: Any) -> dict[str, Tensor]:
        """The sum over batches of ``term(gradient of the batch's mean loss, its samples)``, divided by the number of samples."""
        totals: dict[str, Tensor] = {}
        seen = 0
        for batch in self._batches(size):
            for name, gradient in self._backward(batch).items():
                part = term(gradient, len(batch))
                totals[name] = totals[name].add_(part) if name in totals else part
            seen += len(batch)
        return {name: total.div_(seen) for name, total in totals.items()}

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        with torch.enable_grad():
            runner = _Leaves(self._twin, frozenset(self._leaves.values()))
            loss = self._loss(runner, batch)
            places = {name: runner.values[node] for name, node in self._leaves.items()}
            found = torch.autograd.grad(loss, list(places.values()), materialize_grads=True, allow_unused=True)
        return dict(zip(places, found, strict=True))

    def _loss(self, runner: fx.Interpreter, batch: Batch) -> Tensor:
        outputs = runner.run(*batch.inputs)
        try:
            return self.data.loss(outputs, batch.targets)
        except (KaruiError, MemoryError):
            raise
        except Exception as error:  # the function is the user's: it may raise anything
            raise DataError(
                f"{self.data.name}: its loss refuses the calibration part ({first_line(error)}); give it targets, or use importance ="
                " 'magnitude' or 'wanda', which need none"
            ) from error

    @cached_property
    def _norms(self) -> dict[str, Tensor]:
        sums: dict[fx.Node, Tensor] = {}  # layer → Σx² per group and column, float64 [groups, K]
        layers: dict[fx.Node, list[fx.Node]] = {}
        for node in self._twin.module.graph.nodes:
            if node.target in CONVOLUTIONS | LINEARS and parameter_of(node.args[1]) is not None:
                layers.setdefault(node.args[0], []).append(node)

        def look(value: fx.Node, x: Tensor) -> None:
            for layer in layers[value]:
                part = _squared(layer, x, self._twin.get(str(parameter_of(layer.args[1]))).shape)
                sums[layer] = sums[layer] + part if layer in sums else part

        watch(self._twin, self._batches(self.batch_size), list(layers), look)
        found: dict[str, Tensor] = {}
        for layer, total in sums.items():
            name = str(parameter_of(layer.args[1]))
            found[name] = found[name] + total if name in found else total
        return {name: total.sqrt().float() for name, total in found.items()}

    def _batches(self, size: int) -> Iterator[Batch]:
        return first(self.data.calibration, self.samples, size, self.network.device)


def _squared(layer: fx.Node, x: Tensor, shape: torch.Size) -> Tensor:
    """The sum of each input's squares over samples and places, float64, so that it broadcasts against a weight of ``shape``."""
    squares = x.detach().double().square()
    if "conv_transpose" in str(layer.target):
        spread = squares.sum([axis for axis in range(x.dim()) if axis != 1])
        return spread.reshape(-1, *[1] * (len(shape) - 1))
    if layer.target in CONVOLUTIONS:
        squares = squares.sum(0, keepdim=True)  # places are taken after samples: a picture's columns for one sample only
    sums = columns(layer, squares, tuple(shape[2:])).sum(-1)
    groups = len(sums)
    return sums.repeat_interleave(shape[0] // groups if groups > 1 else 1, 0).reshape(-1, *shape[1:])


def first(part: Part, samples: int, size: int, device: torch.device) -> Iterator[Batch]:
    """The part's first samples with their targets, in order, in batches of at most ``size``. Raises DataError: there is none."""
    left = samples
    for batch in part.batches(min(size, samples)):
        for start in range(0, len(batch), size):
            if left <= 0:
                return
            cut = slice(start, start + min(size, left))
            inputs = tuple(x[cut].to(device) for x in batch.inputs)
            targets = tuple(y[cut].to(device) for y in batch.targets) if isinstance(batch.targets, tuple) else batch.targets[cut].to(device)
            left -= len(inputs[0])
            yield Batch(inputs=inputs, targets=targets)
    if left == samples:
        raise DataError("importance: there is no calibration sample; give Data a calibration part")


class _Instead(fx.Interpreter):
    """Runs a graph with other values at some nodes."""

    def __init__(self, network: Network, instead: Mapping[fx.Node, Tensor]) -> None:
        super().__init__(network.module)
        self.instead = instead

    def run_node(self, n: fx.Node) -> Any:
        return self.instead[n] if n in self.instead else super().run_node(n)


class _Leaves(fx.Interpreter):
    """Runs a graph with gradients that end at some nodes; ``values`` holds what came out of them."""

    def __init__(self, network: Network, leaves: frozenset[fx.Node]) -> None:
        super().__init__(network.module)
        self.leaves = leaves
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.leaves:
            self.values[n] = value = value.detach().requires_grad_()
        return value
