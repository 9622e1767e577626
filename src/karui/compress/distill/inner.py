"""What is compared inside of two networks, and which of their values make a pair.

A method of the user's own has the same form: ``lambda inner: (inner.student.mean((2, 3)) - inner.teacher.mean((2, 3))).abs().mean()``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from karui.errors import RecipeError
from karui.graph.forms import is_form
from karui.graph.network import Network
from karui.graph.placement import LINEARS

EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Inner:
    """One pair. student, teacher: ``[N, …]``. regressor: ``[teacher's channels, student's channels]``, learned, for hints."""

    student: Tensor
    teacher: Tensor
    regressor: Tensor | None = None


Method = Callable[[Inner], Tensor]
MethodName = Literal["hint", "attention", "relation"]


def hint(inner: Inner) -> Tensor:
    """Romero et al. 2015, "FitNets: hints for thin deep nets", eq. 3, per element: regress the teacher's channels from the student's.

    The teacher's channels are put to one deviation, so that the distance means the same for each pair.
    """
    ours, theirs = _same_places(inner.student, inner.teacher)
    assert inner.regressor is not None
    ours = torch.einsum("oc,nc...->no...", inner.regressor, ours)
    axes = [axis for axis in range(theirs.dim()) if axis != 1]
    scale = theirs.detach().pow(2).mean(axes, keepdim=True).mean(1, keepdim=True).sqrt()
    return 0.5 * F.mse_loss(ours / (scale + EPSILON), theirs / (scale + EPSILON))


def attention(inner: Inner) -> Tensor:
    """Zagoruyko and Komodakis 2017, "Paying more attention to attention", eq. 2: where in the picture the layers are loud.

    The map is the mean square over the channels, put to length 1; the distance is the mean square of the difference of two maps.
    """
    ours, theirs = _same_places(inner.student, inner.teacher)
    if ours.dim() < 3:
        raise RecipeError(f"distill: attention compares places, but a value of shape {list(ours.shape[1:])} has none; choose other layers")
    ours, theirs = (F.normalize(x.pow(2).mean(1).flatten(1), dim=1, eps=EPSILON) for x in (ours, theirs))
    return F.mse_loss(ours, theirs)


def relation(inner: Inner, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Park et al. 2019, "Relational knowledge distillation", eq. 6 and 9: how far samples are from each other, and at what angles.

    Channels and shapes need not agree: each side is compared with itself.
    """
    ours, theirs = inner.student.flatten(1), inner.teacher.flatten(1)
    far = F.smooth_l1_loss(_distances(ours), _distances(theirs))
    return distance_weight * far + angle_weight * F.smooth_l1_loss(_angles(ours), _angles(theirs))


METHODS: dict[MethodName, Method] = {"hint": hint, "attention": attention, "relation": relation}


def _same_places(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both averaged to the smaller of their heights and widths, or lengths. Raises RecipeError if they have other axes."""
    if ours.dim() != theirs.dim() or ours.dim() not in (2, 3, 4):
        shapes = f"{list(ours.shape[1:])} and {list(theirs.shape[1:])}"
        raise RecipeError(f"distill: values of shape {shapes} can't be compared; pair layers with the same axes")
    size = [min(pair) for pair in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
    return _averaged(ours, size), _averaged(theirs, size)


def _averaged(x: Tensor, size: list[int]) -> Tensor:
    if list(x.shape[2:]) == size:
        return x
    return F.adaptive_avg_pool1d(x, size[0]) if len(size) == 1 else F.adaptive_avg_pool2d(x, (size[0], size[1]))


def _distances(x: Tensor) -> Tensor:
    """Between each two samples, over their mean: ``[N, N]``."""
    square = x.pow(2).sum(1)
    d = (square[:, None] + square[None] - 2 * x @ x.T).clamp(min=EPSILON)
    d = d.sqrt() * (1 - torch.eye(len(x), device=x.device))
    return d / (d[d > 0].mean() + EPSILON) if len(x) > 1 else d


def _angles(x: Tensor) -> Tensor:
    """The cosine of the angle at each sample between each two others: ``[N, N, N]``."""
    apart = F.normalize(x[None] - x[:, None], dim=2, eps=EPSILON)
    return torch.bmm(apart, apart.transpose(1, 2))


# ── which values make a pair ────────────────────────────────────────────────────────────────────────────────────────────────────


def pairs_by_shape(student: Network, teacher: Network, *, embedding: bool = False) -> list[tuple[Node, Node]]:
    """Values that stand for the same stage: the last ones of each share of the input's height and width (or length) that both have.

    Where they have none in common, the last stage of each. embedding: instead, what each one's last linear layer reads. Raises RecipeError
    where there is none.
    """
    if embedding:
        return [(_read_last(student), _read_last(teacher))]
    ours, theirs = _stages(student), _stages(teacher)
    for network, stages in ((student, ours), (teacher, theirs)):
        if not stages:
            raise RecipeError(f"distill: '{network.name}' has no values with places inside; name pairs in layers")
    last = (list(ours.values())[-1], list(theirs.values())[-1])
    return [(ours[share], theirs[share]) for share in ours if share in theirs] or [last]


def _stages(network: Network) -> dict[tuple[int, ...], Node]:
    """The last value of each stage, by how often its places go into the input's, in the order in which they begin."""
    values, whole = network.values(), network.inputs[0].shape[1:]
    found: dict[tuple[int, ...], Node] = {}
    for node in network.module.graph.nodes:
        value = values.get(node)
        if node.op == "call_function" and not is_form(node) and isinstance(value, Tensor) and value.dim() in (3, 4) and len(value) == 2:
            if any(size > 1 for size in value.shape[2:]):  # a single place is what pooling leaves
                found[tuple(round(full / size) for full, size in zip(whole, value.shape[2:]))] = node
    return found


def _read_last(network: Network) -> Node:
    linear = [node for node in network.module.graph.nodes if node.op == "call_function" and node.target in LINEARS]
    if not linear or not isinstance(linear[-1].args[0], Node):
        raise RecipeError(f"distill: '{network.name}' ends in no linear layer; name pairs in layers")
    return linear[-1].args[0]
