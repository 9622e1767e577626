"""What a network costs by count: parameters, multiply–accumulates, weight bytes, activation bytes, per layer and in all.

These are facts about the network, computed from shapes and forms. Bytes of a file and time on a device are measured on the artefact.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from operator import getitem
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from karui.graph.edit import Form, form_of, form_on_edge, forms_on
from karui.graph.forms import is_form
from karui.graph.network import Network
from karui.graph.placement import MOVES, is_fused

aten = torch.ops.aten

# These only look at memory in another way.
VIEWS: frozenset[Any] = frozenset(
    {
        aten.flatten.using_ints,
        aten.view.default,
        aten.reshape.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.dropout.default,
        aten.feature_dropout.default,
    }
)


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One op: its layer's path, parameters, those a mask has left, MACs of one sample, bytes of weights and of the output, its shape."""

    name: str
    op: str
    params: int
    stored: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows, in the graph's order, and their totals (a parameter that several layers share counts once, at its first)."""

    rows: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        """Parameters, all of them."""
        return sum(row.params for row in self.rows)

    @property
    def stored(self) -> int:
        """Parameters that a mask has not removed."""
        return sum(row.stored for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply–accumulates of one sample."""
        return sum(row.macs for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the stored weights, each as its form writes it, with their scales."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all outputs of one sample, none reused; for the peak see ``analyse.memory``."""
        return sum(row.activation_bytes for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: the totals, then the layers."""
        totals = {key: getattr(self, key) for key in ("params", "stored", "macs", "weight_bytes", "activation_bytes")}
        return {**totals, "layers": [asdict(row) | {"output_shape": list(row.output_shape)} for row in self.rows]}


def measure(network: Network) -> Report:
    """Count everything for one sample. Ops that karui has no count for cost no MACs."""
    values = network.values(batch=2)
    counted: set[str] = set()
    rows = [
        _row(network, node, values, counted)
        for node, value in values.items()
        if node.op == "call_function" and not is_form(node) and isinstance(_first(value), torch.Tensor) and node.target is not getitem
    ]
    return Report(rows=tuple(rows))


def macs_by_node(network: Network) -> dict[Node, int]:
    """The MACs of one sample, for each node that has any, in the graph's order."""
    values = network.values(batch=2)
    counts = {node: _macs(node, values) // 2 for node in values}
    return {node: count for node, count in counts.items() if count}


def _row(network: Network, node: Node, values: dict[Node, Any], counted: set[str]) -> LayerCost:
    params = stored = weight_bytes = 0
    for name, forms in _parameters_of(network, node):
        if name not in counted:
            counted.add(name)
            weight = weight_cost(network, name, forms)
            params, stored, weight_bytes = params + weight.params, stored + weight.stored, weight_bytes + weight.nbytes
    output = _first(values[node])
    return LayerCost(
        name=network.layer_of(node),
        op=str(node.target).removeprefix("aten.").partition(".")[0],
        params=params,
        stored=stored,
        macs=_macs(node, values) // 2,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes(node, values),
        output_shape=tuple(output.shape[1:]),
    )


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class WeightCost:
    """One parameter: how many numbers, how many after masks, bytes as its forms write them."""

    params: int
    stored: int
    nbytes: int


def weight_cost(network: Network, parameter: str, forms: list[Form] | None = None) -> WeightCost:
    """Bits of the last numeric form × stored numbers, in whole bytes, and 4 bytes for each scale or codebook entry; not where zeros are."""
    forms = forms_on(network, parameter) if forms is None else forms
    size = network.get(parameter).numel()
    stored, bits, scales = size, 32, 0
    for form in forms:
        if form.op is torch.ops.karui.mask.default:
            stored = int(network.get(form.state["mask"]).count_nonzero())
        else:
            bits, scales = bits_of(form), network.get(form.state["scale"]).numel() if "scale" in form.state else 0
            if entries := entries_of(network, form):
                bits, scales = max(1, (entries - 1).bit_length()), entries
    return WeightCost(params=size, stored=stored, nbytes=-(-stored * bits // 8) + 4 * scales)


def bits_of(form: Form) -> int:
    """How many bits a form writes one number with; 32 if it leaves it a float."""
    if form.op is torch.ops.karui.fake_quantize.default:
        return (form.constants["qmax"] - form.constants["qmin"]).bit_length()
    return 1 if form.op is torch.ops.karui.binarize.default else 32


def entries_of(network: Network, form: Form) -> int:
    """How many entries the form's codebook has; 0 if it has none."""
    return network.get(form.state["codebook"]).numel() if "codebook" in form.state else 0


def _parameters_of(network: Network, node: Node) -> list[tuple[str, list[Form]]]:
    """The parameters that a node reads, with the forms in between."""
    found = []
    for value in node.all_input_nodes:
        forms = []
        while is_form(value):
            forms.append(form_of(value))
            value = value.all_input_nodes[0]
        if value.op == "get_attr" and isinstance(network.get(str(value.target)), nn.Parameter):
            found.append((str(value.target), forms[::-1]))
    return found


# ── activations ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def activation_bytes(node: Node, values: dict[Node, Any]) -> int:
    """Bytes of a node's output for one sample: none for a stage of a fused chain or a mere view; a quantizer on it sets the bits."""
    if is_fused(node) or node.target in VIEWS:
        return 0
    tensors = [v for v in pytree.tree_leaves(values[node]) if isinstance(v, torch.Tensor)]
    return sum(-(-prod(v.shape[1:]) * activation_bits(node, v) // 8) for v in tensors)


def activation_bits(node: Node, value: torch.Tensor) -> int:
    """Bits of one number of a value: those of its quantizer, or of the quantizer that its numbers come from."""
    while True:
        form = form_on_edge(node)
        if form is not None and bits_of(form) < 32:
            return bits_of(form)
        if is_form(node) and bits_of(form_of(node)) < 32:
            return bits_of(form_of(node))
        if node.target not in MOVES or not isinstance(node.args[0], Node):
            return value.dtype.itemsize * 8
        node = node.args[0]


# ── multiply–accumulates ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _macs(node: Node, values: dict[Node, Any]) -> int:
    """Of the whole batch in ``values``."""
    rule = _MACS.get(node.target)
    return rule(node, values) if rule else 0


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and value else value


def _shape(node: Any, values: dict[Node, Any]) -> tuple[int, ...]:
    return tuple(_first(values[node]).shape)


def _convolution(node: Node, values: dict[Node, Any]) -> int:
    return prod(_shape(node, values)) * prod(_shape(node.args[1], values)[1:])


def _transposed(node: Node, values: dict[Node, Any]) -> int:
    return prod(_shape(node.args[0], values)) * prod(_shape(node.args[1], values)[1:])


def _linear(node: Node, values: dict[Node, Any]) -> int:
    return prod(_shape(node, values)) * _shape(node.args[0], values)[-1]


def _addmm(node: Node, values: dict[Node, Any]) -> int:
    return prod(_shape(node, values)) * _shape(node.args[1], values)[-1]


def _attention(node: Node, values: dict[Node, Any]) -> int:
    q, k, v = (_shape(node.args[i], values) for i in range(3))
    return prod(q) * k[-2] + prod(q[:-1]) * k[-2] * v[-1]


def _recurrent(node: Node, values: dict[Node, Any]) -> int:
    """Each step multiplies every weight matrix once, for each sample."""
    x = _shape(node.args[0], values)
    weights = node.args[2]
    assert isinstance(weights, list | tuple)
    return prod(x[:-1]) * sum(prod(s) for s in (_shape(w, values) for w in weights) if len(s) == 2)


def _einsum(node: Node, values: dict[Node, Any]) -> int:
    """One for each combination of all letters; an equation with dots isn't counted."""
    operands = str(node.args[0]).replace(" ", "").partition("->")[0].split(",")
    shapes = [_shape(operand, values) for operand in node.args[1]]  # type: ignore[union-attr]
    if "." in operands[0] or len(operands) < 2:
        return 0
    return prod(dict(pair for letters, shape in zip(operands, shapes, strict=True) for pair in zip(letters, shape, strict=True)).values())


_MACS: Mapping[Any, Callable[[Node, dict[Node, Any]], int]] = {
    aten.conv1d.default: _convolution,
    aten.conv1d.padding: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv_transpose1d.default: _transposed,
    aten.conv_transpose2d.input: _transposed,
    aten.linear.default: _linear,
    aten.matmul.default: _linear,
    aten.mm.default: _linear,
    aten.bmm.default: _linear,
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _addmm,
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
    aten.gru.input: _recurrent,
    aten.lstm.input: _recurrent,
    aten.rnn_tanh.input: _recurrent,
    aten.rnn_relu.input: _recurrent,
}
