"""Distillation of what happens inside: the student's layers learn from the teacher's, beside or without its scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from karui.compress.distill.inner import METHODS, Inner, Method, MethodName, pairs_by_shape
from karui.compress.distill.teachers import evaluated, shown
from karui.compress.select import rule_named
from karui.compress.technique import Attached, Context, Stage, Technique
from karui.data import Batch
from karui.errors import RecipeError
from karui.graph import edit
from karui.graph.doors.torch import capture
from karui.graph.network import Network

WEIGHTS: Mapping[str, float] = {"hint": 1.0, "attention": 1000.0, "relation": 1.0}  # so that each is about as large as a task's loss


@dataclass(frozen=True, kw_only=True)
class Features(Technique):
    """``loss = task + weight · mean over pairs of method(student's value, teacher's value)``.

    teacher: None for the network as it was before any compression; a Network, the path of a saved one (``.pt2``), or a module. method:
    "hint", "attention", "relation" or a function of ``inner.Inner``. layers: pairs (student's layer, teacher's layer), a layer standing for
    the last value that it makes; left out, values are paired by shape. weight: None for the method's own.
    Put it beside ``distill.hinton`` to learn from the scores as well. Raises RecipeError on attach: an unknown layer, pairs that the method
    can't compare, or nothing that pairs by shape.
    """

    stage: ClassVar[Stage] = "loss"

    teacher: Network | nn.Module | str | None = None
    method: Method | MethodName = "hint"
    layers: tuple[tuple[str, str], ...] = ()
    weight: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(tuple(pair) for pair in self.layers))
        if any(len(pair) != 2 for pair in self.layers):
            raise RecipeError(f"layers: expected pairs (student's layer, teacher's layer), got {self.layers!r}")
        if self.weight is not None and not self.weight >= 0:
            raise RecipeError(f"weight: expected 0 or more, got {self.weight}")
        method_named(self.method)

    def attach(self, network: Network, context: Context) -> "Comparing":
        """Tap both networks; the student's taps are taken off at the end."""
        teacher = _network(self.teacher, context)
        if self.layers:
            pairs = [(edit.end_of(network, ours), edit.end_of(teacher, theirs)) for ours, theirs in self.layers]
        else:
            pairs = pairs_by_shape(network, teacher, embedding=self.method == "relation")
        names = tuple(f"features.{place}" for place in range(len(pairs)))
        for name, (ours, theirs) in zip(names, pairs, strict=True):
            edit.tap(network, ours, name)
            edit.tap(teacher, theirs, name)
        try:
            return Comparing(self, network, teacher, names)
        except RecipeError:
            edit.untap(network, names)
            raise


class Comparing(Attached):
    """Both networks, tapped. Its own parameters are the regressors of hints, from the student's channels to the teacher's."""

    settles = 0.0

    def __init__(self, settings: Features, network: Network, teacher: Network, names: Sequence[str]) -> None:
        self.network, self.teacher, self.names = network, teacher, names
        self.method = method_named(settings.method)
        self.weight = WEIGHTS.get(str(settings.method), 1.0) if settings.weight is None else settings.weight
        self.regressors: dict[str, nn.Parameter] = {}
        example = network.example(2)
        for name, (ours, theirs) in self._values(example).items():
            if settings.method == "hint":
                self.regressors[name] = nn.Parameter(regressor(ours.shape[1], theirs.shape[1]).to(network.device))
            self._distance(name, ours, theirs)  # refuses now what it can't compare

    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], task: Tensor) -> Tensor:
        """The task's loss, and how far the insides are from each other."""
        with torch.no_grad():
            shown(self.teacher, batch.inputs)
        found = [self._distance(name, self.network.tapped[name], self.teacher.tapped[name]) for name in self.names]
        return task + self.weight * torch.stack(found).mean()

    def _distance(self, name: str, ours: Tensor, theirs: Tensor) -> Tensor:
        distance = self.method(Inner(student=ours.float(), teacher=theirs.float(), regressor=self.regressors.get(name)))
        if distance.shape != ():
            raise RecipeError("distill: method has to return one number, a tensor without axes: the mean over the batch")
        return distance

    def _values(self, example: tuple[Tensor, ...]) -> dict[str, tuple[Tensor, Tensor]]:
        evaluated(self.network, example)
        with torch.no_grad():
            shown(self.teacher, example)
        return {name: (self.network.tapped[name], self.teacher.tapped[name]) for name in self.names}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The regressors."""
        return dict(self.regressors)

    def finish(self) -> dict[str, Any]:
        """Take the taps off."""
        edit.untap(self.network, self.names)
        return {}


def method_named(method: Method | MethodName) -> Callable[[Inner], Tensor]:
    """The method of this name, or a function as it is. Raises RecipeError."""
    return rule_named(method, METHODS, "method", kind="a way of comparing insides", form="Inner → one number")


def regressor(inputs: int, outputs: int) -> Tensor:
    """``[outputs, inputs]``: where shapes agree the identity, so that a student that is its teacher has nothing to learn."""
    if inputs == outputs:
        return torch.eye(inputs)
    return torch.randn(outputs, inputs) / inputs**0.5


def _network(teacher: Network | nn.Module | str | None, context: Context) -> Network:
    """The teacher as a network of our own, in evaluation mode."""
    if isinstance(teacher, str):
        if not teacher.endswith(".pt2"):
            raise RecipeError(
                f"distill: teacher '{teacher}' has no layers that karui sees; features need a .pt2 file, a Network or a module"
            )
        return Network.load(teacher).eval()
    if isinstance(teacher, nn.Module):
        return capture(teacher, context.teacher.example(2)).eval()
    if isinstance(teacher, Network | None):
        return (teacher or context.teacher).copy().eval()
    raise RecipeError(
        f"distill: a {type(teacher).__name__} has no layers that karui sees; features need a Network, a module or a .pt2 file"
    )
