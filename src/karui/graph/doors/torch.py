"""A torch module → Network."""

import copy
import inspect
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from karui.errors import CaptureError
from karui.graph.canonical import canonical
from karui.graph.network import InputSpec, Network

TOLERANCE = 1e-5


def capture(
    module: nn.Module | str | PathLike[str], example: Tensor | Sequence[Tensor] | None = None, *, name: str | None = None
) -> Network:
    """Capture a trained module as one graph with a free batch size.

    module: an ``nn.Module`` (left untouched; parameters are copied, on the CPU), or the path of a ``.pt2`` file. example: the tensors that
    its ``forward`` takes, with the batch as first axis; all other sizes are fixed by it. Raises CaptureError in one line, with the line of
    the user's code where it is known.
    """
    if not isinstance(module, nn.Module):
        return Network.load(module)
    inputs = _inputs(example)
    twin = copy.deepcopy(module).cpu()
    with torch.random.fork_rng(devices=[]):
        program = _export(twin, inputs)
        ties = _ties(twin)
        graph, outputs = canonical(program, {other: first for first, others in ties.items() for other in others})
        graph.train()
        used = {str(node.target) for node in graph.graph.find_nodes(op="get_attr")}
        network = Network(
            graph,
            inputs=_specs(graph, inputs),
            outputs=outputs,
            ties={first: others for first, others in ties.items() if first in used},
            name=name or type(module).__name__.lower(),
        )
    network.train(module.training)
    return network


def _inputs(example: Tensor | Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    tensors = (example,) if isinstance(example, Tensor) else tuple(example or ())
    return tuple(_at_least_two(x.detach().cpu()) for x in tensors)


def _at_least_two(x: Tensor) -> Tensor:
    """Two samples: torch.export takes a size of one for a constant."""
    return torch.cat([x, x])[:2].clone() if len(x) < 2 else x[:2].clone()


def _export(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    free: Any = tuple({0: Dim.DYNAMIC} for _ in inputs)
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        free = (*free[:named], free[named:])
    return torch.export.export(module.train(), inputs, dynamic_shapes=free)


def _ties(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Parameters with several names: the first → the others."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}


def _specs(module: torch.fx.GraphModule, inputs: tuple[Tensor, ...]) -> tuple[InputSpec, ...]:
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    if len(placeholders) != len(inputs):
        raise CaptureError(f"the graph takes {len(placeholders)} inputs, the example has {len(inputs)}")
    return tuple(
        InputSpec(name=str(node.target), shape=tuple(x.shape[1:]), dtype=str(x.dtype).removeprefix("torch."))
        for node, x in zip(placeholders, inputs)
    )
