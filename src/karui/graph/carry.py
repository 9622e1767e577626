"""How each op carries channels from its inputs to its output: one row per op, used by ``coupling.py``.

A rule takes the tracer and a node and returns where the result carries channels, or None where it carries none that could be removed.
An op without a row fixes what flows into it. The channel axis counts with the batch axis, so an image's is 1.
"""

import operator
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import fx

from karui.graph.forms import is_form
from karui.graph.network import Network
from karui.graph.spaces import Along, Coupling, Run, Runs, Spaces

Rule = Callable[["Tracer", fx.Node], "Along | None"]

MANY = 4096  # a flatten behind its channel axis repeats the runs; more than this many isn't worth following


class Tracer:
    """Goes through the graph once, in order."""

    def __init__(self, network: Network, shapes: Mapping[fx.Node, tuple[int, ...]]) -> None:
        self.network, self.shapes, self.spaces = network, shapes, Spaces()
        self.values: dict[fx.Node, Along | None] = {}

    def trace(self) -> Coupling:
        """Apply each node's rule; what leaves the network is fixed."""
        for node in self.network.module.graph.nodes:
            if node.op == "output":
                self.fix(node.all_input_nodes, "it is an output of the network")
            elif node.op == "call_function" and parameter_of(node) is None:
                self.values[node] = rule_of(node)(self, node)
        return self.spaces.result()

    def where(self, node: fx.Node) -> str:
        """The layer's name, for messages."""
        return self.network.layer_of(node)

    def value(self, node: Any) -> Along | None:
        """Where a node's value carries channels."""
        return self.values.get(node) if isinstance(node, fx.Node) else None

    def fix(self, nodes: list[fx.Node], reason: str) -> None:
        """Whatever channels these values carry must stay, and whatever parameters they are can't change."""
        for node in nodes:
            if (along := self.value(node)) is not None:
                self.spaces.fix(along.runs, reason)
            if (name := parameter_of(node)) is not None:
                self.spaces.pin(name, None, reason)

    def claim(self, node: Any, axis: int, runs: Runs | None, at: fx.Node) -> None:
        """This axis of the parameter behind ``node`` is made of ``runs``; None: of channels that stay."""
        name = parameter_of(node)
        if node is None:
            return
        if name is None:  # a weight that is computed: nothing to cut
            self.spaces.fix(runs or (), f"'{self.where(at)}' computes its weight")
        elif runs is None:
            self.spaces.pin(name, axis, f"'{self.where(at)}' shares its weight with channels that stay")
        else:
            self.spaces.claim(name, axis, runs, self.where(at))


def parameter_of(node: object) -> str | None:
    """The parameter or buffer that a node stands for, seen through its forms; None for a computed value."""
    while isinstance(node, fx.Node) and node.op == "call_function" and is_form(node):
        node = node.args[0]
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def argument(node: fx.Node, name: str) -> Any:
    """An argument of an op by its name in the op's schema, or its default."""
    for place, each in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if each.name == name:
            return node.args[place] if place < len(node.args) else node.kwargs.get(name, each.default_value)
    raise KeyError(name)


def axes_of(node: fx.Node, name: str, dims: int) -> tuple[int, ...]:
    """An argument that names axes, counted from the front."""
    given = argument(node, name)
    return tuple(a % dims for a in (given if isinstance(given, list | tuple) else [given]))


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def unknown(t: Tracer, node: fx.Node) -> Along | None:
    """An op without a row: nothing that goes into it may change."""
    t.fix(node.all_input_nodes, f"'{t.where(node)}' uses {node.target}, which can't lose channels")
    return None


def no_tensor(t: Tracer, node: fx.Node) -> Along | None:
    """A size or a check."""
    return None


def same(t: Tracer, node: fx.Node) -> Along | None:
    """One value at a time: channels stay where they are."""
    return t.value(node.args[0])


def spatial(axes: int) -> Callable[[Tracer, fx.Node], Along | None]:
    """Works on the last ``axes`` axes."""

    def rule(t: Tracer, node: fx.Node) -> Along | None:
        x = t.value(node.args[0])
        return x if x is None or x.axis < len(t.shapes[node.args[0]]) - axes else unknown(t, node)  # type: ignore[index]

    return rule


def linear(t: Tracer, node: fx.Node) -> Along | None:
    """Takes the last axis to a new group. Channels along another axis pass by."""
    x, last = t.value(node.args[0]), len(t.shapes[node]) - 1
    if x is not None and x.axis != last:
        t.fix([n for n in node.all_input_nodes if parameter_of(n) is not None], f"'{t.where(node)}' mixes positions, not channels")
        return x
    return Along(axis=last, runs=produce(t, node, None if x is None else x.runs, out_axis=0))


def convolution(t: Tracer, node: fx.Node) -> Along | None:
    """A dense one opens a group; a depthwise one carries its input's; what lies between is left as it is."""
    x, groups = t.value(node.args[0]), argument(node, "groups")
    out_axis = 1 if "transpose" in str(node.target) else 0
    if groups == 1:
        if x is not None and x.axis != 1:
            return unknown(t, node)
        return Along(axis=1, runs=produce(t, node, None if x is None else x.runs, out_axis=out_axis))
    channels = t.shapes[node.args[0]][1]  # type: ignore[index]
    if x is None or x.axis != 1 or groups != channels or out_axis == 1:
        t.fix(node.all_input_nodes, f"'{t.where(node)}' is a grouped convolution")
        return None
    runs = widen(x.runs, t.shapes[node][1] // channels)
    t.claim(node.args[1], 0, runs, node)
    t.claim(argument(node, "bias"), 0, runs, node)
    return Along(axis=1, runs=runs)


def produce(t: Tracer, node: fx.Node, inputs: Runs | None, *, out_axis: int) -> Runs:
    """Open a group for the output channels of a layer; its input channels are ``inputs``."""
    weight = node.args[1]
    shape = t.shapes[weight]  # type: ignore[index]
    runs = t.spaces.open(shape[out_axis])
    name = parameter_of(weight)
    if name is not None:
        t.spaces.producers[runs[0].group] = [(name, out_axis)]
    t.claim(weight, 1 - out_axis, inputs, node)
    t.claim(weight, out_axis, runs, node)
    t.claim(argument(node, "bias"), 0, runs, node)
    return runs


def widen(runs: Runs, by: int) -> Runs:
    """Every entry becomes ``by`` entries."""
    return tuple(Run(group=r.group, channels=r.channels, inner=r.inner * by) for r in runs)


def batch_norm(t: Tracer, node: fx.Node) -> Along | None:
    """Axis 1, each channel by itself."""
    x = t.value(node.args[0])
    if x is not None and x.axis != 1:
        return unknown(t, node)
    for each in node.args[1:5]:
        t.claim(each, 0, None if x is None else x.runs, node)
    return x


def prelu(t: Tracer, node: fx.Node) -> Along | None:
    """One slope, or one per channel of axis 1."""
    x, slope = t.value(node.args[0]), node.args[1]
    if x is not None and t.shapes[slope] != (1,):  # type: ignore[index]
        if x.axis != 1:
            return unknown(t, node)
        t.claim(slope, 0, x.runs, node)
    return x


def binary(t: Tracer, node: fx.Node) -> Along | None:
    """Entry by entry with broadcasting: channels on both sides become one group."""
    sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    carrying = [a for a in sides if t.value(a) is not None]
    if not carrying:
        return None
    dims = len(t.shapes[node])

    # the side whose channel axis isn't broadcast says where the result's channels are
    def place(a: fx.Node) -> int:
        return t.values[a].axis + dims - len(t.shapes[a])  # type: ignore[union-attr]

    main = max(carrying, key=lambda a: t.shapes[a][t.values[a].axis])  # type: ignore[union-attr]
    runs, axis = t.values[main].runs, place(main)  # type: ignore[union-attr]
    for other in sides:
        if other is main:
            continue
        at = axis - (dims - len(t.shapes[other]))
        spread = at < 0 or (t.shapes[other][at] == 1 and t.shapes[node][axis] != 1)
        along = t.value(other)
        if along is not None and not spread and place(other) == axis:
            t.spaces.join(runs, along.runs, t.where(node))
        elif along is not None:  # a mask over positions, an outer sum: its own channels lie elsewhere
            t.spaces.fix(along.runs + (runs if not spread or place(other) != axis else ()), f"'{t.where(node)}' broadcasts its channels")
        elif not spread and parameter_of(other) is not None:
            t.claim(other, at, runs, node)
        elif not spread:
            t.spaces.fix(runs, f"'{t.where(node)}' joins them with values whose channels stay")
    return Along(axis=axis, runs=runs)


def concat(t: Tracer, node: fx.Node) -> Along | None:
    """Along the channel axis: runs one after the other; along another: one group."""
    parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    (axis,) = axes_of(node, "dim", len(t.shapes[node]))
    known = [along for p in parts if (along := t.value(p)) is not None]
    if not known:
        return None
    if all(k.axis == axis for k in known):
        runs: Runs = ()
        for part in parts:
            along = t.value(part)
            runs += along.runs if along is not None else t.spaces.open(t.shapes[part][axis], "it isn't made by a layer that can shrink")
        t.fix([p for p in parts if parameter_of(p) is not None], f"'{t.where(node)}' concatenates it")
        return Along(axis=axis, runs=runs)
    if len(known) < len(parts) or len({k.axis for k in known}) > 1:
        return unknown(t, node)
    for along in known[1:]:
        t.spaces.join(known[0].runs, along.runs, t.where(node))
    return known[0]


def flatten(t: Tracer, node: fx.Node) -> Along | None:
    """Axes become one; see ``merge``."""
    x, dims = t.value(node.args[0]), len(t.shapes[node.args[0]])  # type: ignore[index]
    start, end = argument(node, "start_dim") % dims, argument(node, "end_dim") % dims
    return None if x is None else merge(t, node, x, start, end)


def merge(t: Tracer, node: fx.Node, x: Along, start: int, end: int) -> Along | None:
    """Axes ``start … end`` become one: each channel then has the entries of the axes behind it, once for each entry of those before it."""
    shape = t.shapes[node.args[0]]  # type: ignore[index]
    if not start <= x.axis <= end:
        return Along(axis=x.axis if x.axis < start else x.axis - (end - start), runs=x.runs)
    before = prod(shape[start : x.axis])
    if start == 0 or before * len(x.runs) > MANY:
        return unknown(t, node)
    return Along(axis=start, runs=widen(x.runs, prod(shape[x.axis + 1 : end + 1])) * before)


def reshape(t: Tracer, node: fx.Node) -> Along | None:
    """Followed where the channel axis stays whole or is merged with its neighbours; a size written in the graph is noted."""
    x = t.value(node.args[0])
    if x is None:
        return None
    old, new = t.shapes[node.args[0]], t.shapes[node]  # type: ignore[index]
    for place in range(1, len(new)):
        start = next((s for s in range(1, x.axis + 1) if prod(old[:s]) == prod(new[:place])), None)
        end = None if start is None else next((e for e in range(x.axis, len(old)) if prod(old[start : e + 1]) == new[place]), None)
        if start is None or end is None:
            continue
        along = merge(t, node, x, start, end)
        if along is None:
            return None
        sizes = argument(node, "size" if "view" in str(node.target) else "shape")
        if isinstance(sizes[place], int) and sizes[place] != -1:
            t.spaces.constants.append((node.name, place, along.runs))
        return Along(axis=place, runs=along.runs)
    return unknown(t, node)


def reduce(t: Tracer, node: fx.Node) -> Along | None:
    """A mean or sum over some axes."""
    x, dims = t.value(node.args[0]), len(t.shapes[node.args[0]])  # type: ignore[index]
    gone = axes_of(node, "dim", dims) if argument(node, "dim") else tuple(range(dims))
    if x is None or x.axis in gone:
        return unknown(t, node)
    return x if argument(node, "keepdim") else Along(axis=x.axis - sum(a < x.axis for a in gone), runs=x.runs)


def permute(t: Tracer, node: fx.Node) -> Along | None:
    """The channel axis moves."""
    x, dims = t.value(node.args[0]), len(t.shapes[node])
    if x is None:
        return None
    if "permute" in str(node.target):
        order = list(axes_of(node, "dims", dims))
    else:
        order = list(range(dims))
        (a,), (b,) = axes_of(node, "dim0", dims), axes_of(node, "dim1", dims)
        order[a], order[b] = order[b], order[a]
    return Along(axis=order.index(x.axis), runs=x.runs)


def unsqueeze(t: Tracer, node: fx.Node) -> Along | None:
    """A new axis of size one."""
    x = t.value(node.args[0])
    (new,) = axes_of(node, "dim", len(t.shapes[node]))
    return x and Along(axis=x.axis + (new <= x.axis), runs=x.runs)


def squeeze(t: Tracer, node: fx.Node) -> Along | None:
    """Axes of size one go."""
    x, shape = t.value(node.args[0]), t.shapes[node.args[0]]  # type: ignore[index]
    gone = [a for a in axes_of(node, "dim", len(shape)) if shape[a] == 1]
    if x is None or x.axis in gone:
        return unknown(t, node)
    return Along(axis=x.axis - sum(a < x.axis for a in gone), runs=x.runs)


def elsewhere(name: str, *, drops: bool = False) -> Callable[[Tracer, fx.Node], Along | None]:
    """Works along the axis in the argument ``name``; channels along another pass. drops: that axis goes."""

    def rule(t: Tracer, node: fx.Node) -> Along | None:
        x = t.value(node.args[0])
        (axis,) = axes_of(node, name, len(t.shapes[node.args[0]]))  # type: ignore[index]
        if x is None or x.axis == axis:
            return unknown(t, node)
        return Along(axis=x.axis - (drops and axis < x.axis), runs=x.runs)

    return rule


def turn(t: Tracer, node: fx.Node) -> Along | None:
    """Moves entries along the axes in ``dims``; channels along another pass."""
    x = t.value(node.args[0])
    return unknown(t, node) if x is None or x.axis in axes_of(node, "dims", len(t.shapes[node])) else x


def expand_as(t: Tracer, node: fx.Node) -> Along | None:
    """As large as the other operand, also once that has lost channels."""
    x, other = t.value(node.args[0]), t.value(node.args[1])
    before, after = t.shapes[node.args[0]], t.shapes[node]  # type: ignore[index]
    if len(before) == len(after) and other is not None and before[other.axis] == 1 != after[other.axis]:
        t.spaces.fix(() if x is None else x.runs, f"'{t.where(node)}' broadcasts its channels")
        return other
    if len(before) != len(after) or x is None or other is None or x.axis != other.axis:
        return None if x is None and other is None else unknown(t, node)
    t.spaces.join(x.runs, other.runs, t.where(node))
    return x


def pad(t: Tracer, node: fx.Node) -> Along | None:
    """Pads the last axes."""
    return spatial(len(node.args[1]) // 2)(t, node)  # type: ignore[arg-type]


def fake_quantize(t: Tracer, node: fx.Node) -> Along | None:
    """On an activation, with one scale for all of it."""
    return same(t, node) if argument(node, "axis") is None else unknown(t, node)


def _table(rows: Mapping[str, Rule]) -> Mapping[str, Rule]:
    return {name: rule for names, rule in rows.items() for name in names.split()}


# by the op's name, without ``aten.`` and ``.default``
RULES: Mapping[str, Rule] = _table(
    {
        "relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh silu gelu elu selu leaky_relu softplus mish softsign logit": same,
        "abs neg exp log sqrt rsqrt reciprocal square sin cos erf sign clamp clamp_min clamp_max pow.Tensor_Scalar": same,
        "celu log_sigmoid expm1 log1p getitem": same,
        "dropout feature_dropout contiguous clone alias detach to.dtype to.dtype_layout to.device": same,
        "add.Tensor sub.Tensor mul.Tensor div.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar": binary,
        "rsub.Tensor rsub.Scalar maximum minimum": binary,
        "conv1d conv2d conv1d.padding conv2d.padding conv_transpose1d conv_transpose2d.input": convolution,
        "linear": linear,
        "batch_norm": batch_norm,
        "prelu": prelu,
        "max_pool2d avg_pool2d adaptive_avg_pool2d upsample_nearest2d upsample_nearest2d.vec upsample_bilinear2d.vec": spatial(2),
        "max_pool1d avg_pool1d adaptive_avg_pool1d upsample_nearest1d upsample_nearest1d.vec upsample_linear1d.vec": spatial(1),
        "pad constant_pad_nd": pad,
        "cat": concat,
        "flatten.using_ints": flatten,
        "view reshape": reshape,
        "mean.dim sum.dim_IntList amax amin max.dim min.dim std.dim std.correction var.dim var.correction linalg_vector_norm": reduce,
        "flip roll": turn,
        "expand_as": expand_as,
        "adaptive_max_pool2d": spatial(2),
        "adaptive_max_pool1d": spatial(1),
        "permute transpose.int": permute,
        "unsqueeze": unsqueeze,
        "squeeze.dim squeeze.dims": squeeze,
        "slice.Tensor softmax.int log_softmax.int cumsum": elsewhere("dim"),
        "select.int": elsewhere("dim", drops=True),
        "sym_size.int": no_tensor,
        "karui.fake_quantize": fake_quantize,
        "karui.binarize": same,
    }
)


def rule_of(node: fx.Node) -> Rule:
    """The op's row; ``unknown`` for one without."""
    name = "getitem" if node.target is operator.getitem else str(node.target)
    return RULES.get(name.removeprefix("aten.").removesuffix(".default"), unknown)
