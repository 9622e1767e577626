"""Tidy: one normalising pass for the graphs of all doors, so that the same network gives the same graph wherever it came from."""

from karui.graph.network import Network
from karui.graph.tidy.activations import name_activations
from karui.graph.tidy.attention import name_attention
from karui.graph.tidy.axes import settle
from karui.graph.tidy.constants import fold
from karui.graph.tidy.noise import silence
from karui.graph.tidy.norms import name_norms
from karui.graph.tidy.onehot import name_lookups


def tidied(network: Network) -> Network:
    """The network with one op for each meaning: no idle casts and copies, no permutes that undo each other, nothing spelled out."""
    silence(network)
    if settle(network):
        fold(network)
    name_norms(network)
    name_lookups(network)
    name_attention(network)
    while name_activations(network):  # a hard-swish may be made of a hard-sigmoid that was found just now
        pass
    return network
