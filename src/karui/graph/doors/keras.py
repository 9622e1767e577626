"""A Keras 3 model on the torch backend → a torch module that captures as its PyTorch twin would.

Keras gives torch.export its variables as constants, without names, and its batch-norm and dropout spelled out for evaluation. So the
model is called with the parameters of a module of our own in place of its variables (``keras.StatelessScope``), layer by layer within
modules that name them, and the layers that work otherwise in training are called as torch's own. Then the graph is tidied: kernels lie as
torch has them, and images come in and leave with channels first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from karui.errors import CaptureError, ToolError
from karui.graph.doors import torch as torch_door
from karui.graph.fidelity import TOLERANCE, difference
from karui.graph.network import Network
from karui.graph.tidy import axes, constants, tidied
from karui.graph.tidy.noise import silence


def is_keras(thing: Any) -> bool:
    """Whether it is a Keras model or layer (no import needed: what made it has imported Keras)."""
    return any(base.__module__.split(".")[0] == "keras" and base.__name__ == "Layer" for base in type(thing).__mro__)


def capture(model: Any, example: Tensor | Sequence[Tensor] | None, *, name: str | None = None) -> Network:
    """The network of a Keras model that runs on torch.

    example: as the model takes it (images channels last); None for noise of the shapes that the model was built with. The network takes
    images, ``(H, W, C)`` to Keras, channels first, and gives them so.
    """
    twin = twin_of(model)
    network = torch_door.capture(twin, _example(model) if example is None else example, name=name or model.name)
    before = network.copy()
    silence(network)
    moved = _channels_first(network)
    constants.settle_parameters(network)
    axes.settle(network, chance=True)
    constants.fold(network)
    constants.settle_parameters(network)
    constants.merge_linear(network)
    tidied(network)
    _same(before, network, moved)
    return network


def _example(model: Any) -> tuple[Tensor, ...]:
    inputs = getattr(model, "inputs", None)
    if not inputs or any(size is None for x in inputs for size in x.shape[1:]):
        raise CaptureError(f"the Keras model '{model.name}' doesn't say its inputs' shapes; pass an example")
    return tuple(
        torch.randn(2, *x.shape[1:]) if "float" in str(x.dtype) else torch.zeros(2, *x.shape[1:], dtype=getattr(torch, str(x.dtype)))
        for x in inputs
    )


def _channels_first(network: Network) -> list[int]:
    """Let images, and sequences that go into convolutions, come in and leave with their channels first; the places of those inputs."""
    images = [i for i, spec in enumerate(network.inputs) if len(spec.shape) == 3]
    sequences = [i for i, spec in enumerate(network.inputs) if len(spec.shape) == 2]
    _turn(network, images, outputs=True)
    if sequences:  # which of them are texts, and which are signals?
        trial = network.copy()
        _turn(trial, sequences, outputs=False)
        axes.settle(trial, chance=True)
        axes.settle(network, chance=True)
        if axes.count(trial) < axes.count(network):
            network.become(trial)
            return sorted(images + sequences)
    return images


def _turn(network: Network, places: Sequence[int], *, outputs: bool) -> None:
    """Give these inputs, and outputs that are images, channels first, beside a permute to or from how Keras has them."""
    graph, specs = network.module.graph, list(network.inputs)
    for i, node in enumerate(list(graph.find_nodes(op="placeholder"))):
        if i in places:
            rank = len(specs[i].shape) + 1
            specs[i] = replace(specs[i], shape=(specs[i].shape[-1], *specs[i].shape[:-1]))
            with graph.inserting_after(node):
                last = graph.call_function(axes.aten.permute.default, (node, [0, *range(2, rank), 1]))
            node.replace_all_uses_with(last, delete_user_cb=lambda user, last=last: user is not last)
    network.inputs = tuple(specs)
    network.module.recompile()
    values = network.values()
    (output,) = graph.find_nodes(op="output")
    results: Any = output.args[0]
    turned = []
    for result in results:
        if outputs and values[result].dim() == 4:
            with graph.inserting_before(output):
                result = graph.call_function(axes.aten.permute.default, (result, [0, 3, 1, 2]))
        turned.append(result)
    output.args = (tuple(turned),)
    network.module.recompile()


def _same(before: Network, after: Network, moved: Sequence[int]) -> None:
    """Refuse if tidying has changed what the network computes."""
    given = before.example(3)
    with torch.no_grad():
        old = before.copy().eval()(*given)
        new = after.copy().eval()(*(x.movedim(-1, 1) if i in moved else x for i, x in enumerate(given)))
    for name, a, b in zip(after.outputs, new, old, strict=True):
        b = b.movedim(-1, 1) if a.shape != b.shape and b.dim() > 2 else b
        if not (gap := difference(a, b)) <= 10 * TOLERANCE:
            raise CaptureError(f"tidying changed output '{name}' of '{after.name}' by {gap:.1e}; please report this model")


def twin_of(model: Any) -> nn.Module:
    """A torch module that computes what the model computes, on copies of its variables. Raises CaptureError or ToolError."""
    import keras

    if keras.backend.backend() != "torch":
        raise ToolError(
            f"the Keras model runs on {keras.backend.backend()}; start Python with KERAS_BACKEND=torch in the environment, build the model"
            " again and load its weights"
        )
    if not getattr(model, "built", False):
        raise CaptureError(f"the Keras model '{model.name}' has no weights yet; call it once on an example, or give it an Input")
    return Twin(model)


class Twin(nn.Module):
    """The module: ``model`` stays the user's and is never changed for longer than a call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._hidden = (model,)  # a tuple: not a submodule
        self.owners: dict[int, tuple[nn.Module, str]] = {}
        self.named: dict[int, nn.Module] = {}
        for layer in _layers(model):
            self.named[id(layer)] = leaf = Leaf()
            self.add_module(_free(self, layer.name), leaf)
            self._take(layer, leaf)

    def _take(self, layer: Any, leaf: nn.Module) -> None:
        trains = {id(variable) for variable in layer.trainable_variables}
        for variable in layer.variables:
            if id(variable) in self.owners:
                continue
            name = _free(leaf, variable.path.split("/")[-1])
            value = variable.value.detach().clone()
            if value.is_floating_point() and (id(variable) in trains or not layer.trainable) and variable.trainable:
                leaf.register_parameter(name, nn.Parameter(value, requires_grad=id(variable) in trains))
            else:
                leaf.register_buffer(name, value)
            self.owners[id(variable)] = leaf, name

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self)(self._hidden[0])
        twin.load_state_dict(self.state_dict())
        return twin.train(self.training)

    def forward(self, *inputs: Tensor) -> Any:
        """The model's outputs."""
        import keras

        (model,) = self._hidden
        values = [(v, getattr(*self.owners[id(v)])) for v in model.variables if id(v) in self.owners]
        with keras.StatelessScope(state_mapping=values), self._instead():
            return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    @contextmanager
    def _instead(self) -> Iterator[None]:
        """For a while, each layer's ``call`` goes through the leaf that names it."""
        with ExitStack() as undo:
            for layer in _layers(self._hidden[0]):
                leaf, old = self.named[id(layer)], layer.__dict__.get("call")
                layer.__dict__["call"] = _through(leaf, _calls(layer, self, leaf))
                undo.callback(_put_back, layer, old)
            yield


class Leaf(nn.Module):
    """One layer of a Keras model: its variables, and the name under which its ops stand in the graph."""

    def forward(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Whatever the layer computes."""
        return function(*args, **kwargs)


def _layers(model: Any) -> list[Any]:
    """The layers that hold no others, each once, in the model's order."""
    every = list(model._flatten_layers(include_self=True, recursive=True))
    found = {id(layer): layer for layer in every if len(list(layer._flatten_layers(include_self=False))) == 0}
    return [layer for layer in found.values() if type(layer).__name__ != "InputLayer"]


def _free(owner: nn.Module, name: str) -> str:
    name = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    free, i = name, 2
    while hasattr(owner, free):
        free, i = f"{name}_{i}", i + 1
    return free


def _through(leaf: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: leaf(function, args, kwargs)


def _put_back(layer: Any, old: Any) -> None:
    layer.__dict__.pop("call", None)
    if old is not None:
        layer.__dict__["call"] = old


def _calls(layer: Any, twin: Twin, leaf: nn.Module) -> Callable[..., Any]:
    """What the layer computes: its own call, but for those with a mode."""
    kind = type(layer).__name__
    if type(layer).__module__.startswith("keras.") and kind in _MODES:
        made = _MODES[kind](layer, twin, leaf)
        if made is not None:
            return made
    return layer.call


# ── layers with a mode ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _batch_norm(layer: Any, twin: Twin, leaf: nn.Module) -> Callable[..., Any] | None:
    def call(x: Tensor, training: Any = None, mask: Any = None) -> Tensor:
        axis = layer.axis % x.dim()
        held: Any = leaf
        weight, bias = held.gamma if layer.scale else None, held.beta if layer.center else None
        y = torch.batch_norm(
            x.movedim(axis, 1) if axis != 1 else x,
            weight,
            bias,
            held.moving_mean,
            held.moving_variance,
            twin.training,
            1 - layer.momentum,
            layer.epsilon,
            False,
        )
        return y.movedim(1, axis) if axis != 1 else y

    return call if isinstance(layer.axis, int) and hasattr(leaf, "moving_mean") else None


def _dropout(layer: Any, twin: Twin, leaf: nn.Module) -> Callable[..., Any]:
    return lambda x, training=None, mask=None: torch.dropout(x, layer.rate, twin.training)


_MODES: Mapping[str, Callable[[Any, Twin, nn.Module], Callable[..., Any] | None]] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
}
