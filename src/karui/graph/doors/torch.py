"""A torch module → Network."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy

from karui.errors import CaptureError
from karui.graph import failures, modes
from karui.graph.canonical import canonical
from karui.graph.doors.computed import copied, made_plain
from karui.graph.fidelity import tensors_of, verify
from karui.graph.network import InputSpec, Network
from karui.graph.tidy import tidied


def capture(module: nn.Module, example: Tensor | Sequence[Tensor] | None = None, *, name: str | None = None) -> Network:
    """Capture a trained module as one graph with a free batch size, in the module's own mode.

    module: left untouched; its parameters are copied, to the CPU and to float32. example: the tensor or tensors that its ``forward`` takes,
    with the batch as first axis; all other sizes are fixed by it. Weights under torch's weight norm, spectral norm or a parametrization
    become plain ones. Where a forward branches on ``self.training`` itself (auxiliary outputs, stochastic depth by hand), its branch for
    evaluation is captured, and trained. Raises CaptureError in one line, with the line of the user's code where it is known.
    """
    inputs = _inputs(example)
    with torch.random.fork_rng(devices=[]):
        twin = _twin(module)
        three = tuple(torch.cat([x, x[:1]]) for x in inputs)
        expected = _reference(twin, inputs, three)
        network = _faithful(twin, inputs, three, expected, name or type(module).__name__.lower())
    return network.train(module.training)


def _faithful(twin: nn.Module, inputs: tuple[Tensor, ...], three: tuple[Tensor, ...], expected: tuple[Tensor, ...], name: str) -> Network:
    """The module as it trains, if that graph computes in evaluation what the module does; else as it evaluates."""
    first: CaptureError | None = None
    for training in (True, False):
        try:
            program = _export(twin.train(training), inputs)
            network = _network(program, twin, inputs, name)
            if not training:
                modes.arm(network.module.graph)
            tidied(network)
            verify(network, twin, three, expected)
            return network
        except CaptureError as error:
            first = first or error
    assert first is not None
    raise first


# ── what comes in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _inputs(example: Tensor | Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """Two samples of each input, copied to the CPU; torch.export takes a size of one for a constant."""
    tensors: tuple[Any, ...] = (example,) if isinstance(example, Tensor) else tuple(example) if isinstance(example, Sequence) else ()
    if not tensors or not all(isinstance(x, Tensor) and x.dim() > 0 for x in tensors):
        raise CaptureError(
            "capture needs an example: the tensor (or the tuple of tensors) that forward takes, with the batch as first axis"
        )
    if len({len(x) for x in tensors}) != 1 or len(tensors[0]) == 0:
        sizes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise CaptureError(f"the example's inputs are {sizes}: expected the same number of samples (at least one) as first axis of each")
    plain = [x.detach().cpu().float() if x.is_floating_point() else x.detach().cpu() for x in tensors]
    return tuple(torch.cat([x, x])[:2].clone() for x in plain)


def _twin(module: nn.Module) -> nn.Module:
    """A copy to work on, on the CPU and in float32."""
    for path, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.momentum is None and child.track_running_stats:
            raise CaptureError(
                f"'{path}' is a {type(child).__name__} with momentum=None, whose average needs a counter; give it momentum=0.1"
            )
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise CaptureError(f"'{path}' has no shape yet (a lazy layer); run the network once on an example before capturing it")
    try:
        return made_plain(copied(module).cpu().float())
    except Exception as error:  # a module may hold anything, and copying it may raise anything
        raise CaptureError(
            f"{type(module).__name__} can't be copied: {failures.reason_of(error)}; make it work with copy.deepcopy"
        ) from None


def _reference(module: nn.Module, two: tuple[Tensor, ...], three: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What the module itself computes for three samples in evaluation."""
    module.eval()
    with torch.no_grad():
        try:
            module(*copy.deepcopy(two))
        except Exception as error:  # the user's code may raise anything
            line = failures.line_of(error)
            raise CaptureError(
                f"{line}the network fails on the example itself: {failures.reason_of(error)}; check the example's shape"
            ) from None
        try:
            outputs = module(*copy.deepcopy(three))
        except Exception as error:
            raise failures.fixed_batch(failures.line_of(error)) from None
    tensors = tensors_of(outputs)
    if not tensors:
        raise CaptureError(f"forward returns {type(outputs).__name__}, not tensors; return a tensor, or a tuple or dict of tensors")
    for i, y in enumerate(tensors):
        if y.dim() == 0 or len(y) != 3:
            raise CaptureError(f"output {i} is {tuple(y.shape)} for 3 samples: expected the batch as first axis; return one row per sample")
    return tensors


# ── the graph ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _export(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    free: Any = tuple({0: Dim.DYNAMIC} for _ in inputs)
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        free = (*free[:named], free[named:])
    with failures.watching() as watcher:
        try:
            return torch.export.export(module, inputs, dynamic_shapes=free)
        except Exception as error:  # torch.export has no root of its own errors
            raise failures.explain(error, watcher) from None


def _network(program: ExportedProgram, module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> Network:
    ties = _ties(module)
    graph, outputs = canonical(program, {other: first for first, others in ties.items() for other in others})
    graph.train()
    used = {str(node.target) for node in graph.graph.find_nodes(op="get_attr")}
    return Network(
        graph,
        inputs=_specs(graph, inputs),
        outputs=outputs,
        ties={first: others for first, others in ties.items() if first in used},
        name=name,
    )


def _ties(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Parameters and buffers with several names: the first → the others."""
    names: dict[int, list[str]] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        names.setdefault(id(tensor), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}


def _specs(module: GraphModule, inputs: tuple[Tensor, ...]) -> tuple[InputSpec, ...]:
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    return tuple(
        InputSpec(name=str(node.target), shape=tuple(x.shape[1:]), dtype=str(x.dtype).removeprefix("torch."))
        for node, x in zip(placeholders, inputs, strict=True)
    )
