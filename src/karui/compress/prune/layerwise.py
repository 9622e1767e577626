"""Pruning without retraining: layer by layer, what is left of a weight is solved anew so that the layer's outputs stay."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite, prod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F

from karui.compress.layerwise import LAYERS, Site, gains, second, walk
from karui.compress.prune.allocation import Allocation, AllocationName, Layer, allocated, allocation_of, largest
from karui.compress.prune.evidence import Evidence, first
from karui.compress.prune.importance import ImportanceName, Seen, WeightImportance, weight_importance
from karui.compress.prune.masked import Masked, mask_weights, zeros_in
from karui.compress.prune.patterns import pattern_of
from karui.compress.select import patterns, weights
from karui.compress.solver import adapted, admm, block_saliency, chain_saliency, damped, error, reconstruct
from karui.compress.statistics import Behind, moments
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph.carry import argument
from karui.graph.network import Network

Array = NDArray[np.float64]
SPARSITY = 0.5
BATCH = 16
LEVELS = np.linspace(0, 1, 41)  # sparsities at which a layer's error is known before they are shared out
ROWS = 48  # output channels that tell a layer's error for all
DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class PruneLayerwise(Technique):
    """Mask weights after training and let the rest of each layer repair it, from calibration samples that need no targets.

    Layer by layer in the graph's order, with the inputs x̂ that the pruned layers before it give: the mask takes what costs least, then
    each output channel's weights are ``argmin ‖W x − W' x̂‖²`` over what is left, where ``W x`` is what the untouched layer gave on its
    own inputs (Frantar & Alistarh 2022, "Optimal Brain Compression", §4; He et al. 2017, "Channel pruning", eq. 1, for that target).
    Solved exactly, or where that takes minutes (10¹² operations: tens of thousands of inputs) by the sweep of SparseGPT. A layer's memory
    is K² for its K inputs per output. While training goes on the masks stay.

    sparsity: the share of zeros over the pruned layers, in [0, 1); None: 0.5, or what the pattern gives. pattern: as of ``Prune``.
    importance: "obs", ``½ w_bᵀ ([H⁻¹]_bb)⁻¹ w_b`` of each block b (Kurtic et al. 2022, "The Optimal BERT Surgeon", eq. 9) times what the
    block's output channel does to the network's outputs (``karui.compress.layerwise.gains``), or any of ``Prune``'s. rounds: of the search
    (ADMM) that makes the mask of "obs" better; 0: the blocks with the least saliency go. allocation: "global", the least sum of errors over
    all layers; "uniform", or any of ``Prune``'s.
    damping: what is added to the Hessian's diagonal, as a share of its mean; it pulls towards the old weights, the more the fewer samples
    there are. None: for each layer what serves a fifth of the samples best that was left out. asymmetric: aim at the untouched layer's
    outputs; False: at those that the old weight gives on x̂. batch_norm: the running mean and variance behind a layer change as its outputs
    do (least squares makes them smaller, which adds up from layer to layer), so the network's signals keep their size; a bias without
    batch-norm takes over what the mean lost. samples: of the calibration part, the first so many.
    include, exclude: patterns over names. Depthwise convolutions are left whole (unless ``depthwise``): they hold little, and blocks along
    input channels don't exist in them; so are weights that several layers share and transposed convolutions. All of it is told.
    """

    stage: ClassVar[Stage] = "weights"

    sparsity: float | None = None
    pattern: str = "element"
    importance: Literal["obs"] | ImportanceName | WeightImportance = "obs"
    rounds: int = 30
    allocation: AllocationName | Allocation = "global"
    damping: float | None = 0.1
    asymmetric: bool = True
    batch_norm: bool = True
    samples: int = 512
    depthwise: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pattern = pattern_of(self.pattern)
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise RecipeError(f"sparsity: expected the share of zeros in [0, 1), got {self.sparsity}")
        if pattern.m and self.sparsity is not None and abs(self.sparsity - pattern.limit) > 1e-9:
            raise RecipeError(f"sparsity: pattern {self.pattern} gives {pattern.limit:.4g}, got {self.sparsity}; leave sparsity out")
        if self.damping is not None and not (self.damping > 0 and isfinite(self.damping)):
            raise RecipeError(f"damping: expected a share above 0 such as 0.01, or None to have it chosen, got {self.damping}")
        if self.rounds < 0:
            raise RecipeError(f"rounds: expected 0 or more, got {self.rounds}")
        if self.samples < 1:
            raise RecipeError(f"samples: expected 1 or more, got {self.samples}")
        if self.importance != "obs":
            weight_importance(self.importance)
        allocation_of(self.allocation)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    @property
    def final(self) -> float:
        """The share of zeros to end with."""
        limit = pattern_of(self.pattern).limit
        return self.sparsity if self.sparsity is not None else limit if limit < 1 else SPARSITY

    def attach(self, network: Network, context: Context) -> "PrunedLayerwise":
        """Prune and reconstruct one layer after the other."""
        layers, whole = self._chosen(network)
        masked, misfits = mask_weights(network, layers, pattern_of(self.pattern))
        whole |= misfits
        for name, reason in whole.items():
            context.report(f"'{name}' is left whole: {reason}")
        batches = list(first(context.data.calibration, self.samples, BATCH, network.device))
        Surgery(self, network, context, masked, batches).operate()
        return PrunedLayerwise(network, masked, whole)

    def _chosen(self, network: Network) -> tuple[dict[str, list[fx.Node]], dict[str, str]]:
        """The weights to prune with their nodes, and those that are left whole, each with the reason."""
        layers = weights(network, self.include, self.exclude)
        reasons = {name: reason for name, nodes in layers.items() if (reason := self._spared(network, name, nodes))}
        if len(reasons) == len(layers):
            told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise RecipeError(f"include: no chosen layer of '{network.name}' can be pruned layer by layer: {told}")
        return {name: nodes for name, nodes in layers.items() if name not in reasons}, reasons

    def _spared(self, network: Network, name: str, nodes: Sequence[fx.Node]) -> str:
        if len(nodes) > 1:
            return "several layers share it"
        if str(nodes[0].target) not in LAYERS:
            return f"{nodes[0].target} has no layer-wise solver"
        if "conv" in str(nodes[0].target) and argument(nodes[0], "groups") > 1 and network.get(name).shape[1] == 1 and not self.depthwise:
            return "a depthwise convolution (depthwise=True prunes it)"
        return ""


class PrunedLayerwise(Attached):
    """Nothing is left to do: the masks stand."""

    settles = 0.0

    def __init__(self, network: Network, masked: tuple[Masked, ...], whole: dict[str, str]) -> None:
        self.network, self.masked, self.whole = network, masked, whole

    def finish(self) -> dict[str, Any]:
        """What share of zeros there is, in all and per layer, and what was left whole, with the reason."""
        masks = {each.name: each.mask(self.network) for each in self.masked}
        zeros = {name: zeros_in(mask) for name, mask in masks.items()}
        layers = {name: zeros[name] / mask.numel() for name, mask in masks.items()}
        return {"sparsity": sum(zeros.values()) / sum(mask.numel() for mask in masks.values()), "layers": layers, "whole": self.whole}


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One layer's least squares, group by group.

    weight: float64 ``[groups, O / groups, K]``, what would give the wanted outputs on the inputs of now were nothing pruned. hessian:
    damped, ``[groups, K, K]``, of what deviates from the mean where a bias takes the mean. inverse: H⁻¹.
    """

    weight: Tensor
    hessian: Tensor
    inverse: Tensor

    def solved(self, mask: Tensor) -> Tensor:
        """The best weight with zeros where the mask (of the parameter's shape) is 0, of that shape, float64."""
        masks = mask.reshape(self.weight.shape)
        parts = [reconstruct(w, m, h, damping=0.0) for w, m, h in zip(self.weight, masks, self.hessian, strict=True)]
        return torch.stack(parts).reshape(mask.shape)


class Surgery:
    """The work on one network. before: the network as it was."""

    def __init__(
        self, settings: PruneLayerwise, network: Network, context: Context, masked: tuple[Masked, ...], batches: list[Batch]
    ) -> None:
        self.settings, self.network, self.masked, self.batches = settings, network, masked, batches
        self.before = network.copy().eval()
        self.names = [each.name for each in masked]
        self.gains = gains(self.before, batches, self.names, seed=context.seed)
        self.evidence = Evidence(self.before, context.data, samples=settings.samples)

    def operate(self) -> None:
        """Prune each layer and reconstruct it, before the next one is looked at."""
        shares = self.shares()
        now = walk(self.network, self.batches, self.names)
        then = walk(self.before, self.batches, self.names) if self.settings.asymmetric else now
        for each in self.masked:
            site = next(now)
            was = next(then) if self.settings.asymmetric else site
            behind = Behind.of(self.network, site.node, variance=self.settings.batch_norm)
            old = moments(was) if behind else None
            problem = self.problem(each, site, was, shares[each.name], centred=behind is not None)
            layer, scores = self.layer(each, problem)
            self._mask(each, problem, layer, scores, shares[each.name])
            self.network.get(each.name).detach().copy_(problem.solved(each.mask(self.network)))
            if behind and old:
                behind.follow(self.network, old, moments(site))

    def _mask(self, each: Masked, problem: Problem, layer: Layer, scores: Tensor, share: float) -> None:
        """Mask what costs least."""
        rounds, pattern = self.settings.rounds, each.units.pattern
        if self.settings.importance != "obs" or not rounds:
            return each.put(self.network, layer.kept(share), scores, free=False)
        gain, shape = self.gains[each.name].reshape(*problem.weight.shape[:2], 1), each.units.layout.shape

        def worth(values: Tensor) -> tuple[Tensor, Tensor]:
            return each.scores(self.network, each.checked((values * gain).reshape(shape)), free=False)

        def choose(values: Tensor, progress: float) -> Tensor:
            units, weights = worth(values)
            stays = replace(layer, scores=units).kept(share if pattern.m else share * progress)
            return each.units.mask(stays, weights).reshape(values.shape)

        mask = admm(problem.weight, problem.hessian, choose, rounds=rounds)
        own = each.mask(self.network)
        own.copy_(mask.reshape(shape) & (own != 0))

    def shares(self) -> dict[str, float]:
        """Each layer's sparsity."""
        final = self.settings.final
        if pattern_of(self.settings.pattern).m or self.settings.allocation == "uniform":
            return dict.fromkeys(self.names, final)
        layers = []
        for each, site in zip(self.masked, walk(self.before, self.batches, self.names), strict=True):
            centred = Behind.of(self.before, site.node, variance=False) is not None
            layers.append(self.layer(each, self.problem(each, site, site, final, centred=centred), curve=True)[0])
        rule = cheapest if self.settings.allocation == "global" else allocation_of(self.settings.allocation)
        return dict(zip(self.names, allocated(rule, layers, final), strict=True))

    def problem(self, each: Masked, site: Site, was: Site, share: float, *, centred: bool) -> Problem:
        """What is to be solved for a layer: ``W x`` of ``was`` with the inputs of ``site``."""
        damping = self.settings.damping
        if damping is None:
            damping = chosen_damping(site, share, _columns(each), each.units.pattern.columns, centred=centred)
        hessian, cross = second(site, site, centred), second(was, site, centred)
        weight = was.weight().double().reshape(site.groups, -1, hessian.shape[1])
        safe = torch.stack([damped(h, damping) for h in hessian])
        factor, failed = torch.linalg.cholesky_ex(safe)
        if bool(failed.any()):
            raise RecipeError(f"damping: {damping:g} is too little for '{each.name}' with {site.samples} input vectors; try 0.1, or None")
        aimed = torch.stack([adapted(w, s, c + s - h) for w, s, c, h in zip(weight, safe, cross, hessian, strict=True)])
        return Problem(weight=aimed, hessian=safe, inverse=torch.cholesky_inverse(factor))

    def layer(self, each: Masked, problem: Problem, *, curve: bool = False) -> tuple[Layer, Tensor]:
        """The layer as an allocation sees it, and the scores of its weights (from which n:m chooses)."""
        units, scores = self._scores(each, problem)
        shape, least = each.units.layout.shape, 0 if each.units.pattern.m else 1
        layer = Layer(name=each.name, shape=shape, scores=units, size=each.units.size, least=least)
        if curve:
            losses = self._curve(each, problem, layer, scores)
            layer = replace(layer, loss=lambda sparsity: float(np.interp(sparsity, LEVELS, losses)))
        return layer, scores

    def _scores(self, each: Masked, problem: Problem) -> tuple[Tensor, Tensor]:
        shape = each.units.layout.shape
        if self.settings.importance != "obs":
            seen = Seen(name=each.name, weight=each.weight(self.network), evidence=self.evidence)
            return each.scores(self.network, each.checked(weight_importance(self.settings.importance)(seen)), free=False)
        order, width = _columns(each), each.units.pattern.columns
        rows = torch.cat(
            [block_saliency(w[:, order], i[order][:, order], width) for w, i in zip(problem.weight, problem.inverse, strict=True)]
        )
        rows = rows * self.gains[each.name][:, None]
        if width == 1 and each.units.pattern.rows == 1:
            return each.scores(self.network, each.checked(each.units.layout.weight(rows).reshape(shape)), free=False)
        high = each.units.pattern.rows
        padded = F.pad(rows, (0, 0, 0, -len(rows) % high)).reshape(-1, high, rows.shape[1]).sum(1)
        units = (padded.flatten() / each.units.sizes).float()
        return units.masked_fill(~each.stays(self.network), -torch.inf), torch.zeros(shape)

    def _curve(self, each: Masked, problem: Problem, layer: Layer, scores: Tensor) -> Array:
        """The least error at each of ``LEVELS`` when units leave in the order of their scores; some output channels tell it for all."""
        kept = torch.stack([each.units.mask(layer.kept(level), scores) for level in LEVELS.tolist()]).sum(0)  # at how many levels
        groups, high, wide = problem.weight.shape
        total = np.zeros(len(LEVELS) + 1)
        chosen = range(0, groups * high, max(1, groups * high // ROWS))
        for row in chosen:
            stays = kept.reshape(-1, wide)[row]
            costs = chain_saliency(problem.weight[row // high, row % high], problem.inverse[row // high], stays.argsort(stable=True))
            total += np.bincount(stays.numpy(), costs.numpy() * float(self.gains[each.name][row]), minlength=len(total))
        return total.cumsum()[: len(LEVELS)] * (groups * high / len(chosen))


# ── the parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _columns(each: Masked) -> Tensor:
    """The columns of a weight of the graph, ``[O, K]``, in the Program's order."""
    layout = each.units.layout
    return layout.matrix(torch.arange(prod(layout.shape[1:])).expand(layout.shape[0], -1).reshape(layout.shape))[0]


def chosen_damping(site: Site, share: float, order: Tensor, width: int, *, centred: bool) -> float:
    """The damping with which a layer, solved on four fifths of the batches, has the least error on the others.

    Tried on some output channels, at about this sparsity in blocks of ``width`` columns (taken in ``order``). More samples need less, so a
    fifth is taken off. With one batch: the least.
    """
    if len(site.inputs) < 2:
        return DAMPINGS[0]
    held = replace(site, inputs=site.inputs[::5])
    rest = replace(site, inputs=tuple(x for place, x in enumerate(site.inputs) if place % 5))
    wide = site.hessian.shape[1]
    weight = site.weight().double().reshape(site.groups, -1, wide)
    weight = weight[:, :: max(1, weight.shape[1] * site.groups // ROWS)]
    truth, seen = second(held, held, centred), second(rest, rest, centred)

    def left(damping: float) -> float:
        total = 0.0
        for w, h, t in zip(weight, seen, truth, strict=True):
            safe = damped(h, damping)
            rows = block_saliency(w[:, order], torch.cholesky_inverse(torch.linalg.cholesky(safe))[order][:, order], width)
            keep = largest(rows.flatten(), round(share * rows.numel())).reshape(rows.shape)
            mask = torch.zeros_like(w, dtype=torch.bool)
            mask[:, order] = keep.repeat_interleave(width, 1)[:, :wide]
            total += error(w, reconstruct(w, mask, safe, damping=0.0), t)
        return total

    return 0.8 * min(DAMPINGS, key=left)


def cheapest(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """The sparsities with the least sum of losses: each layer goes down its curve (made convex) as far as the slope is the same for all."""
    steps = []
    for place, layer in enumerate(layers):
        points: list[tuple[float, float]] = []
        for zeros, loss in ((layer.weights * share, layer.loss(share)) for share in LEVELS.tolist() if share <= layer.most):
            while len(points) > 1 and _slope(points[-2], points[-1]) >= _slope(points[-2], (zeros, loss)):
                points.pop()
            points.append((zeros, loss))
        steps += [(_slope(a, b), place, b[0] - a[0]) for a, b in pairwise(points)]
    left, gone = sparsity * sum(layer.weights for layer in layers), [0.0] * len(layers)
    for _, place, zeros in sorted(steps):
        gone[place] += min(zeros, left)
        left -= min(zeros, left)
    return [each / layer.weights for each, layer in zip(gone, layers, strict=True)]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
