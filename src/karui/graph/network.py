"""Network: a captured graph that trains, evaluates, copies, saves and loads."""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from karui.errors import DataError, RunError
from karui.graph import modes


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input: its name, its shape without the batch axis, and its dtype as torch writes it (``"float32"``, ``"int64"``)."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Network:
    """The one graph that every technique edits.

    module: the ``torch.fx.GraphModule``; every call_function node is a functional ATen op or a form, every get_attr node names one
    parameter or buffer. inputs, outputs: what goes in (in order) and the names of what comes out. ties: a parameter's name → its other
    names in the user's module, all of them one tensor here. structure: how many times parameters were replaced by ones of another shape.
    taps: names of inner values that the module gives behind its outputs, for a loss to look at (``edit.tap``); ``tapped`` holds those of
    the last call, with their gradients' history. metadata: what the file that it came from says of itself, for the file that it leaves as.
    """

    def __init__(
        self,
        module: GraphModule,
        *,
        inputs: tuple[InputSpec, ...],
        outputs: tuple[str, ...],
        ties: Mapping[str, tuple[str, ...]] | None = None,
        name: str = "network",
        structure: int = 0,
        taps: tuple[str, ...] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self.inputs = inputs
        self.outputs = outputs
        self.ties: dict[str, tuple[str, ...]] = dict(ties or {})
        self.name = name
        self.structure = structure
        self.taps = taps
        self.metadata: dict[str, str] = dict(metadata or {})
        self.tapped: dict[str, Tensor] = {}

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it on a batch of any size; always a tuple, in the order of ``outputs``. Raises DataError for inputs of another shape."""
        if len(inputs) != len(self.inputs):
            raise DataError(f"network '{self.name}' takes {len(self.inputs)} inputs ({self._takes()}), got {len(inputs)}")
        for spec, x in zip(self.inputs, inputs):
            if tuple(x.shape[1:]) != spec.shape or x.dim() == 0:
                raise DataError(
                    f"network '{self.name}' was captured for {self._takes()}, got '{spec.name}' {list(x.shape)}: only N is free;"
                    " resize the data, or capture the network with an example of this shape"
                )
        return self.sorted_out(self.module(*inputs))

    def sorted_out(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs among what the module gives; the rest is laid down in ``tapped``."""
        if not self.taps:
            return values
        own = len(self.outputs)
        self.tapped = dict(zip(self.taps, values[own:], strict=True))
        return values[:own]

    def _takes(self) -> str:
        return ", ".join(f"'{spec.name}' {['N', *spec.shape]}".replace("'N'", "N") for spec in self.inputs)

    @property
    def training(self) -> bool:
        """Whether batch-norm and dropout work as in training."""
        return self.module.training

    def train(self, training: bool = True) -> Self:
        """Switch to training (or, with False, to evaluation); returns itself."""
        if training != self.module.training:
            modes.switch(self.module.graph, training)
            self.module.recompile()
            self.module.train(training)
        return self

    def eval(self) -> Self:
        """Switch to evaluation; returns itself."""
        return self.train(False)

    def hold_statistics(self, held: bool = True, among: Iterable[Node] | None = None) -> None:
        """Whether batch-norms keep their running statistics and normalise by them in training too, until told otherwise.

        among: nodes of the graph; none: all.
        """
        modes.hold(self.module.graph.nodes if among is None else among, held, self.training)
        self.module.recompile()

    def example(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Inputs of the right shapes and dtypes, on the network's device: normal noise, the same each time; zeros for integers."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for spec in self.inputs:
            shape, dtype = (batch, *spec.shape), getattr(torch, spec.dtype)
            made.append(torch.randn(shape, generator=generator).to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype))
        return tuple(x.to(self.device) for x in made)

    @property
    def device(self) -> torch.device:
        """Where its parameters and buffers are; ``network.module.to(device)`` moves them."""
        return next((tensor.device for tensor in self.state().values()), torch.device("cpu"))

    # ── parameters and buffers, by name ─────────────────────────────────────────────────────────────────────────────────────────

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter, each once."""
        return dict(self.module.named_parameters())

    def buffers(self) -> dict[str, Tensor]:
        """Every buffer: running statistics, masks, scales, constants."""
        return dict(self.module.named_buffers())

    def get(self, name: str) -> Tensor:
        """The parameter or buffer of this name (or of a tied name); raises KeyError."""
        owner, leaf = self._owner(self.canonical_name(name))
        for table in (owner._parameters, owner._buffers):
            tensor = table.get(leaf)
            if tensor is not None:
                return tensor
        raise KeyError(f"network '{self.name}' has no parameter or buffer '{name}'")

    def set(self, name: str, tensor: Tensor) -> None:
        """Replace a parameter or buffer; a parameter stays one, as trainable as it was. Another shape counts as a change of structure."""
        old = self.get(name)
        owner, leaf = self._owner(self.canonical_name(name))
        tensor = tensor.detach().contiguous()
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=old.requires_grad)
        else:
            owner._buffers[leaf] = tensor
        if tensor.shape != old.shape:
            self.structure += 1

    def add_parameter(self, name: str, tensor: Tensor) -> None:
        """Register a new trainable parameter; raises KeyError if the name is taken."""
        owner, leaf = self._vacant(name)
        owner.register_parameter(leaf, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach().clone()))

    def add_buffer(self, name: str, tensor: Tensor) -> None:
        """Register a new buffer; raises KeyError if the name is taken."""
        owner, leaf = self._vacant(name)
        owner.register_buffer(leaf, tensor.detach().clone())

    def remove(self, name: str) -> None:
        """Forget a parameter or buffer that no node reads any more."""
        self.get(name)
        owner, leaf = self._owner(name)
        delattr(owner, leaf)

    def canonical_name(self, name: str) -> str:
        """The first name of a tied parameter; any other name as it is."""
        return next((first for first, others in self.ties.items() if name in others), name)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        try:
            return self.module.get_submodule(path), leaf
        except AttributeError:
            raise KeyError(f"network '{self.name}' has no parameter or buffer '{name}'") from None

    def _vacant(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        owner: nn.Module = self.module
        for part in filter(None, path.split(".")):
            if not isinstance(owner._modules.get(part), nn.Module):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if hasattr(owner, leaf):
            raise KeyError(f"network '{self.name}' already has '{name}'")
        return owner, leaf

    # ── state and copies ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, detached, sharing memory with the network."""
        return {name: tensor.detach() for name, tensor in (self.parameters() | self.buffers()).items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy values in; names and shapes must be exactly the network's own, else RunError."""
        own = self.state()
        if missing := sorted(own.keys() ^ state.keys()):
            raise RunError(f"the state is of another network than '{self.name}': it differs in {_some(missing)}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise RunError(f"the state is of another network: '{name}' is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def fingerprint(self) -> str:
        """A hash of all tensors and their names: 16 hex digits."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.state().items()):
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            total.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()[:16]

    def copy(self) -> "Network":
        """An independent network: its own graph, parameters and buffers."""
        twin = Network(
            copy.deepcopy(self.module),
            inputs=self.inputs,
            outputs=self.outputs,
            ties=self.ties,
            name=self.name,
            structure=self.structure,
            taps=self.taps,
            metadata=self.metadata,
        )
        twin.module.train(self.module.training)
        return twin

    def become(self, other: "Network") -> None:
        """Take over another network's graph and tensors (which it then shares), keeping this object's identity."""
        self.__dict__.update(other.__dict__)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one ``.pt2`` file: graph with forms, tensors, ties, mode; no pickled objects and no data."""
        from karui.graph import archive  # the archive builds Networks

        archive.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Network":
        """Read a file that ``save`` wrote, after inspecting it: nothing in it is run. Raises FileError."""
        from karui.graph import archive

        return archive.load(path)

    # ── the graph ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def layer_of(self, node: Node) -> str:
        """The path of the user's layer that a node came from (``blocks.0.conv1``, ``blocks.0.add``), for messages and reports."""
        if node.op == "get_attr":
            return str(node.target)
        return str(node.meta.get("karui_layer") or node.name)

    def node_of(self, name: str) -> Node:
        """The get_attr node of a parameter or buffer; raises KeyError if no node reads it."""
        name = self.canonical_name(name)
        for node in self.module.graph.find_nodes(op="get_attr"):
            if node.target == name:
                return node
        raise KeyError(f"no node of network '{self.name}' reads '{name}'")

    def results(self) -> list[Node]:
        """The nodes that make the outputs, in order; a value may be several of them. Taps are left out."""
        (output,) = self.module.graph.find_nodes(op="output")
        return list(output.args[0][: len(self.outputs)])

    def values(self, batch: int = 2) -> dict[Node, Any]:
        """Each node's value for a batch of this size as a fake tensor: ``.shape`` and ``.dtype``, no data, nothing computed."""
        from karui.graph.shapes import fake_values

        return fake_values(self.module, self.example(batch))


def _some(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
