"""The walk: every node of the graph, in order, through the rule of its op; then the passes."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Any

import torch

from karui.data.checks import check_labels
from karui.errors import DataError, UnsupportedOp
from karui.graph.edit import untap
from karui.graph.network import InputSpec, Network
from karui.lower import rules_composed, rules_exits, rules_gather, rules_layers, rules_pointwise, rules_pools, rules_sequence, rules_shape
from karui.lower.builder import Builder, Constant, Shaped, Value, layout_of
from karui.lower.rule import Arguments, Rule
from karui.pixels import Pixels
from karui.program.passes import optimise
from karui.program.program import Input, Output, Program

ATEN = torch.ops.aten
TABLES = (rules_layers, rules_pointwise, rules_shape, rules_pools, rules_gather, rules_sequence, rules_composed, rules_exits)
RULES: Mapping[Any, Rule] = MappingProxyType({op: rule for each in TABLES for op, rule in each.RULES.items()})
_SPATIAL_1D = (ATEN.conv1d.default, ATEN.conv1d.padding, ATEN.max_pool1d.default, ATEN.avg_pool1d.default, ATEN.conv_transpose1d.default)


def lower(network: Network, *, pixels: Pixels | None = None, labels: Sequence[str] = (), name: str | None = None) -> Program:
    """The program that computes what ``network`` computes in evaluation mode.

    pixels: the first input is then bytes, ``(H, W, C)`` uint8, normalised inside. labels: the class names of the first output.
    Raises UnsupportedOp naming the layer and the op where there is no rule, DataError for labels that are not the output's.
    """
    check_labels(labels)
    network = network.copy().eval()
    untap(network)
    builder = Builder(network=network, shapes=run_shapes(network))
    env: dict[torch.fx.Node, Any] = {}
    inputs: list[Input] = []
    outputs: list[Output] = []
    for node in network.module.graph.nodes:
        builder.layer = network.layer_of(node)
        if node.op == "placeholder":
            first = not inputs
            env[node], entry = _input(builder, node, network.inputs[len(inputs)], pixels if first else None)
            inputs.append(entry)
        elif node.op == "get_attr":
            env[node] = Constant(data=network.get(str(node.target)).detach())
        elif node.op == "output":
            outputs = _outputs(builder, node, env, labels)
        else:
            env[node] = _apply(builder, node, env)
    program = Program(
        name=name or network.name,
        tensors=builder.tensors,
        weights=builder.weights,
        ops=tuple(builder.ops),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        metadata=network.metadata,
    )
    return optimise(program)


def run_shapes(network: Network) -> dict[torch.fx.Node, Any]:
    """What each node gives: ``Shaped`` for tensors that carry the batch, the value itself for constants and sizes.

    The graph is run at two batch sizes; a tensor carries the batch in the one axis that follows it. Of those only the sizes are kept: all
    values of a network at once are many times its weights.
    """
    with torch.no_grad():
        three = _Recorder(network.module, None)
        three.run(*network.example(3))
        two = _Recorder(network.module, three.kept)
        two.run(*network.example(2))
    return {node: _shape(value, three.kept[node]) for node, value in two.kept.items()}


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps what its nodes give: of a tensor the sizes, or itself where it has the same in ``other``."""

    def __init__(self, module: torch.fx.GraphModule, other: Mapping[torch.fx.Node, Any] | None) -> None:
        super().__init__(module)
        self.other = other
        self.kept: dict[torch.fx.Node, Any] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.op in ("placeholder", "call_function"):
            self.kept[n] = _sizes(value) if self.other is None else _sizes(value, self.other[n])
        return value


def _sizes(value: Any, other: Any = None) -> Any:
    if isinstance(value, torch.Tensor):
        same = isinstance(other, torch.Tensor) and other.shape == value.shape
        return value if same else torch.empty_like(value, device="meta")
    if isinstance(value, list | tuple):
        others = [None] * len(value) if other is None else other
        return tuple(_sizes(each, its) for each, its in zip(value, others, strict=True))
    return value


def _shape(two: Any, three: Any) -> Any:
    if isinstance(two, torch.Tensor):
        a, b = tuple(two.shape), tuple(three.shape)
        differing = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        if not differing:
            return Constant(data=two)
        at = differing[0]
        if len(differing) == 1 and a[at] * 3 == b[at] * 2:
            return Shaped(before=a[:at], factor=a[at] // 2, after=a[at + 1 :], dtype=two.dtype)
        return None  # no rule can use it: the one that asks refuses
    if isinstance(two, list | tuple):
        return tuple(_shape(x, y) for x, y in zip(two, three, strict=True))
    return two


def _input(builder: Builder, node: torch.fx.Node, spec: InputSpec, pixels: Pixels | None) -> tuple[Value, Input]:
    name, shape = spec.name, spec.shape
    images = len(shape) == 3 or (len(shape) == 2 and _feeds_conv1d(node))
    order = {3: (1, 2, 0), 2: (1, 0)}[len(shape)] if images else tuple(range(len(shape)))
    if pixels is None:
        value = builder.tensor(name, shape, order, "int32" if "int" in str(spec.dtype) and _indexes(node) else "float32")
        return value, Input(name=name, tensor=value.name)
    value = builder.tensor(name, shape, order, "uint8")
    factor, offset = pixels.affine()
    channels = shape[0]
    if len(factor) not in (1, channels):
        raise UnsupportedOp(f"'{name}' has {channels} channels, but the pixels' mean and std have {len(factor)}; give one per channel")
    weights = {
        "scale": builder.floats(f"{name}.scale", factor.repeat(channels // len(factor))),
        "bias": builder.floats(f"{name}.bias", offset.repeat(channels // len(offset))),
    }
    real = builder.emit("affine", [value], f"{name}_real", shape, order, weights=weights, attributes={"clamp": None})
    return real, Input(name=name, tensor=value.name, pixels=pixels)


def _indexes(node: torch.fx.Node) -> bool:
    """True where an input of integers chooses rows of a table. One that is made floats first, as masks are, is floats to a program."""
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user.target == torch.ops.aten.embedding.default:
            return True
        made = user.meta.get("val")
        if not (isinstance(made, torch.Tensor) and made.dtype.is_floating_point):
            waiting += user.users
    return False


def _feeds_conv1d(node: torch.fx.Node) -> bool:
    """True where the first thing that sees the axes of a two-axis input is a 1-D convolution or pool."""
    waiting, seen = list(node.users), set()
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.target in _SPATIAL_1D:
            return True
        if user.target in rules_pointwise.KEEPS_AXES:
            waiting += user.users
    return False


def _outputs(builder: Builder, node: torch.fx.Node, env: dict[torch.fx.Node, Any], labels: Sequence[str]) -> list[Output]:
    returned = node.args[0]
    nodes = [n for n in (returned if isinstance(returned, list | tuple) else (returned,)) if isinstance(n, torch.fx.Node)]
    outputs: list[Output] = []
    for i, (source, name) in enumerate(zip(nodes, builder.network.outputs, strict=True)):
        value = env[source]
        if not isinstance(value, Value):
            builder.layer = name
            builder.refuse("an output that doesn't depend on the input", "leave it out of what the network returns")
        if not value.ordinary:
            builder.layer = name
            builder.refuse("an output whose batch is not its first axis", "return it with the batch in front")
        if value.order not in ((1, 2, 0), (1, 0)):
            value = builder.plain(value)
        taken = any(o.tensor == value.name for o in outputs)
        if taken and builder.tensors[value.name].layout != layout_of(value.order):
            builder.layer = name
            builder.refuse("an output that is another one with its axes permuted", "return it once")
        if taken or value.name in {i.name for i in builder.network.inputs}:
            value = builder.emit("reshape", [value], name, value.shape, value.order)
        # the network may have permuted it since it was made: what its axes mean is what they mean here
        builder.tensors[value.name] = replace(builder.tensors[value.name], layout=layout_of(value.order))
        if i == 0:
            _check_count(labels, name, value.shape)
        outputs.append(Output(name=name, tensor=value.name, labels=tuple(labels) if i == 0 else ()))
    return outputs


def _check_count(labels: Sequence[str], name: str, shape: tuple[int, ...]) -> None:
    """One label a class; a single score may tell two classes apart."""
    if labels and len(labels) not in shape and not (prod(shape) == 1 and len(labels) == 2):
        raise DataError(f"labels: {len(labels)} for output '{name}' of shape {list(shape)}; give one name a class, in order, or none")


def _apply(builder: Builder, node: torch.fx.Node, env: dict[torch.fx.Node, Any]) -> Any:
    """One node: computed now where no input reaches it, else through its rule."""
    target = node.target
    if target is operator.getitem and isinstance(env[node.args[0]], list | tuple):  # type: ignore[index]
        return env[node.args[0]][node.args[1]]  # type: ignore[index]
    if target in (ATEN.sym_size.int, ATEN.size.int):
        return builder.shapes[node]
    if not any(isinstance(env[n], Value | list) for n in node.all_input_nodes):
        return _evaluate(builder, node, env)
    rule = RULES.get(target)
    if rule is None:
        word = str(target).removesuffix(".default")
        builder.refuse(word, "write it with ops that have a rule (karui list ops), or end the network before it")
    return rule(builder, Arguments(builder=builder, node=node, env=env))


def _evaluate(builder: Builder, node: torch.fx.Node, env: dict[torch.fx.Node, Any]) -> Any:
    """What the node gives, known now; of a tensor that repeats itself over the batch, one sample's."""

    def known(n: torch.fx.Node) -> Any:
        value = env[n]
        return value.data if isinstance(value, Constant) else value

    with torch.no_grad():
        result = node.target(*torch.fx.map_arg(node.args, known), **torch.fx.map_arg(node.kwargs, known))  # type: ignore[operator]
    if not isinstance(result, torch.Tensor):
        return result
    shaped = builder.shapes[node]
    if isinstance(shaped, Shaped):
        one = result.narrow(len(shaped.before), 0, 1)
        if shaped.factor != 1 or not bool((result == one).all()):
            builder.refuse("a constant that differs between the samples of a batch", "make it the same for each sample")
        result = one
    return Constant(data=result)
