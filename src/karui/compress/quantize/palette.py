"""Weight sharing: each layer's weights are those of a small codebook."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from karui.compress.select import kept, patterns, refuse_unfit, weights
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.network import Network

PALETTE = torch.ops.karui.palette.default
Initialization = Literal["linear", "density", "random"]
Gradient = Literal["mean", "sum"]
Floats = NDArray[np.float64]
ROUNDS = 200  # of k-means; it ends earlier when nothing moves


@dataclass(frozen=True, kw_only=True)
class Palette(Technique):
    """Share weights: k-means over each layer's weights, then the centroids are trained.

    Han et al. 2016, "Deep compression", §3: which centroid a weight has is settled once (eq. 2), and its weights' gradients move it. What a
    mask took is no part of it and stays zero. A file writes the codebook and the indices, packed or Huffman coded, whichever is shorter.

    bits: of an index, 1 to 8: 2^bits centroids a layer, fewer where it has fewer different weights. The paper takes 8 for convolutions and
    5 for linear layers: one ``Palette`` for each. initialization: of the centroids: "linear" between the least and the greatest weight,
    which keeps the few large ones and is best in the paper; "density", at equal shares of the weights; "random", among them.
    gradient: of a centroid: "sum" of those of its weights (eq. 3), which asks for a learning rate as much smaller as it has weights (Adam
    does that by itself); "mean", the step of the weights projected on what they share, for the rate that they had.
    include, exclude: patterns over names.
    """

    stage: ClassVar[Stage] = "numbers"

    bits: int = 5
    initialization: Initialization = "linear"
    gradient: Gradient = "mean"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise RecipeError(f"bits: expected those of an index, 1 to 8, got {self.bits}")
        for name, known in (("initialization", get_args(Initialization)), ("gradient", get_args(Gradient))):
            if getattr(self, name) not in known:
                raise RecipeError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    def attach(self, network: Network, context: Context) -> "Shared":
        """Cluster each chosen weight and put its codebook on it. Raises RecipeError for one that has a number format."""
        names = list(weights(network, self.include, self.exclude))
        refuse_unfit(network, names)
        for place, name in enumerate(names):
            self._share(network, name, np.random.default_rng((context.seed, place)))
        return Shared(network, tuple(names), self.gradient)

    def _share(self, network: Network, name: str, random: np.random.Generator) -> None:
        value = edit.value_of(network, name)
        stay = kept(network, name)
        numbers = value[stay].cpu().double().numpy()
        centroids = kmeans(numbers, started(numbers, 2**self.bits, self.initialization, random))
        index = torch.zeros(value.shape, dtype=torch.uint8)
        index[stay.cpu()] = torch.from_numpy(nearest(numbers, centroids).astype(np.uint8))
        codebook = nn.Parameter(torch.from_numpy(centroids).to(value))
        edit.put_on_parameter(network, name, PALETTE, state={"codebook": codebook, "index": index.to(value.device)}, beneath=True)


class Shared(Attached):
    """Codebooks are parameters of the network: the loop trains them."""

    settles = 0.0

    def __init__(self, network: Network, names: tuple[str, ...], gradient: Gradient) -> None:
        self.network, self.names, self.gradient = network, names, gradient

    def after_backward(self, progress: float) -> None:
        """From sums to means, where those are asked for."""
        for name in self.names if self.gradient == "mean" else ():
            gradient = self.network.get(f"{name}_codebook").grad
            if gradient is not None:
                gradient.div_(self._counts(name))

    def _counts(self, name: str) -> Tensor:
        """How many weights each entry has, at least one."""
        index, stay = self.network.get(f"{name}_index").long().flatten(), kept(self.network, name).flatten()
        zeros = torch.zeros(self.network.get(f"{name}_codebook").shape, device=index.device)
        return zeros.index_add_(0, index, stay.float()).clamp_min(1)

    def finish(self) -> dict[str, Any]:
        """How many entries each codebook has."""
        return {"entries": {name: self.network.get(f"{name}_codebook").numel() for name in self.names}}


# ── clusters on a line ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def started(numbers: Floats, count: int, initialization: Initialization, random: np.random.Generator) -> Floats:
    """Where centroids begin: float64, rising, ``count`` of them, or all different numbers where those are no more."""
    different = np.unique(numbers)
    if len(different) <= count:
        return different if len(different) else np.zeros(1)
    if initialization == "linear":
        return np.linspace(different[0], different[-1], count)
    if initialization == "density":
        return np.quantile(numbers, (np.arange(count) + 0.5) / count)
    return np.sort(random.choice(different, count, replace=False))


def nearest(numbers: Floats, centroids: Floats) -> NDArray[np.int64]:
    """Which of the rising centroids each number is nearest to."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, numbers)


def kmeans(numbers: Floats, centroids: Floats) -> Floats:
    """Lloyd's algorithm until nothing moves; centroids that nobody is nearest to stay where they are. Rising."""
    line = np.sort(numbers)
    for _ in range(ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(line, (centroids[1:] + centroids[:-1]) / 2), [len(line)]])
        counts = np.diff(cuts)
        moved = centroids.copy()
        moved[counts > 0] = np.add.reduceat(line, cuts[:-1][counts > 0]) / counts[counts > 0]
        moved = np.maximum.accumulate(moved)  # means of parts of a line rise, up to the last bit
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids
