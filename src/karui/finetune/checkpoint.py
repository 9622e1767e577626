"""Where training stands, as one file: a kill in the middle of a write leaves the checkpoint before it, never a torn pair.

The file is a safetensors file: ``network.NAME``, ``optimizer.KEY.NAME``, ``best.NAME`` and ``techniques.NAME`` hold tensors, ``graph``
the bytes of the network's ``.pt2`` where a technique changed its structure since the phase began, and the header's ``karui`` entry the rest
as JSON. Random numbers need no state in it: each step and each epoch seeds them anew (``schedule.derive``).
"""

import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from karui.errors import FileError, RunError
from karui.graph.network import Network
from karui.workspace import TEMPORARY, atomic_write

FORMAT = 2
PARTS = ("network", "optimizer", "best", "techniques")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that the loop needs to go on.

    step: steps made in this phase. network: the tensors that training changes, by name (``memory.tensors_of``). optimizer: its own, by
    name. best: as ``network``, at the best epoch (early stopping), or empty. techniques: the tensors that techniques remember
    (``memory.states_of``). graph: ``.pt2`` bytes, or None where the graph is as it was when the phase began. facts: JSON values.
    """

    step: int
    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor] = field(default_factory=dict)
    techniques: dict[str, Tensor] = field(default_factory=dict)
    graph: bytes | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoint of one phase, written at most every ``seconds``. identity: what run and phase it belongs to."""

    def __init__(self, path: str | os.PathLike[str], *, seconds: float = 20.0, identity: str = "") -> None:
        self.path, self.seconds, self.identity = Path(path), seconds, identity
        self._last = time.monotonic()

    def due(self) -> bool:
        """Has the time come?"""
        return time.monotonic() - self._last >= self.seconds

    def save(self, snapshot: Snapshot) -> None:
        """Put ``snapshot`` in place of the one before. Raises RunError when the disk is full; the one before stays."""
        tensors = {f"{part}.{name}": tensor for part in PARTS for name, tensor in getattr(snapshot, part).items()}
        ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        if snapshot.graph is not None:
            ready["graph"] = torch.frombuffer(bytearray(snapshot.graph), dtype=torch.uint8)
        header = {"format": FORMAT, "identity": self.identity, "step": snapshot.step, "facts": snapshot.facts}
        atomic_write(self.path, safetensors.torch.save(ready, metadata={"karui": json.dumps(header)}))
        self._last = time.monotonic()

    def load(self) -> Snapshot | None:
        """The last snapshot, or None where there is none. Raises FileError for a damaged file, RunError for one of another run."""
        if not self.path.exists():
            return None
        cure = f"delete '{self.path}' to start this phase again"
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["karui"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            step, facts, kind, identity = int(header["step"]), dict(header["facts"]), header["format"], header["identity"]
        except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise FileError(f"checkpoint '{self.path}' is damaged ({error}); {cure}") from error
        if kind != FORMAT or identity != self.identity:
            raise RunError(f"checkpoint '{self.path}' belongs to another run or another version of karui; {cure}")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        graph = tensors.pop("graph", None)
        for flat, tensor in tensors.items():
            part, name = flat.split(".", 1)
            parts[part][name] = tensor.clone()  # see load_network
        return Snapshot(step=step, facts=facts, graph=None if graph is None else graph.numpy().tobytes(), **parts)

    def clear(self) -> None:
        """Remove the file: the phase is over."""
        self.path.unlink(missing_ok=True)


def load_network(path: str | os.PathLike[str]) -> Network:
    """``Network.load`` into memory of torch's own alignment: kernels may round by alignment, and a resumed run has to round alike."""
    return Network.load(path).copy()


def graph_bytes(network: Network, folder: Path) -> bytes:
    """The network as the bytes of its ``.pt2`` file, made in ``folder`` under a name that a run sweeps away if this is killed."""
    with tempfile.TemporaryDirectory(prefix=".graph.", suffix=TEMPORARY, dir=folder) as place:
        path = Path(place) / "graph.pt2"
        network.save(path)
        return path.read_bytes()


def of_graph_bytes(content: bytes, folder: Path) -> Network:
    """The inverse of ``graph_bytes``."""
    with tempfile.TemporaryDirectory(prefix=".graph.", suffix=TEMPORARY, dir=folder) as place:
        path = Path(place) / "graph.pt2"
        path.write_bytes(content)
        return load_network(path)
