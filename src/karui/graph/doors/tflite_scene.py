"""Scene: a TFLite graph on its way into a drawing.

The file lies channels last, a Network channels first. So each value remembers in which order its node holds the axes of the file's tensor:
``order[i]`` is the file's axis that the node's i-th axis holds; an image of the file's ``(N, H, W, C)`` is a node ``(N, C, H, W)`` of
order ``(0, 3, 1, 2)``. A transpose of the file changes the order and moves nothing; a rule that needs an order asks for it, and only then
a permute is drawn.

A file of one sample may leave the batch out on the way, ``[1, T, C]`` → ``[T, C]``; the node keeps it as its first axis, which is then
*hidden*: −1 in the order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import torch

from karui.errors import FileError, UnsupportedOp
from karui.graph.doors.drawing import SIZES, Drawing, Known, Live, Value
from karui.graph.doors.tflite_constants import form_of, numbers_of, real_of, same_quant
from karui.graph.doors.tflite_file import File, FileTensor, Operator

aten = torch.ops.aten

Order = tuple[int, ...]
CHANNELS_FIRST: Order = (0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """A value that the file deals out over the batch, ``block[i]`` rows and columns apart: how it writes dilation.

    The node holds the value as it was before; ``padding`` (before, after, for each axis) is still to come.
    """

    block: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """What a tensor of the file is in the drawing. sealed: its activation and rounding are drawn already."""

    value: Value
    order: Order
    spread: Spread | None = None
    sealed: bool = False

    @property
    def hidden(self) -> bool:
        """Whether the file's tensor lacks the batch, the node's first axis."""
        return -1 in self.order

    @property
    def rank(self) -> int:
        """How many axes the file's tensor has."""
        return len(self.order) - self.hidden

    @property
    def shape(self) -> tuple[int, ...]:
        """The file's shape, for the first batch size."""
        return self.sizes()[0]

    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The file's shape for either batch size."""
        two, three = self.value.two.shape, self.value.three.shape
        places = [self.order.index(axis) for axis in range(self.rank)]
        return tuple(two[i] for i in places), tuple(three[i] for i in places)

    @property
    def batch(self) -> int | None:
        """The file's axis that holds the batch; None where it has none."""
        at = self.value.batch if isinstance(self.value, Live) else None
        return None if at is None or self.order[at] < 0 else self.order[at]

    @property
    def sample(self) -> tuple[int, ...] | None:
        """The file's shape without the batch, where that is its first axis or hidden."""
        return self.shape if self.hidden else self.shape[1:] if self.batch == 0 and self.shape[0] == SIZES[0] else None

    @property
    def plain(self) -> Order:
        """The order in which the node would lie as the file's tensor does."""
        return plain_order(self.rank, self.hidden)

    def axis(self, axis: int) -> int:
        """Where the node holds an axis of the file's tensor."""
        return self.order.index(axis % self.rank)

    def laid(self, of: Sequence[Any], hidden: Any = 1) -> list[Any]:
        """Something for each axis of the file as the node's axes lie; ``hidden`` for the one that the file lacks."""
        return [hidden if axis < 0 else of[axis] for axis in self.order]


def plain_order(rank: int, hidden: bool = False) -> Order:
    """The order of a node that lies as the file's tensor does."""
    return (*([-1] if hidden else []), *range(rank))


class Scene:
    """The values of a file's tensors, by index, and what rules ask about an operator's operands."""

    def __init__(self, file: File, drawing: Drawing) -> None:
        self.file, self.drawing = file, drawing
        self.env: dict[int, Held] = {}
        self.sources: dict[Any, Held] = {}  # what a reshape's node was made of
        self.single = all(i >= 0 and file.tensors[i].signature[:1] == (1,) for i in file.inputs)  # the file is one of one sample
        self.absorbed: set[int] = set()  # ids of adds that are a layer's bias already
        self._constants: dict[int, Held] = {}
        self._readers: dict[int, list[Operator]] = {}
        for op in file.operators:
            for index in op.inputs:
                self._readers.setdefault(index, []).append(op)

    # ── operands ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tensor(self, op: Operator, i: int) -> FileTensor:
        """The file's tensor of input ``i``."""
        return self.file.tensors[op.inputs[i]]

    def has(self, op: Operator, i: int) -> bool:
        """Whether the operator has an input ``i``."""
        return i < len(op.inputs) and op.inputs[i] >= 0

    def held(self, op: Operator, i: int) -> Held:
        """Input ``i``; a value that is dealt out over the batch has few readers."""
        held = self.dealt(op, i)
        if held.spread is not None:
            self.refuse("a value that SPACE_TO_BATCH_ND made", "only convolutions may stand between it and BATCH_TO_SPACE_ND")
        return held

    def dealt(self, op: Operator, i: int) -> Held:
        """Input ``i``, maybe dealt out over the batch."""
        if not self.has(op, i):
            self.refuse(f"{op.kind} without input {i}", "check the file")
        return self.at(op.inputs[i])

    def at(self, index: int) -> Held:
        """The value of a tensor: made before, or a constant."""
        if index in self.env:
            return self.env[index]
        tensor = self.file.tensors[index]
        if tensor.data is None:
            where = f"'{self.drawing.source}': '{self.drawing.layer}'"
            raise FileError(f"{where} reads '{tensor.name[:200]}' before anything makes it; convert the file again")
        if index not in self._constants:
            known = self.constant(tensor)
            self._constants[index] = Held(value=known, order=plain_order(known.two.dim()))
        return self._constants[index]

    def constant(self, tensor: FileTensor) -> Known:
        """A constant of the file: real numbers where it has scales, but for a bias of 32 bits, whose layer knows its scale."""
        try:
            numbers, form = numbers_of(tensor), form_of(tensor)
        except (FileError, UnsupportedOp) as error:
            raise type(error)(f"'{self.drawing.source}': {str(error)[:400]}") from None
        return self.drawing.known(numbers if form is None else real_of(tensor, numbers), tensor.name.split(";")[0][:200], form)

    def known(self, op: Operator, i: int) -> Known | None:
        """Input ``i`` if it is a constant."""
        value = self.held(op, i).value if self.has(op, i) else None
        return value if isinstance(value, Known) else None

    def numbers(self, op: Operator, i: int, what: str) -> list[int]:
        """Whole numbers that the op needs to know."""
        return self.drawing.numbers(self.plain(self.held(op, i)).value, what)

    def reader(self, index: int) -> Operator | None:
        """The only operator that reads a tensor; None where there are more, or it leaves the network."""
        readers = self._readers.get(index, [])
        return readers[0] if len(readers) == 1 and index not in self.file.outputs else None

    def readers(self, index: int) -> Sequence[Operator]:
        """The operators that read a tensor."""
        return self._readers.get(index, [])

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def laid(self, held: Held, order: Order) -> Held:
        """The value lying in ``order``: itself, or behind a permute. A constant has no hidden axis; it broadcasts without."""
        order = order if held.hidden else tuple(axis for axis in order if axis >= 0)
        if held.order == order:
            return held
        perm = [held.order.index(axis) for axis in order]
        return replace(held, value=self.drawing.call(aten.permute.default, held.value, perm), order=order)

    def plain(self, held: Held) -> Held:
        """The value as the file writes it."""
        return self.laid(held, held.plain)

    def image(self, held: Held) -> Held:
        """A value of four axes, channels first."""
        if held.rank != 4 or held.hidden or held.batch != 0:
            self.refuse(f"a tensor of shape {list(held.shape)} where an image is expected", "give it batch, height, width and channels")
        return self.laid(held, CHANNELS_FIRST)

    def aligned(self, *operands: Held) -> list[Held]:
        """Operands that broadcast: of one rank and in one order, that of live ones, of images rather channels first."""
        rank = max(h.rank for h in operands)
        hidden = any(h.hidden and h.rank == rank for h in operands)
        wide = [self.widened(h, rank, hidden) for h in operands]
        orders = [h.order for h in wide if isinstance(h.value, Live)] or [plain_order(rank)]
        order = next((o for o in orders if o != plain_order(rank, -1 in o)), orders[0])
        return [self.laid(h, order) for h in wide]

    def widened(self, held: Held, rank: int, hidden: bool = False) -> Held:
        """With more axes in front, of size one; a batch in front stays there, seen by the file or hidden."""
        live = isinstance(held.value, Live)
        if held.rank == rank and (not live or held.hidden == hidden):
            return held
        held, sample = self.plain(held), held.sample
        if live and sample is not None:
            ones = [1] * (rank + hidden - 1 - len(sample))
            two, three = ([n, *ones, *sample] for n in SIZES)
            return Held(value=self.drawing.reshape(held.value, two, three), order=plain_order(rank, hidden))
        two, three = ([1] * (rank - held.rank) + list(sizes) for sizes in held.sizes())
        return Held(value=self.drawing.reshape(held.value, two, three), order=plain_order(rank))

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, held: Held, op: Any, *args: Any, **kwargs: Any) -> Held:
        """An op that leaves the axes where they are."""
        return replace(held, value=self.drawing.call(op, held.value, *args, **kwargs))

    def repeated(self, known: Known) -> Live:
        """A constant whose first axis has size one, which becomes the batch's: for ops that don't broadcast."""
        d = self.drawing
        held = d.held(known)
        two, three = ([size, *held.shape[1:]] for size in SIZES)
        return d.spread(held, two, three)

    def batch_axis(self, held: Held, axis: int, what: str) -> None:
        """Refuses what would mix samples."""
        if held.batch is not None and held.batch == axis % held.rank:
            self.refuse(f"{what} along the batch axis", "samples must not depend on each other")

    def reshaped(self, held: Held, two: Sequence[int], three: Sequence[int]) -> Held:
        """To another shape of the file; one reshape after another becomes one, and axes of size one need no permute."""
        if isinstance(held.value, Live) and held.order == held.plain:  # no transpose since
            held = self.sources.get(held.value.node, held)
        shape = self.of_sample(held, two) if list(two) == list(three) else None
        if (tuple(two), tuple(three)) == held.sizes() or (
            shape is not None and tuple(shape) == self.once(held) and held.sample is not None
        ):
            return held
        source, held = held, held if self.lies(held) else self.plain(held)
        if shape is None:
            value = self.drawing.reshape(held.value, two, three)
            made = Held(value=value, order=plain_order(value.two.dim()))
        else:
            seen = bool(shape) and shape[0] == 1
            inner = shape[1:] if seen else shape
            value = self.ones(held.value, inner) or self.drawing.reshape(held.value, *([n, *inner] for n in SIZES))
            made = Held(value=value, order=plain_order(len(shape), not seen))
        if isinstance(made.value, Live) and made.value is not held.value:
            self.sources[made.value.node] = source
        return made

    def ones(self, value: Value, inner: Sequence[int]) -> Value | None:
        """A reshape that only drops or adds an axis of size one, between others, in the word that the graph has for it."""
        old, new = list(value.two.shape), [SIZES[0], *inner]
        short, long = (old, new) if len(old) < len(new) else (new, old)
        if len(long) - len(short) != 1 or len(short) < 3 or not isinstance(value, Live):
            return None
        at = next((i for i, size in enumerate(long) if i >= len(short) or size != short[i]), 0)
        if long[at] != 1 or [*long[:at], *long[at + 1 :]] != short:
            return None
        return self.drawing.call(aten.unsqueeze.default, value, at) if short is old else self.drawing.call(aten.squeeze.dims, value, [at])

    def of_sample(self, held: Held, target: Sequence[int]) -> list[int] | None:
        """A shape that a file of one sample wrote, with the size that it leaves open; None where it isn't one sample's."""
        if held.sample is None or not isinstance(held.value, Live):
            return None
        total, rest = prod(held.sample), prod(n for n in target if n != -1)
        found = [total // max(rest, 1) if n == -1 else n for n in target]
        return found if prod(found) == total else None

    def lies(self, held: Held) -> bool:
        """Whether its elements lie as the file's do, in whatever shape: only axes of size one stand elsewhere."""
        shape = held.shape
        ones = [axis for axis in held.order if axis < 0 or shape[axis] != 1]
        return ones == sorted(ones)

    def flat(self, held: Held) -> Held:
        """As ``plain``; where only axes of size one move, by a reshape."""
        if held.order == held.plain or not self.lies(held):
            return self.plain(held)
        two, three = ([n, *sizes] if held.hidden else list(sizes) for n, sizes in zip(SIZES, held.sizes(), strict=True))
        return Held(value=self.drawing.reshape(held.value, two, three), order=held.plain)

    def once(self, held: Held) -> tuple[int, ...]:
        """The shape as a file of one sample writes it."""
        return tuple(size // SIZES[0] if axis == held.batch else size for axis, size in enumerate(held.shape))

    def seal(self, op: Operator, held: Held, output: int = 0) -> Held:
        """The fused activation, then the rounding to the output's codes."""
        if held.sealed:
            return replace(held, sealed=False)
        held = self.activated(op, held)
        tensor = self.file.tensors[op.outputs[output]]
        form = form_of(tensor)
        if form is None or not isinstance(held.value, Live) or self._moves(op, tensor):
            return held
        return replace(held, value=self.drawing.fake_quantize(held.value, form, f"{self.drawing.layer}.output"))

    def activated(self, op: Operator, held: Held) -> Held:
        """The activation that a layer carries with it; a recurrent one's is its own."""
        code = 0 if "LSTM" in op.kind else op.option("FusedActivationFunction", 0)
        if code == 0:
            return held
        if code not in ACTIVATIONS:
            self.refuse(f"the fused activation {code}", "use NONE, RELU, RELU6, RELU_N1_TO_1 or TANH")
        target, *args = ACTIVATIONS[code]
        return self.keep(held, target, *args)

    def _moves(self, op: Operator, tensor: FileTensor) -> bool:
        """Whether the op only moves codes, in the scale that they have."""
        live = [i for i in op.inputs if i >= 0 and i in self.env and isinstance(self.env[i].value, Live)]
        return op.kind in MOVES and bool(live) and all(same_quant(self.file.tensors[i], tensor) for i in live)

    def refuse(self, what: str, cure: str) -> NoReturn:
        """Raise the one error of a file's ops."""
        self.drawing.refuse(what, cure)


ACTIVATIONS: Mapping[int, tuple[Any, ...]] = {
    1: (aten.relu.default,),
    2: (aten.hardtanh.default, -1.0, 1.0),
    3: (aten.relu6.default,),
    4: (aten.tanh.default,),
}
MOVES = frozenset(
    "RESHAPE TRANSPOSE SQUEEZE EXPAND_DIMS PACK UNPACK CONCATENATION SPLIT SPLIT_V SLICE STRIDED_SLICE PAD PADV2 MIRROR_PAD TILE "
    "BROADCAST_TO GATHER GATHER_ND MAX_POOL_2D RESIZE_NEAREST_NEIGHBOR DEPTH_TO_SPACE SPACE_TO_DEPTH SPACE_TO_BATCH_ND "
    "BATCH_TO_SPACE_ND REVERSE_V2 REDUCE_MAX REDUCE_MIN MAXIMUM MINIMUM SELECT SELECT_V2 EMBEDDING_LOOKUP".split()
)
