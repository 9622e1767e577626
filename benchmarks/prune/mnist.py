"""Line 1: LeNet-300-100 and LeNet-5 on MNIST and Fashion-MNIST, pruned as far as the papers did. Line 1b: Han's four orderings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, ClassVar

from torch import Tensor

from benchmarks.harness import Row, at_most, skipped
from benchmarks.prune.kept import KEPT
from benchmarks.trainings import SEEDS, Errors, error, fresh, only, stored, trained
from karui import datasets
from karui.compress.prune.weights import Prune
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch, Data
from karui.errors import DataError
from karui.finetune.evaluate import score
from karui.finetune.phases import Phase
from karui.finetune.training import Training
from karui.graph.network import Network

DENSE = Training(epochs=10, batch_size=128, lr=0.05, weight_decay=5e-4, schedule="onecycle", warmup=0.2, channels_last=True)
# the same for the pruned network and for its dense control; the rate was chosen on validation (LeNet-300-100, three seeds)
RETRAIN = Training(epochs=30, batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=1e-4, schedule="cosine", channels_last=True)
EPOCHS = {
    "lenet300": (30, 40),
    "lenet5": (10, 12),
}  # of retraining; and for the sparsities of other papers: what two cores have time for
SHAPE = (1, 28, 28)
WEIGHTS = {"lenet300": 266_200, "lenet5": 430_500}


@dataclass(frozen=True, kw_only=True)
class Far:
    """How far a paper went: its name, the share of weights it left, and its error on MNIST in per cent."""

    paper: str
    kept: float
    error: float


FAR = {
    "lenet300": (
        Far(paper="dynamic network surgery, 56x", kept=1 / 56, error=1.99),
        Far(paper="variational dropout, 98.5 %", kept=0.015, error=1.9),
    ),
    "lenet5": (
        Far(paper="dynamic network surgery, 108x", kept=1 / 108, error=0.91),
        Far(paper="variational dropout, 99.6 %", kept=0.004, error=0.8),
    ),
}


def rows(quick: bool) -> Iterator[Row]:
    """Every figure of the line, the quick network first."""
    found: dict[str, Data] = {}
    for name in ("mnist", "fashion-mnist"):
        try:
            found[name] = datasets.load(name, augment=False)
        except DataError as reason:
            yield skipped(f"1 {name}", str(reason))
    for network in ("lenet300", "lenet5"):
        for name, data in found.items():
            yield from pruned(network, data, far=name == "mnist")


def figure5(quick: bool) -> Iterator[Row]:
    """Han's trade-off curves on MNIST."""
    try:
        data = datasets.load("mnist", augment=False)
    except DataError as reason:
        yield skipped("1b mnist", str(reason))
        return
    yield from orderings(data)


def pruned(name: str, data: Data, *, far: bool) -> Iterator[Row]:
    """12x against the dense control over three seeds, then the sparsities of other papers."""
    epochs, longer = EPOCHS[name]
    retrain = replace(RETRAIN, epochs=epochs)
    case, start = f"1 {data.name}, {name}", [dense(name, data, seed) for seed in SEEDS]
    yield from _row(f"{case}, dense", Errors(each=tuple(error(n, data) for n in start)))
    control = Errors(
        each=tuple(error(trained(n, data, [only(retrain)], f"{_at(name, data, s)}/control", seed=s), data) for s, n in enumerate(start))
    )
    yield from _row(f"{case}, dense control", control)
    found = [trained(n, data, [_phase(1 - 1 / 12, retrain)], f"{_at(name, data, s)}/12x", seed=s) for s, n in enumerate(start)]
    errors = Errors(each=tuple(error(n, data) for n in found))
    left, total = stored(found[0])
    yield Row(case=f"{case}, 12x", figure="weights stored / all", value=total / left, unit="x")
    yield Row(case=f"{case}, 12x", figure="test error", value=errors.mean, unit="%", seeds=3, spread=errors.spread)
    yield at_most(
        f"{case}, 12x",
        "test error - control's",
        errors.mean - control.mean,
        0.05,
        "points",
        peer="dense control",
        seeds=3,
        spread=errors.spread,
    )
    for paper in FAR[name] if far else ():
        label = f"{1 / paper.kept:.0f}x"
        found = [
            trained(n, data, [_phase(1 - paper.kept, replace(retrain, epochs=longer))], f"{_at(name, data, s)}/{label}", seed=s)
            for s, n in enumerate(start)
        ]
        KEPT.keep(f"{name}-{label}", found[0])
        errors = Errors(each=tuple(error(n, data) for n in found))
        yield Row(
            case=f"{case}, {label}",
            figure="test error",
            value=errors.mean,
            unit="%",
            peer=f"{paper.paper}: {paper.error} %",
            seeds=3,
            spread=errors.spread,
        )


def dense(name: str, data: Data, seed: int) -> Network:
    """The network to begin with."""
    return trained(fresh(name, seed, SHAPE), data, [only(DENSE)], f"{_at(name, data, seed)}/dense", seed=seed)


def _phase(sparsity: float, training: Training) -> Phase:
    return Phase(techniques=(Prune(sparsity=sparsity, schedule="cubic"),), training=training)


def _at(name: str, data: Data, seed: int) -> str:
    return f"{data.name}/{name}/{seed}"


def _row(case: str, errors: Errors) -> Iterator[Row]:
    yield Row(case=case, figure="test error", value=errors.mean, unit="%", seeds=len(errors.each), spread=errors.spread)


# ── Han et al. 2015, figure 5 ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class L1(Technique):
    """``strength · Σ|w|`` over the weights, added to the loss: the regularisation of Han's L1 curves."""

    stage: ClassVar[Stage] = "loss"

    strength: float = 1e-5

    def attach(self, network: Network, context: Context) -> Attached:
        return Penalised(self.strength, network)


class Penalised(Attached):
    """The penalty at work."""

    def __init__(self, strength: float, network: Network) -> None:
        self.strength, self.network = strength, network

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        return task + self.strength * sum(w.abs().sum() for w in self.network.parameters().values() if w.dim() > 1)


CURVE = (0.8, 0.9, 0.95, 0.97, 0.98)
FREE = (0.3, 0.5, 0.6, 0.7, 0.8)
STRENGTHS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4)  # of L1: the best on validation is taken, as L2's was
SHORT = replace(DENSE, epochs=8, lr=0.01)  # Han's: plain gradient descent, a lower rate, L2 as weight decay
L1_DENSE, L1_SHORT = replace(DENSE, weight_decay=0.0), replace(SHORT, weight_decay=0.0)


def orderings(data: Data) -> Iterator[Row]:
    """The four orderings of figure 5, as means over the sparsities of the curves and three seeds (LeNet-300-100)."""
    case, start = "1b mnist, Han's figure 5", {seed: fresh("lenet300", seed, SHAPE) for seed in SEEDS}
    tried = {each: mean(100 - score(_l1(start[s], data, each, s), data.validation, data.metric) for s in SEEDS) for each in STRENGTHS}
    for each, value in tried.items():
        yield Row(case=f"{case}, L1 of {each:g}", figure="validation error, dense", value=value, unit="%", seeds=3)
    strength = min(tried, key=lambda each: tried[each])
    curves: dict[str, dict[int, list[float]]] = {}
    for seed in SEEDS:
        for label, errors in _curves(start[seed], data, strength, seed).items():
            curves.setdefault(label, {})[seed] = errors
    for label, curve in curves.items():
        yield Row(case=case, figure=f"mean test error, {label}", value=mean(map(mean, curve.values())), unit="%", seeds=3)
    for text, less, more in (
        ("1: not retrained, L1 below L2", "L1, not retrained", "L2, not retrained"),
        ("2: retrained, L2 below L1", "L2, retrained with L2", "L1, retrained with L1"),
        ("3: L1 then L2 not below L2 then L2", "L2, retrained with L2", "L1, retrained with L2"),
        ("4: L2 iterative below all others", "L2, iterative", "L2, retrained with L2"),
    ):
        gaps = Errors(each=tuple(mean(curves[less][seed]) - mean(curves[more][seed]) for seed in SEEDS))
        yield at_most(case, text, gaps.mean, 0.0, "points", seeds=3, spread=gaps.spread)


def _curves(untrained: Network, data: Data, strength: float, seed: int) -> dict[str, list[float]]:
    """The curves of figure 5 for one seed. Iterative: every point goes on from the one before it, and is retrained like any other."""
    at = f"{data.name}/figure5/{seed}"
    l2, l1 = trained(untrained, data, [only(DENSE)], f"{at}/l2", seed=seed), _l1(untrained, data, strength, seed)
    found: dict[str, list[float]] = {}

    def point(label: str, start: Network, share: float, training: Training | None = None, *more: Technique) -> Network:
        name = f"{at}/{label.replace(', ', '-').replace(' ', '-')}-{share}" + (f"-{strength:g}" if start is l1 else "")
        done = trained(start, data, [_one_shot(share, training, *more)], name, seed=seed)
        found.setdefault(label, []).append(error(done, data))
        return done

    for share in FREE:
        point("L1, not retrained", l1, share)
        point("L2, not retrained", l2, share)
    last = l2
    for share in CURVE:
        point("L1, retrained with L1", l1, share, L1_SHORT, L1(strength=strength))
        point("L2, retrained with L2", l2, share, SHORT)
        point("L1, retrained with L2", l1, share, SHORT)
        last = point("L2, iterative", last, share, SHORT)
    return found


def _l1(untrained: Network, data: Data, strength: float, seed: int) -> Network:
    """Trained with this L1, dense."""
    phase = Phase(techniques=(L1(strength=strength),), training=L1_DENSE)
    return trained(untrained, data, [phase], f"{data.name}/figure5/{seed}/l1-{strength:g}", seed=seed)


def _one_shot(sparsity: float, training: Training | None = None, *more: Technique) -> Phase:
    settings: dict[str, Any] = {} if training is None else {"training": training}
    return Phase(techniques=(Prune(sparsity=sparsity, schedule="one_shot"), *more), **settings)
