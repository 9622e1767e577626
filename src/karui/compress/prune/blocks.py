"""Depth: whole residual branches leave, and their shortcut stays."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from karui.analyse.observe import watch
from karui.compress.prune.evidence import Evidence
from karui.compress.select import chosen, patterns, rule_named
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Data
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.network import Network

ADD = torch.ops.aten.add.Tensor


@dataclass(frozen=True, kw_only=True)
class Block:
    """``shortcut + branch(shortcut)``: name of its add (``blocks.2.add``), and the nodes of the add and of the shortcut, by name."""

    name: str
    add: str
    shortcut: str


class Seen:
    """A block, as an importance may look at it; what is asked for is worked out then, on calibration samples.

    name: the block's. loss: the mean loss of the network without it. similarity: the mean cosine of what goes into it and what comes out.
    """

    def __init__(self, network: Network, block: Block, data: Data, samples: int) -> None:
        self.name, self._network, self._block, self._data, self._samples = block.name, network, block, data, samples

    @cached_property
    def loss(self) -> float:
        """Without the block."""
        trial = self._network.copy()
        remove(trial, self._block)
        return Evidence(trial, self._data, samples=self._samples).loss()

    @cached_property
    def similarity(self) -> float:
        """Over samples; 1 where the block does nothing."""
        nodes = {node.name: node for node in self._network.module.graph.nodes}
        ends = (nodes[self._block.shortcut], nodes[self._block.add])
        seen: dict[str, list[Tensor]] = {end.name: [] for end in ends}
        taken = itertools.takewhile(lambda pair: pair[0] * 64 < self._samples, enumerate(self._data.calibration.batches(64)))
        watch(self._network, (batch for _, batch in taken), ends, lambda node, value: seen[node.name].append(value.flatten(1)))
        before, after = (torch.cat(seen[end.name])[: self._samples] for end in ends)
        return float(F.cosine_similarity(before, after).mean())


BlockImportance = Callable[[Seen], float]


def by_loss(seen: Seen) -> float:
    """The loss without the block: what Veit et al. 2016, "Residual networks behave like ensembles", §4.1, delete layers by."""
    return seen.loss


def by_change(seen: Seen) -> float:
    """``1 − cosine(input, output)``: Men et al. 2024, "ShortGPT", eq. 1. It needs no labels."""
    return 1 - seen.similarity


RULES: dict[str, BlockImportance] = {"loss": by_loss, "change": by_change}


def block_importance(rule: str | BlockImportance) -> BlockImportance:
    """The function that a setting names; a function stands for itself. Raises RecipeError for an unknown name."""
    return rule_named(rule, RULES, "importance", kind="a block's importance", form="Seen → number")


@dataclass(frozen=True, kw_only=True)
class PruneBlocks(Technique):
    """Remove the least important residual branches, one after the other, before the phase's training.

    A branch can leave where its shortcut is the identity: ``x + f(x)`` becomes ``x``. One whose shortcut is a layer stays.

    ratio: the share of the branches to remove, in [0, 1), rounded. importance: "loss" (of the network without it), "change" (one minus the
    cosine of its input and output; without labels), or a function of a block as ``Seen``. samples: of the calibration data. include,
    exclude: patterns over the names of the adds or of what holds them (``blocks.2.add``, ``blocks.2``).
    """

    stage: ClassVar[Stage] = "structure"

    ratio: float = 0.25
    importance: Literal["loss", "change"] | BlockImportance = "loss"
    samples: int = 512
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise RecipeError(f"ratio: expected the share of blocks to remove, in [0, 1), got {self.ratio}")
        if self.samples < 1:
            raise RecipeError(f"samples: expected 1 or more, got {self.samples}")
        block_importance(self.importance)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(getattr(self, name), name))

    def attach(self, network: Network, context: Context) -> "BlocksPruned":
        """Cut the network; parameters leave before training begins. Raises RecipeError: no branch is chosen."""
        names = [block.name for block in blocks(network) if chosen(block.name, self.include, self.exclude)]
        if not names:
            found = ", ".join(block.name for block in blocks(network)) or "none"
            raise RecipeError(f"'{network.name}' has no residual branch that is chosen and can leave; those that can: {found}")
        rule = block_importance(self.importance)
        removed: list[str] = []
        for _ in range(math.floor(self.ratio * len(names) + 0.5)):
            left = [block for block in blocks(network) if block.name in names]
            scores = {block: rule(Seen(network, block, context.data, self.samples)) for block in left}
            if bad := [block.name for block, score in scores.items() if math.isnan(score)]:
                raise RecipeError(f"importance: gave NaN for '{bad[0]}'; check the rule, and that the weights are finite")
            worst = min(left, key=lambda block: scores[block])
            remove(network, worst)
            removed.append(worst.name)
        if removed:
            edit.check(network)
        return BlocksPruned({"removed": removed, "kept": [name for name in names if name not in removed]})


class BlocksPruned(Attached):
    """Nothing is left to do but to tell."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def finish(self) -> dict[str, Any]:
        """Which blocks left, in that order, and which stayed."""
        return self.facts


def blocks(network: Network) -> list[Block]:
    """The residual branches that can leave, in the graph's order."""
    moving = {node: value for node, value in network.values().items() if isinstance(value, Tensor)}
    found = []
    for node in network.module.graph.nodes:
        if node.op == "call_function" and node.target is ADD and all(isinstance(a, fx.Node) and a in moving for a in node.args[:2]):
            for branch, shortcut in (node.args[:2], node.args[1::-1]):
                if moving[shortcut].shape == moving[node].shape and _is_branch(branch, shortcut, node, moving):
                    found.append(Block(name=network.layer_of(node), add=node.name, shortcut=shortcut.name))
                    break
    return found


def _is_branch(end: fx.Node, start: fx.Node, add: fx.Node, moving: Mapping[fx.Node, Tensor]) -> bool:
    """Whether everything that ``end`` is computed of comes from ``start`` and parameters, and nobody but ``add`` reads any of it."""
    pending, inside, met = [end], {add}, False
    while pending:
        node = pending.pop()
        if node is start:
            met = True
        elif node.op == "placeholder":
            return False
        elif node.op == "call_function" and node not in inside:
            inside.add(node)
            pending.extend(each for each in node.all_input_nodes if each in moving)  # sizes are no values
    outside = any(user not in inside for node in inside - {add} for user in node.users)
    return met and not outside


def remove(network: Network, block: Block) -> None:
    """Put the shortcut in the place of the add; what only the branch needed goes."""
    nodes = {node.name: node for node in network.module.graph.nodes}
    edit.replace_node(network, nodes[block.add], lambda graph: nodes[block.shortcut])
