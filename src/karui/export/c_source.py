"""Source: what the rules of ``c_layers.py`` and ``c_ops.py`` write into while a Program becomes C."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from karui.errors import UnsupportedOp
from karui.export import c_constants, c_text
from karui.export.machines import PORTABLE, Machine
from karui.program.program import Array, Op, Program, Tensor

if TYPE_CHECKING:
    from karui.export.c_plan import Planner

SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "k_index": 2, "int32_t": 4, "float": 4}
ALIGNMENT = 4


@dataclass
class Source:
    """One model in the making. ``places``: how C names the memory of each tensor. ``offsets``: where tensors lie in the arena.

    packed: tensors that lie as bits (``c_signs.packed``).

    Scratch is one region per C type, shared by all ops, so no byte of the arena is ever read as two types that may not alias. Where all
    tensors are bytes, which alias anything, scratch is planned with them: ``scratch_at`` says where each op's begins.
    """

    program: Program
    offsets: Mapping[str, int]
    tensors_end: int  # bytes of the arena that tensors take
    wide_index: bool
    machine: Machine = PORTABLE
    scratch_at: Mapping[int, int] | None = None  # op → byte of the arena; None: by regions
    room: Mapping[int, int] = field(default_factory=dict)  # op → bytes of the arena that are free there, where scratch is planned
    packed: frozenset[str] = frozenset()
    planner: "Planner | None" = None  # chooses kernels; None: the usual rules do
    places: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    tables: dict[str, Array | str] = field(default_factory=dict)  # name → numbers, flat, or a structure's text
    calls: list[str] = field(default_factory=list)
    scratch: dict[str, int] = field(default_factory=dict)  # C type → elements, the most that any op takes
    wanted: dict[int, int] = field(default_factory=dict)  # op → bytes of its scratch, where that is planned
    _op: int = -1  # the op at hand, by its place
    _taken: dict[str, int] = field(default_factory=dict)  # C type → elements taken by the op at hand
    _known: dict[tuple[Any, ...], str] = field(default_factory=dict)  # content of a table → name

    # ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def use(self, kernel: str) -> str:
        """A kernel that the model calls; returns its name."""
        if kernel not in c_text.chunks():
            raise KeyError(kernel)
        self.used.add(kernel)
        return kernel

    def table(self, hint: str, array: Array) -> str:
        """A constant; the same content is written once. Returns its name."""
        flat = c_constants.checked(hint, array)
        key = (flat.dtype.name, flat.size, c_constants.digest(flat))
        if key not in self._known:
            name = self._free(f"k_{c_text.identifier(hint)}")
            self._known[key] = name
            self.tables[name] = flat
        return self._known[key]

    def constant(self, hint: str, kind: str, text: str) -> str:
        """A constant structure or array of structures, ``static const kind NAME = text;``. Returns its name."""
        self.use(kind.split("[")[0])
        if (kind, text) not in self._known:
            name = self._free(f"k_{c_text.identifier(hint)}")
            base, brackets = kind.split("[")[0], kind[len(kind.split("[")[0]) :]
            self._known[kind, text] = name
            self.tables[name] = f"static const {base} {name}{brackets} = {text};\n"
        return self._known[kind, text]

    def _free(self, name: str) -> str:
        taken = self.tables.keys() | c_text.chunks().keys()
        free, i = name, 2
        while free in taken:
            free, i = f"{name}_{i}", i + 1
        return free

    # ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def place(self, name: str) -> str:
        """A pointer to a tensor's memory, of its own type."""
        if name in self.places:
            return self.places[name]
        return f"k_at({c_text.C_TYPES[self.program.tensor(name).dtype]}, {self.offsets[name]})"

    def take(self, kind: str, count: int) -> str:
        """Scratch for the op at hand: a pointer to ``count`` elements of a C type."""
        if self.scratch_at is not None:
            start = self.wanted.get(self._op, 0)
            self.wanted[self._op] = start + -(-count * self.size(kind) // ALIGNMENT) * ALIGNMENT
            return f"k_at({kind}, {self.scratch_at.get(self._op, 0) + start})"
        start = self._taken.get(kind, 0)
        self._taken[kind] = start + count
        self.scratch[kind] = max(self.scratch.get(kind, 0), self._taken[kind])
        return f"k_at({kind}, K_SCRATCH_{kind.upper()}{f' + {start * self.size(kind)}' if start else ''})"

    def spare(self) -> int:
        """Bytes that the op at hand may still take without a larger arena, as far as that is known."""
        return max(0, self.room.get(self._op, 0) - self.wanted.get(self._op, 0))

    def size(self, kind: str) -> int:
        """Bytes of a C type."""
        return 4 if kind == "k_index" and self.wide_index else SIZES[kind]

    def regions(self, start: int) -> tuple[dict[str, int], int]:
        """Where the scratch of each type begins behind ``start`` bytes of tensors, and where all ends."""
        begins = {}
        for kind in sorted(self.scratch):
            begins[kind] = start
            start += -(-self.scratch[kind] * self.size(kind) // ALIGNMENT) * ALIGNMENT
        return begins, start

    # ── statements ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, op: Op) -> None:
        """A new op: its comment, and its scratch starts from nothing."""
        self._taken = {}
        self._op += 1
        shapes = " → ".join("×".join(map(str, t.shape)) or "1" for t in (*map(self.tensor, op.inputs), *map(self.tensor, op.outputs)))
        self.calls.append(f"    /* {self.title(op)}: {op.kind}, {c_text.comment(shapes)} */")

    def title(self, op: Op) -> str:
        """The layer's name in a comment."""
        return c_text.theirs(c_text.comment(op.name))

    def set(self) -> str:
        """The instruction set that the program runs with: a pointer to what ``run`` chose at its start."""
        assert self.machine.sets is not None
        self.use(self.machine.sets)
        return "&set"

    def chosen(self, what: str) -> str:
        """A function of that set."""
        return f"{self.set().removeprefix('&')}.{what}"

    def call(self, kernel: str, *arguments: Any) -> None:
        """A statement."""
        self.use(kernel)
        self.write(f"{kernel}({', '.join(map(str, arguments))});")

    def write(self, statement: str) -> None:
        """Any statement, broken after commas where it is long."""
        line, words = "    ", statement.split(", ")
        for i, word in enumerate(words):
            word = word if i == len(words) - 1 else word + ","
            if len(line) + len(word) > c_text.LINE and line.strip():
                self.calls.append(line.rstrip())
                line = "        "
            line += word + " "
        self.calls.append(line.rstrip())

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name."""
        return self.program.tensor(name)

    def refuse(self, op: Op, what: str, cure: str) -> UnsupportedOp:
        """The error of this room, to be raised."""
        return UnsupportedOp(f"'{op.name}' ({op.kind}): {what}, which target 'c' has no kernel for; {cure}")


def structure(**fields: Any) -> str:
    """An initialiser by field names."""
    return "{" + ", ".join(f".{name} = {value}" for name, value in fields.items()) + "}"


def count(shape: tuple[int, ...]) -> int:
    """Elements of a shape."""
    return prod(shape)
