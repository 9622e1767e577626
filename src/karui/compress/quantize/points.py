"""Which values of a network are quantized, and which of them are for chosen layers only."""

from collections.abc import Collection, Iterator

import torch
from torch import fx

from karui.compress.select import weights
from karui.graph import edit, placement
from karui.graph.carry import parameter_of
from karui.graph.network import Network

FAKE_QUANTIZE = torch.ops.karui.fake_quantize.default
BINARIZE = torch.ops.karui.binarize.default
TRANSPOSED = frozenset({torch.ops.aten.conv_transpose1d.default, torch.ops.aten.conv_transpose2d.input})


def in_codes(network: Network) -> set[str]:
    """The weights of layers that have a form whose values are whole numbers of steps."""
    every = weights(network, ("*",), ())
    return {name for name in every if any(form.op in (FAKE_QUANTIZE, BINARIZE) for form in edit.forms_on(network, name))}


def channel_axis(nodes: list[fx.Node]) -> int | None:
    """The axis of a weight's output channels; None where scales can't go along it (a grouped transposed convolution, or mixed users)."""
    transposed = {node.target in TRANSPOSED for node in nodes}
    if transposed == {False}:
        return 0
    groups = [(list(node.args) + [1] * 8)[6] for node in nodes]
    return 1 if transposed == {True} and all(g == 1 for g in groups) else None


def needed_points(network: Network) -> list[fx.Node]:
    """The activation points that an integer op makes or reads, and what float ops (a layer-norm, a GRU) hand to quantized layers.

    Values between float layers stay float.
    """
    quantized = in_codes(network)
    points = placement.activation_points(network)
    needed = {p for p in points if _in_integers(_start(p), quantized) or any(_in_integers(reader, quantized) for reader in readers_of(p))}
    for node in network.module.graph.nodes:
        if node.target in placement.CONVOLUTIONS | placement.LINEARS and _in_integers(node, quantized):
            needed |= _handed_over(node.all_input_nodes[0], needed)
    return [node for node in network.module.graph.nodes if node in needed]


def _handed_over(value: fx.Node, points: set[fx.Node]) -> set[fx.Node]:
    """The value to quantize so that a layer reads integers, if none on the way to it is quantized: where its last new numbers come from."""
    made: fx.Node | None = None
    while value not in points:
        if made is None and value.target not in placement.MOVES - placement.CLAMPS:
            made = value
        if value.target is FAKE_QUANTIZE and not is_narrowing(value):  # from an earlier phase: calibrated anew
            return {value.all_input_nodes[0]}
        if value.target not in placement.MOVES | {FAKE_QUANTIZE}:
            return {made} if made is not None and made.op == "call_function" else set()
        value = value.all_input_nodes[0]
    return set()


def _in_integers(node: fx.Node, quantized: set[str]) -> bool:
    if node.target in placement.CONVOLUTIONS | placement.LINEARS:
        return node.target not in TRANSPOSED and parameter_of(node.args[1]) in quantized
    if node.target in placement.UNARY:  # a table of codes, where its input is one
        source = placement.source_of(node.all_input_nodes[0])
        return _in_integers(_start(source), quantized)
    return node.target in placement.ADDS | placement.MEANS | placement.POOLS | placement.CATS


def _start(point: fx.Node) -> fx.Node:
    """The op at the start of the chain that ends here."""
    node = point
    while node.target in placement.CLAMPS | placement.BATCH_NORMS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def readers_of(point: fx.Node) -> Iterator[fx.Node]:
    """The ops that read a value, past what only moves it."""
    pending = list(point.users)
    seen: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target in placement.MOVES or node.target is FAKE_QUANTIZE:
            pending.extend(node.users)
        else:
            yield node


# ── fewer bits for the inputs of some layers ────────────────────────────────────────────────────────────────────────────────────


def is_for(point: fx.Node, layers: Collection[fx.Node]) -> bool:
    """Whether a value is read by these layers alone."""
    readers = set(readers_of(point))
    return bool(readers) and readers <= set(layers)


def is_narrowing(node: fx.Node) -> bool:
    """Whether a quantizer stands behind another: some readers of that one's value take fewer bits."""
    return node.target is FAKE_QUANTIZE and quantizer_behind(node.all_input_nodes[0]) is not None


def quantizer_behind(value: fx.Node) -> fx.Node | None:
    """The quantizer that a value went through last, past what only moves it."""
    while value.target in placement.MOVES and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return value if value.target is FAKE_QUANTIZE else None
