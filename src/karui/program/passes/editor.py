"""Editor: a program that passes may change; frozen again when they are done."""

from collections.abc import Iterator
from dataclasses import replace

from karui.program.program import Op, Program, Tensor, Weight


class Editor:
    """A mutable view of one program: tensors and weights by name, ops in order, outputs."""

    def __init__(self, program: Program) -> None:
        self.source = program
        self.tensors = dict(program.tensors)
        self.weights = dict(program.weights)
        self.ops = list(program.ops)
        self.outputs = list(program.outputs)
        self.states = list(program.states)

    def program(self) -> Program:
        """The program as it stands, without what nothing uses."""
        used = {name for op in self.ops for name in (*op.inputs, *op.outputs)}
        used |= {i.tensor for i in self.source.inputs} | {o.tensor for o in self.outputs} | {n for pair in self.states for n in pair}
        weights = {name for op in self.ops for name in op.weights.values()}
        return replace(
            self.source,
            tensors={n: t for n, t in self.tensors.items() if n in used},
            weights={n: w for n, w in self.weights.items() if n in weights},
            ops=tuple(self.ops),
            outputs=tuple(self.outputs),
            states=tuple(self.states),
        )

    def each(self) -> Iterator[Op]:
        """The ops as they stand when their turn comes: one that was replaced comes as it is now, one that was removed not at all."""
        for output in [op.outputs[0] for op in self.ops]:
            op = self.producer(output)
            if op is not None:
                yield op

    def producer(self, tensor: str) -> Op | None:
        """The op that writes ``tensor``; None for an input."""
        return next((op for op in self.ops if tensor in op.outputs), None)

    def readers(self, tensor: str) -> list[Op]:
        """The ops that read ``tensor``, each once."""
        return [op for op in self.ops if tensor in op.inputs]

    def is_visible(self, tensor: str) -> bool:
        """True where the tensor leaves the program as an output or a state, so that it must stay."""
        return any(o.tensor == tensor for o in self.outputs) or any(tensor in pair for pair in self.states)

    def only_reader(self, tensor: str) -> Op | None:
        """The single op that reads ``tensor`` (once), if nobody else sees the value."""
        readers = self.readers(tensor)
        if len(readers) != 1 or self.is_visible(tensor) or readers[0].inputs.count(tensor) != 1:
            return None
        return readers[0]

    def replace(self, old: Op, new: Op) -> Op:
        """Put ``new`` where ``old`` stands."""
        self.ops[self.index(old)] = new
        return new

    def index(self, op: Op) -> int:
        """Where this very op stands."""
        return next(i for i, other in enumerate(self.ops) if other is op)

    def remove(self, op: Op) -> None:
        """Take an op out."""
        del self.ops[self.index(op)]

    def insert_after(self, op: Op, new: Op) -> Op:
        """Put ``new`` right behind ``op``."""
        self.ops.insert(self.index(op) + 1, new)
        return new

    def move_readers(self, old: str, new: str) -> None:
        """Everybody who reads ``old`` reads ``new``; an output keeps what its axes mean."""
        if any(o.tensor == old for o in self.outputs):
            self.tensors[new] = replace(self.tensors[new], layout=self.tensors[old].layout)
        for i, op in enumerate(self.ops):
            if old in op.inputs:
                self.ops[i] = replace(op, inputs=tuple(new if name == old else name for name in op.inputs))
        self.outputs = [replace(o, tensor=new) if o.tensor == old else o for o in self.outputs]
        self.states = [(new if a == old else a, b) for a, b in self.states]

    def new_tensor(self, like: Tensor, suffix: str) -> Tensor:
        """A tensor as ``like`` under a free name."""
        tensor = replace(like, name=self.free_name(f"{like.name}{suffix}"))
        self.tensors[tensor.name] = tensor
        return tensor

    def new_weight(self, weight: Weight) -> str:
        """Add a weight under its name, or a free one like it; returns the name."""
        weight = replace(weight, name=self.free_name(weight.name))
        self.weights[weight.name] = weight
        return weight.name

    def free_name(self, name: str) -> str:
        """``name``, or ``name_2``, ``name_3`` … where it is taken."""
        taken = self.tensors.keys() | self.weights.keys()
        return next(n for n in _names(name) if n not in taken)


def _names(name: str) -> Iterator[str]:
    yield name
    i = 2
    while True:
        yield f"{name}_{i}"
        i += 1
