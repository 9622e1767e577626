"""Unstructured pruning: weights are masked, one by one or in patterns, by their importance."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from karui.compress.prune.allocation import (
    Allocation,
    AllocationName,
    Layer,
    Taken,
    allocated,
    allocation_of,
    by_cost,
    bytes_taken,
    macs_taken,
)
from karui.compress.prune.dropout import Dropouts
from karui.compress.prune.evidence import Evidence
from karui.compress.prune.importance import ImportanceName, Seen, WeightImportance, movement, weight_importance
from karui.compress.prune.masked import Masked, let_through, mask_weights, zeros_in
from karui.compress.prune.movement import Moving
from karui.compress.prune.patterns import Pattern, pattern_of
from karui.compress.prune.regrow import END, swap, swaps_at
from karui.compress.prune.schedule import UPDATES, Schedule, ScheduleName, at_update, schedule_of, settled_at
from karui.compress.select import patterns, weights
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.errors import RecipeError
from karui.graph.network import Network

Regrow = Literal["never", "latent", "gradient"]
SPARSITY = 0.9
COSTS = {"macs": "multiply–accumulates", "bytes": "bytes"}


@dataclass(frozen=True, kw_only=True)
class Prune(Technique):
    """Mask the least important weights of convolutions and linear layers.

    Han et al. 2015, "Learning both weights and connections for efficient neural networks", §3; the cubic schedule is Zhu & Gupta 2017, "To
    prune, or not to prune", eq. 1. Without training everything is pruned at once. The learning rate of retraining is the phase's own
    (``Training.lr``): Han's is a tenth (fully connected) to a hundredth (convolutions) of the first training's.

    sparsity: the share of zeros to end with, in [0, 1); None: 0.9, or what the pattern gives. macs: instead, the share of the chosen
    layers' multiply–accumulates to leave; bytes: or of their bytes in the file, index and all, each stored weight in ``bits``.
    pattern: "element"; blocks of output channels × input channels that leave as one, "1x4", "4x1", "8x4"; or "2:4", of every four input
    channels two stay (sparsity 0.5). Layers that n:m doesn't divide are left whole, and told. allocation: which layers become how sparse:
    "global" (all weights ranked together), "uniform", "erk", "lamp", "std", "sensitivity", or a function (see ``allocation``); each layer
    keeps a unit at least. schedule: "one_shot", "cubic", "iterative" (in ``rounds`` rounds), or a function ``(progress, final) →
    sparsity``. importance: "magnitude", "l2", "taylor", "fisher", "movement", "wanda", or a function (see ``importance``); some look at the
    first ``samples`` calibration samples, once for each of at most 50 cuts.
    regrow: "never": what is masked gets no gradient and stays away; "latent": it goes on learning beneath the mask, and comes back when it
    outgrows others (Guo et al. 2016, "Dynamic network surgery for efficient DNNs", eq. 3); "gradient": ten times a phase the smallest make
    way for those with the largest gradient (Evci et al. 2020, "Rigging the lottery", alg. 1); both for three quarters of training.
    adjust_dropout: while training, dropout before a pruned layer becomes ``D · sqrt(share kept)`` (Han et al. 2015, §3.2).
    include, exclude: patterns over names; for sparsities by hand, one ``Prune`` for each. A parameter that has a mask already keeps it, and
    the zeros in it count.
    """

    stage: ClassVar[Stage] = "weights"

    sparsity: float | None = None
    macs: float | None = None
    bytes: float | None = None
    bits: int = 8
    pattern: str = "element"
    allocation: AllocationName | Allocation = "global"
    schedule: ScheduleName | Schedule = "cubic"
    rounds: int = 5
    importance: ImportanceName | WeightImportance = "magnitude"
    samples: int = 512
    regrow: Regrow = "never"
    adjust_dropout: bool = True
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_amount(pattern_of(self.pattern))
        if self.regrow not in get_args(Regrow):
            raise RecipeError(f"regrow: expected one of {', '.join(get_args(Regrow))}, got {self.regrow!r}")
        for name in ("rounds", "samples"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        schedule_of(self.schedule, rounds=self.rounds)
        weight_importance(self.importance)
        allocation_of(self.allocation)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    def _check_amount(self, pattern: Pattern) -> None:
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise RecipeError(f"sparsity: expected the share of zeros in [0, 1), got {self.sparsity}")
        for name, what in COSTS.items():
            if (amount := getattr(self, name)) is None:
                continue
            if not 0 < amount <= 1:
                raise RecipeError(f"{name}: expected the share of {what} to leave, in (0, 1], got {amount}")
            others = [other for other in ("sparsity", *COSTS) if other != name and getattr(self, other) is not None]
            if others or pattern.m:
                raise RecipeError(f"{name}: the amount is set already, by {[*others, 'pattern'][0]}; give one of them")
        if not 1 <= self.bits <= 32:
            raise RecipeError(f"bits: expected those of a stored weight, 1 to 32, got {self.bits}")
        if pattern.m and self.sparsity is not None and abs(self.sparsity - pattern.limit) > 1e-9:
            raise RecipeError(f"sparsity: pattern {self.pattern} gives {pattern.limit:.4g}, got {self.sparsity}; leave sparsity out")
        if pattern.m and self.regrow == "gradient":
            raise RecipeError(f"regrow: 'gradient' moves whole units, and {self.pattern} has none to spare; use 'latent'")

    @property
    def final(self) -> float:
        """What to end with: the share of zeros, or with ``macs`` or ``bytes`` the share of them to take."""
        for cost in (self.macs, self.bytes):
            if cost is not None:
                return 1 - cost
        limit = pattern_of(self.pattern).limit
        return self.sparsity if self.sparsity is not None else limit if limit < 1 else SPARSITY

    @property
    def taken(self) -> Taken | None:
        """What measures ``final``, where it isn't the share of zeros."""
        if self.macs is not None:
            return macs_taken
        return None if self.bytes is None else partial(bytes_taken, bits=self.bits)

    def attach(self, network: Network, context: Context) -> Attached:
        """Put a mask on every chosen weight that has none, and make the schedule's first cut."""
        layers = weights(network, self.include, self.exclude)
        masked, misfits = mask_weights(network, layers, pattern_of(self.pattern), dense=self.regrow == "latent" and context.steps > 0)
        for name, reason in misfits.items():
            context.report(f"'{name}' is left whole: {reason}")
        pruning = Pruning(self, network, context, masked, Dropouts(network, {each.name: layers[each.name] for each in masked}))
        pruning.whole = misfits
        if weight_importance(self.importance) is movement:
            return self._by_movement(pruning, context)
        if context.steps == 0:
            pruning.cut(self.final)
        else:
            pruning.step(0.0)
        return pruning

    def _by_movement(self, pruning: "Pruning", context: Context) -> Moving:
        if context.steps == 0 or pruning.schedule(0.0, self.final) > 0:
            raise RecipeError("importance: 'movement' is known after some training only; give the phase steps, and schedule = 'cubic'")
        moving = Moving(pruning.network, [each.name for each in pruning.masked], pruning)
        pruning.moved = moving.moved
        return moving


class Pruning(Attached):
    """Masks at work.

    moment: of the last look at them. held: the target of the last cut. losses: what "sensitivity" measured. followed: dropout did.
    """

    def __init__(self, settings: Prune, network: Network, context: Context, masked: tuple[Masked, ...], dropouts: Dropouts) -> None:
        self.settings, self.network, self.context, self.masked, self.dropouts = settings, network, context, masked, dropouts
        self.schedule = schedule_of(settings.schedule, rounds=settings.rounds)
        self.settles = settled_at(self.schedule, settings.final)
        if settings.regrow != "never":
            self.settles = max(self.settles, END + 1 / UPDATES)
        self.whole: Mapping[str, str] = {}
        self.moved: Mapping[str, Tensor] | None = None
        self.losses: dict[str, float] = {}
        self.moment, self.held, self.followed = -1.0, -1.0, False

    def step(self, progress: float) -> bool:
        """Cut to the target of this moment, at a bounded number of moments."""
        moment = at_update(progress)
        if moment != self.moment:
            before, self.moment, self.followed = self.moment, moment, False
            free = moment < END and self.settings.regrow == "latent"
            self.cut(self.schedule(moment, self.settings.final), free=free)
            if self.settings.regrow == "gradient" and swaps_at(moment, before):
                swap(self.network, self.masked, self._evidence(), moment)
        if not self.followed and self.settings.adjust_dropout:
            self.dropouts.follow(self._kept)
            self.followed = True
        return False

    def cut(self, target: float, *, free: bool = False) -> None:
        """Bring the masks to this share of zeros (or of a cost taken), unless they were. free: what is masked may come back."""
        if target <= 0 or (target == self.held and not free):
            return
        self.held = target
        evidence = self._evidence()
        layers, scores = zip(*(self._layer(each, evidence, free) for each in self.masked), strict=True)
        rule, taken = allocation_of(self.settings.allocation), self.settings.taken
        sparsities = allocated(rule, layers, target) if taken is None else by_cost(rule, layers, target, taken)
        for each, layer, score, sparsity in zip(self.masked, layers, scores, sparsities, strict=True):
            if free or round(sparsity * layer.weights) > zeros_in(each.mask(self.network)):
                each.put(self.network, layer.kept(sparsity), score, free=free)

    def _layer(self, each: Masked, evidence: Evidence, free: bool) -> tuple[Layer, Tensor]:
        """A layer as an allocation sees it, and the scores of its weights."""
        seen = Seen(name=each.name, weight=each.weight(self.network, latent=free), evidence=evidence, moved=self.moved)
        given = each.checked(weight_importance(self.settings.importance)(seen))
        units, scores = each.scores(self.network, given, free=free)

        def loss(sparsity: float) -> float:
            key = f"{each.name} {sparsity}" if sparsity else ""
            if key not in self.losses:
                mask = each.units.mask(layer.kept(sparsity), scores)
                self.losses[key] = evidence.loss({each.name: each.weight(self.network) * mask} if sparsity else {})
            return self.losses[key]

        shape, least = each.units.layout.shape, 0 if each.units.pattern.m else 1
        layer = Layer(name=each.name, shape=shape, scores=units, size=each.units.size, least=least, macs=each.macs, loss=loss)
        return layer, scores

    def _evidence(self) -> Evidence:
        return Evidence(self.network, self.context.data, samples=self.settings.samples)

    def _kept(self, names: list[str]) -> float:
        masks = [each.mask(self.network) for each in self.masked if each.name in names]
        return 1 - sum(map(zeros_in, masks)) / sum(mask.numel() for mask in masks)

    def state(self) -> dict[str, Any]:
        """What the masks don't tell."""
        return {"moment": self.moment, "held": self.held, "losses": {k: v if isfinite(v) else None for k, v in self.losses.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there; dropout follows at the next step, when the masks are back."""
        self.moment, self.held, self.followed = state["moment"], state["held"], False
        self.losses = {key: inf if value is None else value for key, value in state["losses"].items()}

    def finish(self) -> dict[str, Any]:
        """Reach the final sparsity, whatever the schedule said; tells what share of zeros there is, in all and per layer."""
        self.cut(self.settings.final)
        let_through(self.network, [each.name for each in self.masked], False)
        self.dropouts.put_back()
        zeros = {each.name: zeros_in(each.mask(self.network)) for each in self.masked}
        layers = {each.name: zeros[each.name] / each.mask(self.network).numel() for each in self.masked}
        for each in self.masked:
            if zeros[each.name] and int(each.stays(self.network).sum()) == 1:
                self.context.report(
                    f"'{each.name}' would be pruned to nothing: its best {self.settings.pattern} stays; exclude it, or prune less"
                )
        facts = {"sparsity": sum(zeros.values()) / sum(each.mask(self.network).numel() for each in self.masked), "layers": layers}
        if taken := self.settings.taken:
            shapes = [
                Layer(name=each.name, shape=each.units.layout.shape, scores=each.stays(self.network), macs=each.macs)
                for each in self.masked
            ]
            cost = "macs" if self.settings.macs is not None else "bytes"
            facts[cost] = left = 1 - taken(shapes, list(layers.values()))
            if left > 1 - self.settings.final + 0.01:
                asked = getattr(self.settings, cost)
                self.context.report(f"{cost}: {left:.3g} is the least that these layers can have, {asked} was asked for")
        return facts | ({"whole": dict(self.whole)} if self.whole else {})
