"""What techniques hold beside the network: parameters of their own, and what they must remember to go on.

Each technique's things go by its place among those attached: ``0:NAME``, which no parameter of a network is called.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from karui.compress.technique import Attached
from karui.errors import RecipeError, RunError
from karui.graph.network import Network


def parameters_of(attached: Sequence[Attached]) -> dict[str, nn.Parameter]:
    """The techniques' own parameters, as they are now."""
    return {f"{place}:{name}": parameter for place, each in enumerate(attached) for name, parameter in each.parameters().items()}


def tensors_of(network: Network, attached: Sequence[Attached]) -> dict[str, Tensor]:
    """Everything that training changes: the network's tensors and the techniques' own; they share memory with both."""
    return network.state() | {name: parameter.detach() for name, parameter in parameters_of(attached).items()}


def put_tensors(network: Network, attached: Sequence[Attached], tensors: Mapping[str, Tensor]) -> None:
    """Copy in what ``tensors_of`` gave. Raises RunError where names or shapes are others now."""
    own = parameters_of(attached)
    network.load_state({name: tensor for name, tensor in tensors.items() if name not in own})
    with torch.no_grad():
        for name, parameter in own.items():
            found = tensors.get(name)
            if found is None or found.shape != parameter.shape:
                there = "lacks" if found is None else f"is {tuple(found.shape)}"
                raise RunError(f"technique parameter '{name}' {there} in the checkpoint, expected {tuple(parameter.shape)}; start afresh")
            parameter.copy_(found)


def states_of(attached: Sequence[Attached]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What the techniques remember: the tensors, and one JSON object per technique. Raises RecipeError for anything else."""
    tensors: dict[str, Tensor] = {}
    facts: list[dict[str, Any]] = []
    for place, each in enumerate(attached):
        state = each.state()
        tensors |= {f"{place}:{name}": value for name, value in state.items() if isinstance(value, Tensor)}
        facts.append({name: value for name, value in state.items() if not isinstance(value, Tensor)})
        try:
            json.dumps(facts[-1])
        except (TypeError, ValueError) as error:
            raise RecipeError(f"'{type(each).__name__}' has a state that JSON hasn't ({error}); return tensors and JSON values") from error
    return tensors, facts


def load_states(attached: Sequence[Attached], tensors: Mapping[str, Tensor], facts: Sequence[Mapping[str, Any]]) -> None:
    """Give each technique back what ``states_of`` told of it; tensors are on the CPU."""
    for place, (each, told) in enumerate(zip(attached, facts, strict=True)):
        own = {name.split(":", 1)[1]: tensor for name, tensor in tensors.items() if name.startswith(f"{place}:")}
        each.load_state({**own, **told})
