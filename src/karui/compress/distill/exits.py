"""Early exits: most samples are easy, and a small branch near the input knows them already."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from karui.analyse.cost import VIEWS, macs_by_node
from karui.compress.distill.soft import Said, kl
from karui.compress.select import patterns
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph import branches, edit
from karui.graph.branches import Exit, Shape
from karui.graph.exits import margin
from karui.graph.network import Network

SHARES = 8  # into which ``drop`` is cut when several exits share it
BATCH = 256
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EarlyExits(Technique):
    """Branches that classify from inner values, and thresholds of sureness at which a sample leaves there.

    Teerapittayanon et al. 2016, "BranchyNet", arXiv:1709.01686: all classifiers are trained together. Each branch learns from the labels
    and from the last scores (Zhang et al. 2019, "Be your own teacher", arXiv:1905.08094, eq. 7): ``weight · ((1 − distill) · task(branch) +
    distill · T² · KL(last / T ‖ branch / T))`` is added to the loss. A sample leaves where the branch's greatest score is by a threshold
    above its second. After training, the thresholds are chosen on validation: the most MACs saved at ``drop`` points of the metric lost, at
    most, against the network that nobody leaves; an exit that isn't worth it is taken out again. A network that has exits already keeps
    them: they are trained on, and their thresholds are chosen anew (after quantization, say; 0 steps will do).

    after: names of the layers (or of an input) behind which exits branch off; none: ``count`` places are found, the last before
    1 / (count + 1), 2 / (count + 1), … of the MACs, or the next where there is none. channels, depth, grid, pool, hidden: what a branch
    is made of: stages of 3 × 3 convolutions, batch-norms and ReLUs with so many channels (one number: one stage; none: no stage), each of
    ``depth`` convolutions, the first of stride 2; pooling ("avg", "max") to ``grid`` × ``grid`` at most; a linear layer of ``hidden`` units
    (0: none); the last linear layer. weights: of each exit's loss; one number for all, or one each. distill: in [0, 1]. temperature: T > 0.
    drop: in the metric's unit. trunk: False leaves the network itself as it is, and trains the branches alone.
    """

    stage: ClassVar[Stage] = "structure"

    after: tuple[str, ...] = ()
    count: int = 1
    channels: tuple[int, ...] = ()
    depth: int = 1
    grid: int = 4
    pool: Literal["avg", "max"] = "avg"
    hidden: int = 0
    weights: tuple[float, ...] = (1.0,)
    distill: float = 0.5
    temperature: float = 3.0
    drop: float = 0.2
    trunk: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", patterns(self.after, "after"))
        object.__setattr__(self, "channels", _stages(self.channels))
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        exits = len(self.after) or self.count
        for name, least in (("count", 1), ("depth", 1), ("grid", 1), ("hidden", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if self.pool not in ("avg", "max"):
            raise RecipeError(f"pool: expected 'avg' or 'max', got {self.pool!r}")
        if len(self.weights) not in (1, exits) or not all(weight > 0 for weight in self.weights):
            raise RecipeError(f"weights: expected one number above 0 for all exits, or {exits}, got {list(self.weights)}")
        if not 0 <= self.distill <= 1:
            raise RecipeError(f"distill: expected the share of the last scores' lesson, in [0, 1], got {self.distill}")
        if not self.temperature > 0 or not self.drop >= 0:
            raise RecipeError(f"temperature, drop: expected above 0, and 0 or more, got {self.temperature} and {self.drop}")

    def attach(self, network: Network, context: Context) -> "Exiting":
        """Put the branches into the graph, deepest first; parameters are added before training begins.

        Raises RecipeError: the network doesn't end in one output of scores, a layer isn't there, no place is found.
        """
        _check(network)
        known = branches.exits_of(network)
        own = set(network.parameters()) - set().union(*(_own(network, each) for each in known))
        if not known:
            shape = Shape(channels=self.channels, depth=self.depth, grid=self.grid, pool=self.pool, hidden=self.hidden)
            places = self._places(network)
            for i, place in reversed(list(enumerate(places))):
                branches.put_exit(network, place, f"exits.{i}", shape, context.seed + i)
            edit.check(network)
        if not self.trunk:
            for name in own:
                network.get(name).requires_grad_(False)
            network.hold_statistics(among=branches.ancestors(branches.exits_of(network)[-1].late))
        return Exiting(self, network, context, () if self.trunk else tuple(sorted(own)))

    def _places(self, network: Network) -> list[fx.Node]:
        """Where the exits branch off, in the graph's order, each once."""
        order = list(network.module.graph.nodes)
        if self.after:
            named = {branches.place_named(network, name) for name in self.after}
            return [node for node in order if node in named]
        macs = macs_by_node(network)
        spent = dict(zip(order, itertools.accumulate(macs.get(node, 0) for node in order), strict=True))
        total, found = sum(macs.values()), list[fx.Node]()
        values = network.values()
        plain = [node for node in branches.narrow_places(network) if node.target not in VIEWS and values[node].dim() <= 4]
        narrow = [node for node in plain if 0 < spent[node] < total]
        for i in range(1, self.count + 1):
            free = [node for node in narrow if not found or spent[node] > spent[found[-1]]]
            before = [node for node in free if spent[node] <= total * i / (self.count + 1)]
            nearest = [node for node in free if spent[node] == spent[free[0]]]
            found += (before or nearest)[-1:]
        if not found:
            raise RecipeError(f"'{network.name}' has no place that everything later depends on, where an exit could branch off; name some")
        return found


def _stages(given: Any) -> tuple[int, ...]:
    """The channels of a branch's stages: one number, or any list of them. Raises RecipeError for anything else."""
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(channels, int) and channels > 0 for channels in found):
        raise RecipeError(f"channels: expected a list of numbers above 0, one for each stage of a branch, got {list(found)}")
    return found


def _check(network: Network) -> None:
    values = network.values()
    shapes = [tuple(values[node].shape) for node in network.results()]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] < 2:
        told = ", ".join(f"{['N', *shape[1:]]}".replace("'", "") for shape in shapes)
        raise RecipeError(f"exits: '{network.name}' gives {told}; they need one output of scores, [N, classes], of two classes or more")


def _own(network: Network, each: Exit) -> set[str]:
    """The parameters of an exit's branch."""
    prefix = each.threshold.removesuffix("threshold")
    return {name for name in network.parameters() if name.startswith(prefix)}


class Exiting(Attached):
    """Exits that nobody takes yet, while their branches learn. frozen: names of parameters that don't."""

    def __init__(self, settings: EarlyExits, network: Network, context: Context, frozen: tuple[str, ...]) -> None:
        self.settings, self.network, self.context, self.frozen = settings, network, context, frozen
        exits = branches.exits_of(network)
        if len(settings.weights) not in (1, len(exits)):
            raise RecipeError(f"weights: expected one for all, or one for each of the {len(exits)} exits, got {list(settings.weights)}")
        self.weights = settings.weights * len(exits) if len(settings.weights) == 1 else settings.weights
        self.thresholds = tuple(each.threshold for each in exits)
        for each in exits:
            network.get(each.threshold).fill_(torch.inf)
            edit.tap(network, each.early, each.threshold)

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        """The task's loss of the last scores, and each branch's."""
        settings = self.settings
        for weight, name in zip(self.weights, self.thresholds, strict=True):
            scores = self.network.tapped[name].float()
            labels = self.context.data.loss((scores,), batch.targets)
            lesson = kl(Said(student=scores, teacher=outputs[0].detach().float(), temperature=settings.temperature))
            task = task + weight * ((1 - settings.distill) * labels + settings.distill * lesson)
        return task

    def finish(self) -> dict[str, Any]:
        """Choose the thresholds on validation, take out the exits that aren't worth it; tells who leaves where, and what it costs."""
        seen = _seen(self.network, self.context, self.thresholds)
        costs = _costs(self.network)
        sign = 1 if self.context.data.metric.higher_is_better else -1
        chosen = choose(seen.margins, sign * (seen.exits - seen.last), costs, self.settings.drop / self.context.data.metric.scale)
        facts = _facts(self.network, seen, chosen, costs, self.context)
        edit.untap(self.network, self.thresholds)
        for each, threshold in zip(branches.exits_of(self.network), chosen, strict=True):
            self.network.get(each.threshold).fill_(threshold)
            if np.isinf(threshold):
                branches.remove_exit(self.network, each)
        for name in self.frozen:
            self.network.get(name).requires_grad_(True)
        if self.frozen:
            self.network.hold_statistics(False)
        if all(np.isinf(chosen)):
            self.context.report("no sample may leave early at this drop: raise drop, train longer, or give the branches more")
        return facts


# ── what validation shows ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Seen:
    """On validation: margins [exits, N], the metric's score of each sample at each exit [exits, N], and at the end [N]."""

    margins: Scores
    exits: Scores
    last: Scores


def _seen(network: Network, context: Context, names: Sequence[str]) -> Seen:
    metric, training = context.data.metric, network.training
    margins: list[Scores] = []
    exits: list[Scores] = []
    last: list[Scores] = []
    network.eval()
    with torch.no_grad():
        for batch in context.data.validation.batches(BATCH):
            outputs = network(*(x.to(network.device) for x in batch.inputs))
            scores = [network.tapped[name].cpu() for name in names]
            last.append(metric.scores(tuple(y.cpu() for y in outputs), batch.targets))
            exits.append(np.stack([metric.scores((each,), batch.targets) for each in scores]))
            margins.append(torch.stack([margin(each.float()) for each in scores]).double().numpy())
    network.train(training)
    return Seen(margins=np.concatenate(margins, 1), exits=np.concatenate(exits, 1), last=np.concatenate(last))


@dataclass(frozen=True, kw_only=True)
class Costs:
    """MACs of one sample: of the trunk up to each exit, of each exit's branch, of the whole trunk."""

    trunk: tuple[int, ...]
    branch: tuple[int, ...]
    whole: int

    def until(self, thresholds: Sequence[float]) -> list[int]:
        """What a sample costs that leaves at each exit, and at the end; a branch that nobody takes isn't there."""
        paid, spent = 0, []
        for trunk, branch, threshold in zip(self.trunk, self.branch, thresholds, strict=True):
            paid += branch if np.isfinite(threshold) else 0
            spent.append(trunk + paid)
        return [*spent, self.whole + paid]


def _costs(network: Network) -> Costs:
    macs, exits = macs_by_node(network), branches.exits_of(network)
    trunk_nodes = branches.ancestors(exits[-1].late)

    def count(nodes: set[fx.Node]) -> int:
        return sum(macs.get(node, 0) for node in nodes)

    needed = [branches.ancestors(each.early) for each in exits]
    return Costs(
        trunk=tuple(count(nodes & trunk_nodes) for nodes in needed),
        branch=tuple(count(nodes - trunk_nodes) for nodes in needed),
        whole=count(trunk_nodes),
    )


def choose(margins: Scores, gains: Scores, costs: Costs, drop: float) -> list[float]:
    """The threshold of each exit, +inf for one that isn't worth it: the fewest MACs at ``drop`` (of the mean score) lost, at most.

    margins, gains: [exits, N], gains is what a sample's score is better at the exit than at the end. Each exit but the last may use up a
    share of the drop, in eighths, and lets go as many of the samples that are left as that allows; all combinations are tried.
    """
    exits, samples = margins.shape
    budgets = [drop * samples * share / SHARES for share in range(SHARES + 1)] if exits <= 4 else [0.0, drop * samples]
    best, least = [np.inf] * exits, float(costs.whole)
    for plan in itertools.product([None, *budgets], repeat=exits - 1):
        for last in (None, drop * samples):
            found = _thresholds(margins, gains, [*plan, last])
            expected = float(np.dot(shares(margins, found), costs.until(found)))
            if expected < least:
                best, least = found, expected
    return best


def _thresholds(margins: Scores, gains: Scores, budgets: Sequence[float | None]) -> list[float]:
    """Let as many samples leave at each exit in turn as keep the sum of gains at ``−budget`` or above; None: nobody."""
    left = np.ones(margins.shape[1], bool)
    found, gained = [], 0.0
    for sure, gain, budget in zip(margins, gains, budgets, strict=True):
        threshold = np.inf
        if budget is not None and left.any():
            order = np.argsort(-sure[left], kind="stable")
            ranked, sums = sure[left][order], gained + np.cumsum(gain[left][order])
            fits = (sums >= -budget - 1e-9) & (ranked > np.append(ranked[1:], -np.inf)) & np.isfinite(ranked)
            if fits.any():
                last = int(np.flatnonzero(fits)[-1])
                threshold, gained = float(np.float32(ranked[last])), float(sums[last])
                left &= sure < threshold
        found.append(threshold)
    return found


def shares(margins: Scores, thresholds: Sequence[float]) -> Scores:
    """The share of the samples that leave at each exit, and at the end: [exits + 1]."""
    leaves = np.vstack([margins >= np.asarray(thresholds)[:, None], np.ones((1, margins.shape[1]), bool)])
    return np.bincount(leaves.argmax(0), minlength=len(leaves)) / max(margins.shape[1], 1)


def _facts(network: Network, seen: Seen, thresholds: Sequence[float], costs: Costs, context: Context) -> dict[str, Any]:
    share, until = shares(seen.margins, thresholds), costs.until(thresholds)
    leaves = np.vstack([seen.margins >= np.asarray(thresholds)[:, None], np.ones_like(seen.last, bool)[None]]).argmax(0)
    taken = np.vstack([seen.exits, seen.last[None]])[leaves, np.arange(len(leaves))]
    scale = context.data.metric.scale
    told = [
        {"exit": network.layer_of(each.node), "threshold": t if np.isfinite(t) else None, "share": float(s), "macs": int(m)}
        for each, t, s, m in zip(branches.exits_of(network), thresholds, share, until)
    ]
    return {
        "exits": told,
        "macs": costs.whole,
        "expected_macs": float(np.dot(share, until)),
        "undecided_macs": until[-1],
        "last": float(share[-1]),
        "metric": float(taken.mean() * scale),
        "metric_without": float(seen.last.mean() * scale),
    }
