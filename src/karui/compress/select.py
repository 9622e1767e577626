"""What a setting chooses: layers, by patterns over their names; a rule, by its name or as a function. The same for every technique."""

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.carry import parameter_of
from karui.graph.network import Network
from karui.graph.placement import CONVOLUTIONS, LINEARS

MASK = torch.ops.karui.mask.default
Patterns = tuple[str, ...]
Rule = TypeVar("Rule", bound=Callable[..., Any])


def patterns(value: str | Iterable[str], field: str) -> Patterns:
    """A setting of patterns as a tuple: one pattern, or any list of them. Raises RecipeError for anything else."""
    given = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(each, str) for each in given):
        raise RecipeError(f"{field}: expected names or patterns such as 'conv1' or 'blocks.0.*', got {given!r}")
    return given


def chosen(name: str, include: Patterns, exclude: Patterns) -> bool:
    """Whether patterns choose a parameter, by its name (``conv1.weight``) or its layer's (``conv1``); shell wildcards."""
    names = (name, name.rpartition(".")[0])

    def hit(given: Patterns) -> bool:
        return any(fnmatchcase(each, pattern) for each in names for pattern in given)

    return hit(include) and not hit(exclude)


def weights(network: Network, include: Patterns, exclude: Patterns) -> dict[str, list[fx.Node]]:
    """The weights of the chosen convolutions and linear layers, each with all nodes that use it, in the graph's order.

    Raises RecipeError if the patterns choose none.
    """
    found: dict[str, list[fx.Node]] = {}
    for node in network.module.graph.nodes:
        if node.op == "call_function" and node.target in CONVOLUTIONS | LINEARS:
            name = parameter_of(node.args[1])
            if name is not None:
                found.setdefault(name, []).append(node)
    picked = {name: nodes for name, nodes in found.items() if chosen(name, include, exclude)}
    if not found:
        raise RecipeError(f"'{network.name}' has no convolution or linear layer with a weight of its own: there is nothing to choose")
    if not picked:
        raise RecipeError(
            f"include {list(include)} and exclude {list(exclude)} leave no layer of '{network.name}': it has {', '.join(found)}"
        )
    return picked


def refuse_unfit(network: Network, names: Iterable[str], *, but: Collection[Any] = ()) -> None:
    """Raises RecipeError for a weight that can't get a number format: it has one (a form that is neither a mask nor of ``but``), or holds
    numbers that aren't finite.
    """
    for name in names:
        if any(form.op not in (MASK, *but) for form in edit.forms_on(network, name)):
            raise RecipeError(f"'{name}' has a number format already; exclude it")
        if not bool(torch.isfinite(network.get(name)).all()):
            raise RecipeError(f"'{name}' has weights that are not finite; check the network")


def kept(network: Network, name: str) -> Tensor:
    """Which of a weight's numbers its masks leave: bool in its shape."""
    left = torch.ones_like(network.get(name), dtype=torch.bool)
    for form in edit.forms_on(network, name):
        if form.op is MASK:
            left &= network.get(form.state["mask"]) != 0
    return left


def rule_named(rule: str | Rule, known: Mapping[Any, Rule], field: str, *, kind: str, form: str) -> Rule:
    """The function that a setting names; a function stands for itself.

    kind: what it is ("a schedule"); form: what a function of the user's own looks like. Raises RecipeError for an unknown name.
    """
    if callable(rule):
        return rule
    if rule not in known:
        raise RecipeError(f"{field}: {rule!r} is not {kind}: use {', '.join(known)}, or a function {form}")
    return known[rule]
