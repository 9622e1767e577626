"""Drawing: what the doors of files (ONNX, TFLite) draw a network into, op by op, in ATen's words.

Every value is looked at for two batch sizes at once, 2 and 3. What no input reaches is ``Known``: computed on the spot, so the arithmetic
of shapes and all constants fold by the same rules that draw. Everything else is ``Live``: a node of the graph and its two shapes; where
they differ is the batch. Nothing of a network is run: live values are shapes without data.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from karui.errors import CaptureError, UnsupportedOp, first_line
from karui.graph import forms
from karui.graph.doors.naming import good_name, register
from karui.graph.doors.naming import path_of as path_of  # a part of what doors draw with
from karui.graph.doors.shapes import made_by
from karui.graph.network import InputSpec, Network

aten = torch.ops.aten
FAKE_QUANTIZE = forms.fake_quantize._opoverload

SIZES = (2, 3)
LARGEST = 1 << 31  # elements of one value, for one sample: a damaged file may ask for any number
LARGEST_CONSTANT = 1 << 24  # elements of a constant that ops make of smaller ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """How a file writes a constant: whole numbers, ``real = scale · (code − zero_point)``; ``axis`` None where there is one scale."""

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int
    axis: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A constant: its value for each of the two batch sizes, mostly one tensor.

    name: what the file calls it, or where it was made of one. form: how the file writes it, if not in floats.
    """

    two: Tensor
    three: Tensor
    name: str = ""
    form: Form | None = None

    @property
    def fixed(self) -> bool:
        """The same for every batch size."""
        return self.two is self.three or (self.two.shape == self.three.shape and bool(torch.equal(self.two, self.three)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Live:
    """A value that the inputs reach: its node, and for each batch size a tensor of its shape and dtype without data.

    ahead: of what shares the batch's axis with it, how much stands before it (17 where an axis is 17 × N, 1 where it is N × 17).
    """

    node: fx.Node
    two: Tensor
    three: Tensor
    ahead: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape for the first batch size."""
        return tuple(self.two.shape)

    @property
    def rank(self) -> int:
        """How many axes it has, the batch's among them."""
        return self.two.dim()

    @property
    def batch(self) -> int | None:
        """The axis that holds the batch, maybe with others; None where there is none or it is not one axis."""
        differing = [axis for axis, (a, b) in enumerate(zip(self.two.shape, self.three.shape, strict=True)) if a != b]
        return differing[0] if len(differing) == 1 else None

    @property
    def shares(self) -> int:
        """How many elements of the batch's axis are one sample's."""
        return 0 if self.batch is None else self.shape[self.batch] // SIZES[0]


Value = Known | Live


class Drawing:
    """A graph that is being drawn.

    layer: the path of what is drawn now, for messages and as the nodes' layer. source: the file's name, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.layer = ""
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.inputs: list[InputSpec] = []
        self._first: Live | None = None
        self._attributes: dict[Any, fx.Node] = {}
        self._kept: list[Any] = []  # ids in ``_attributes`` stay those of living objects
        self._size: fx.Node | None = None

    # ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Live:
        """An input of the network; ``shape`` without the batch."""
        if any(size < 1 for size in shape) or prod(shape) > LARGEST:
            raise CaptureError(f"'{self.source}': input '{name}' has the shape {['N', *shape]}; expected sizes from 1 on")
        node = self.graph.placeholder(re.sub(r"\W", "_", name) if re.match(r"[A-Za-z_]", name) else f"input_{len(self.inputs)}")
        self.inputs.append(InputSpec(name=name, shape=tuple(shape), dtype=str(dtype).removeprefix("torch.")))
        two, three = (torch.empty((batch, *shape), dtype=dtype, device="meta") for batch in SIZES)
        live = Live(node=node, two=two, three=three)
        self._first = self._first or live
        return live

    def known(self, tensor: Tensor, name: str = "", form: Form | None = None) -> Known:
        """A constant of the file."""
        return Known(two=tensor, three=tensor, name=name, form=form)

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """One op on values, numbers and lists of them: drawn, or computed at once where all is known. A Value, or a tuple of them."""
        values = [leaf for leaf in pytree.tree_leaves((args, kwargs), is_leaf=_is_value) if isinstance(leaf, Known | Live)]
        live = any(isinstance(value, Live) for value in values)
        if not live:
            self._check_constant(op, args, kwargs, sum(value.three.numel() for value in values))
        two = self._computed(op, args, kwargs, lambda v: _shapes(v.two, live))
        same = all(v.two is v.three for v in values)
        three = two if same else self._computed(op, args, kwargs, lambda v: _shapes(v.three, live))
        if not live:
            return _paired(two, three, lambda a, b, _: Known(two=a, three=b))
        drawn = pytree.tree_map(self._drawn, (args, kwargs), is_leaf=_is_value)
        node = self._node(op, *drawn[0], **drawn[1])
        if isinstance(two, Tensor):
            return self._live(node, two, three, values)
        return _paired(two, three, lambda a, b, i: self._live(self._node(operator.getitem, node, i), a, b, values))

    def _live(self, node: fx.Node, two: Tensor, three: Tensor, sources: Sequence[Value] = ()) -> Live:
        if max(two.numel(), three.numel()) > LARGEST:
            self.refuse(f"a value of {two.numel():,} elements", "check the file's shapes")
        made = Live(node=node, two=two, three=three)
        kept = (v.ahead for v in sources if isinstance(v, Live) and v.ahead > 1 and v.shares == made.shares)
        return replace(made, ahead=next(kept, 1))

    def _check_constant(self, op: Any, args: Any, kwargs: Any, given: int) -> None:
        """Refuse a constant of a size that only a damaged file asks for, where its shape can be told before it is computed."""
        here = pytree.tree_map(lambda v: v.three.to("meta") if _is_value(v) else v, (args, kwargs), is_leaf=_is_value)
        try:
            made = pytree.tree_leaves(made_by(op, *here[0], **here[1]))
        except Exception:  # what is wrong is told when it is computed
            return
        count = sum(each.numel() for each in made if isinstance(each, Tensor))
        if count > max(LARGEST_CONSTANT, given):
            self.refuse(f"a constant of {count:,} elements", "check the file's shapes")

    def _computed(self, op: Any, args: Any, kwargs: Any, of: Callable[[Value], Tensor]) -> Any:
        here = pytree.tree_map(lambda v: of(v) if _is_value(v) else v, (args, kwargs), is_leaf=_is_value)
        try:
            with torch.no_grad():
                return made_by(op, *here[0], **here[1])
        except Exception as error:  # torch raises many kinds for shapes that don't fit
            self.refuse(f"operands that don't fit ({str(op).removeprefix('aten.')}: {first_line(error)[:160]})", "check the file")

    def _node(self, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(op, args, kwargs)
        node.meta = {"karui_layer": self.layer, "karui_source": ""}
        return node

    def _drawn(self, value: Any) -> Any:
        if isinstance(value, Live):
            return value.node
        if isinstance(value, Known):
            return self.operand(value)
        return value

    def again(self, x: Live, place: int, value: Live) -> Live:
        """The op that made ``x``, drawn again with another argument; what nobody reads is left out at the end."""
        args = list(x.node.args) + [None] * (place + 1 - len(x.node.args))
        args[place] = value.node
        return Live(node=self._node(x.node.target, *args, **x.node.kwargs), two=x.two, three=x.three)

    def spread(self, x: Live, two: Sequence[int], three: Sequence[int]) -> Live:
        """Copies along axes of size one, the batch's among them."""
        node = self._node(aten.expand.default, x.node, [self.size(a, b) for a, b in zip(two, three, strict=True)])
        first, second = (torch.empty(tuple(size), dtype=x.two.dtype, device="meta") for size in (two, three))
        return self._live(node, first, second)

    # ── constants in the graph ──────────────────────────────────────────────────────────────────────────────────────────────────

    def operand(self, value: Known) -> fx.Node:
        """A constant as a node: a buffer, unless ``parameter`` has made it one of the network's parameters."""
        value = self.one_sample(value)
        return self._attribute(value, value.two, value.name or f"{self.layer}.constant", trains=False)

    def held(self, value: Known) -> Live:
        """A constant as a value of the graph: a buffer."""
        value = self.one_sample(value)
        shape = value.two.to("meta")
        return Live(node=self.operand(value), two=shape, three=shape)

    def parameter(self, value: Known, name: str, change: Callable[[Tensor], Tensor] | None = None, key: str = "") -> Live:
        """A constant as a trainable parameter, seen through its form if the file writes it in whole numbers.

        name: what to call it where the file has no good name for it. change: how the op wants it (transposed …), ``key`` names that change:
        the same constant in the same form stays one parameter, however many layers use it.
        """
        value = self.one_sample(value)
        known = (id(value.two), key)
        tensor = (change or _as_is)(value.two).float().contiguous()
        node = self._attribute(value, tensor, good_name(value.name) or name, trains=True, key=known)
        shape = tensor.to("meta")
        live = Live(node=node, two=shape, three=shape)
        if value.form is None:
            return live
        return self._formed(live, value.form, value.two.dim(), change)

    def _formed(self, live: Live, form: Form, rank: int, change: Callable[[Tensor], Tensor] | None) -> Live:
        key = ("form", live.node)
        if key not in self._attributes:
            axis = form.axis
            if axis is not None and change is not None:  # where the axis of the scales goes
                probe = change(torch.empty([2 + i for i in range(rank)], device="meta"))
                axis = (
                    list(probe.shape).index(2 + axis) if 2 + axis in probe.shape else self.refuse("scales along an axis that is moved", "")
                )
            name = str(live.node.target)
            nodes = [
                self._attribute(
                    form, t.float().reshape(-1 if axis is not None else ()), f"{name}_{what}", trains=False, key=(id(form), what)
                )
                for t, what in ((form.scale, "scale"), (form.zero_point, "zero_point"))
            ]
            self._attributes[key] = self._node(FAKE_QUANTIZE, live.node, *nodes, form.qmin, form.qmax, axis)
        return Live(node=self._attributes[key], two=live.two, three=live.three)

    def fake_quantize(self, x: Live, form: Form, name: str) -> Live:
        """The rounding of an activation to the grid of its codes."""
        scale, zero = (t.float().reshape(-1 if form.axis is not None else ()) for t in (form.scale, form.zero_point))
        nodes = [
            self._attribute(t, t, f"{name}_{what}", trains=False, key=object()) for t, what in ((scale, "scale"), (zero, "zero_point"))
        ]
        node = self._node(FAKE_QUANTIZE, x.node, *nodes, form.qmin, form.qmax, form.axis)
        return Live(node=node, two=x.two, three=x.three)

    def number(self, value: Value) -> float | int | bool | None:
        """A constant of one element as a number; None for everything else."""
        if not isinstance(value, Known) or not value.fixed or value.two.numel() != 1 or value.two.dim() > 1:
            return None
        return value.two.item()

    def numbers(self, value: Value | None, what: str) -> list[int]:
        """A constant list of whole numbers that the op needs to know."""
        if not isinstance(value, Known) or not value.fixed:
            self.refuse(f"a computed {what}", f"make {what} a constant of the file")
        return [int(n) for n in value.two.reshape(-1).tolist()]

    def one_sample(self, value: Known) -> Known:
        """A constant that repeats itself over the batch, once."""
        if value.fixed:
            return value
        a, b = value.two, value.three
        differing = [i for i, (m, n) in enumerate(zip(a.shape, b.shape)) if m != n] if a.dim() == b.dim() else []
        if len(differing) == 1 and (a.shape[differing[0]], b.shape[differing[0]]) == SIZES:
            once = b.narrow(differing[0], 0, 1)
            if bool((b == once).all()) and bool((a == once).all()):
                return Known(two=once, three=once, name=value.name)
        self.refuse("a constant that depends on the batch size", "export the file with one row per sample")

    def _attribute(self, owner: Any, tensor: Tensor, name: str, *, trains: bool, key: Any = None) -> fx.Node:
        key = (id(owner), trains) if key is None else key
        if key in self._attributes:
            return self._attributes[key]
        self._kept.append((owner, tensor, key))
        name = register(self.root, name, nn.Parameter(tensor) if trains and tensor.is_floating_point() else tensor, self.source)
        self._attributes[key] = self.graph.get_attr(name)
        return self._attributes[key]

    # ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def size(self, two: int, three: int) -> Any:
        """A size that an op is given: a number where it is fixed, else so many batches as a node."""
        if two == three:
            return two
        if two % SIZES[0] or two // SIZES[0] * SIZES[1] != three or self._first is None:
            self.refuse("a size that doesn't go with the batch", "export the file with one row per sample")
        if self._size is None:
            with self.graph.inserting_after(self._first.node):
                self._size = self.graph.call_function(aten.sym_size.int, (self._first.node, 0))
                self._size.meta = {"karui_layer": self.layer, "karui_source": ""}
        return self._size if two == SIZES[0] else self._node(operator.mul, self._size, two // SIZES[0])

    def reshape(self, x: Value, two: Sequence[int], three: Sequence[int]) -> Value:
        """To a shape that is known for each batch size; a fixed one that leaves the batch out (a file of batch 1) is given it."""
        if isinstance(x, Known):
            first = x.two.reshape(tuple(two))
            return Known(
                two=first, three=first if x.fixed and list(two) == list(three) else x.three.reshape(tuple(three)), name=x.name, form=x.form
            )
        if prod(two) != x.two.numel() or prod(three) != x.three.numel():
            two, three = self._with_batch(x, two)
        if tuple(two) == tuple(x.two.shape) and tuple(three) == tuple(x.three.shape):
            return x
        free = [axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
        if len(free) != 1:
            self.refuse(f"a reshape of {list(x.two.shape)} to {list(two)}, which loses the batch", "keep one axis for it")
        shape = [-1 if axis == free[0] else size for axis, size in enumerate(two)]
        made = self._flattened(x, shape, two) or self.call(aten.reshape.default, x, shape)
        before, ahead = prod(x.shape[: x.batch or 0]) * x.ahead, prod(two[: free[0]])
        return replace(made, ahead=before // ahead if ahead and before % ahead == 0 else 1)

    def _flattened(self, x: Live, shape: Sequence[int], two: Sequence[int]) -> Value | None:
        """A reshape that merges axes behind the batch, in the word that the graph has for it."""
        merged = x.rank - len(two)
        if merged < 1 or x.batch != 0 or shape[0] != -1 or two[0] != SIZES[0]:
            return None
        for start in range(1, len(two)):
            end = start + merged
            if (*x.shape[:start], prod(x.shape[start : end + 1]), *x.shape[end + 1 :]) == tuple(two):
                return self.call(aten.flatten.using_ints, x, start, end if end < x.rank - 1 else -1)
        return None

    def _with_batch(self, x: Live, target: Sequence[int]) -> tuple[list[int], list[int]]:
        """The target of a reshape that a file of a fixed batch wrote, for any batch."""
        batch = x.batch
        if batch is None:
            self.refuse("a reshape after the batch was lost", "export the file with a free batch")
        before, total = prod(x.shape[:batch]) * x.ahead, x.two.numel() // SIZES[0]
        sizes = list(target)
        if -1 in sizes:
            rest = -prod(sizes)
            sizes[sizes.index(-1)] = max(1, total // rest) if rest else 0
        if prod(sizes) != total:
            self.refuse(
                f"a reshape of {list(x.shape)} (for {SIZES[0]} samples) to {list(target)}",
                "export the file with a batch of 1 or a free one",
            )
        places = [j for j in range(len(sizes)) if prod(sizes[:j]) == before]
        place = next((j for j in places if sizes[j] == 1), next(iter(places), None))
        if place is None:
            self.refuse(
                f"a reshape of {list(x.shape)} to {list(target)}, inside which the batch is lost", "export the file with a free batch"
            )
        if place == len(sizes) - 1 and sizes[place] != 1:  # features stay whole: the batch joins what is before it
            place = max(place - 1, 0)
        two, three = ([*sizes[:place], sizes[place] * n, *sizes[place + 1 :]] for n in SIZES)
        return two, three

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self, outputs: Mapping[str, Value], name: str) -> Network:
        """The network, in evaluation; ``outputs`` are its outputs by name."""
        for key, value in outputs.items():
            if isinstance(value, Known):
                raise CaptureError(f"'{self.source}': output '{key}' doesn't depend on any input; leave it out of the file")
            if value.batch != 0 or value.shape[0] != SIZES[0]:
                raise CaptureError(f"'{self.source}': output '{key}' has no batch as first axis; expected one row per sample")
        self.graph.output(tuple(value.node for value in outputs.values() if isinstance(value, Live)))
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph, class_name="Network")
        module.train()
        return Network(module, inputs=tuple(self.inputs), outputs=tuple(outputs), name=name).eval()

    def refuse(self, what: str, cure: str) -> NoReturn:
        """Raise the one error of a file's ops."""
        raise UnsupportedOp(f"'{self.source}': '{self.layer}' has {what}{f'; {cure}' if cure else ''}")


def _is_value(thing: Any) -> bool:
    return isinstance(thing, Known | Live)


def _shapes(tensor: Tensor, live: bool) -> Tensor:
    return tensor.to("meta") if live else tensor


def _as_is(tensor: Tensor) -> Tensor:
    return tensor


def _paired(two: Any, three: Any, make: Callable[[Tensor, Tensor, int], Value]) -> Any:
    if isinstance(two, Tensor):
        return make(two, three, 0)
    return tuple(make(a, b, i) for i, (a, b) in enumerate(zip(two, three, strict=True)))
