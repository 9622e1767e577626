"""Target ``c``: a Program as portable C99.

The folder holds ``NAME.h``, ``NAME.c``, an example program, a Makefile, a CMakeLists.txt and a README. The model is a static schedule of
calls to the kernels of ``c_runtime``, of which only those used are written out; weights are constants, in the source or, where there are
many, in a file of bytes beside it. All mutable memory is the caller's arena, of a size known at compile time: no heap, no stdio, and no
libm in integer networks. One sample per call; re-entrant. A sample that is sure at an early exit costs no more than the layers up to there.
The same Program gives the same text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from karui.export import c_constants, c_files, c_text
from karui.export.artifact import Artifact
from karui.export.c_exits import exit_moments, leave
from karui.export.c_ops import RULES
from karui.export.c_plan import Planner
from karui.export.c_signs import packed, packed_bytes
from karui.export.c_source import ALIGNMENT, Source
from karui.export.ceilings import Table
from karui.export.machines import Machine, machine_of
from karui.program.arithmetic import quantization
from karui.program.memory import plan, widest
from karui.program.program import Array, Program
from karui.workspace import Content, atomic_write


@dataclass(frozen=True, kw_only=True)
class Model:
    """The texts of a model. ``arena_bytes``: memory that the caller gives; ``kernels``: those that it calls; ``plan``: why those.

    head, tables, tail: the source, in which big tables are still numbers; blob: those of them that are in a file of their own, by symbol.
    """

    name: str
    title: str
    header: str
    head: str
    tables: Mapping[str, Array | str]
    tail: str
    blob: Mapping[str, Array]
    arena_bytes: int
    kernels: tuple[str, ...]
    plan: Mapping[str, Any] = field(default_factory=dict)

    def pieces(self) -> Iterator[str]:
        """The source, piece by piece."""
        yield self.head
        for name, each in self.tables.items():
            if isinstance(each, str):
                yield each
            elif name in self.blob:
                yield c_constants.declared(name, each)
            else:
                yield from c_constants.as_array(name, each)
            yield "\n"
        yield self.tail

    @property
    def source(self) -> str:
        """The whole source."""
        return "".join(self.pieces())

    @property
    def needs_libm(self) -> bool:
        """Does it use math.h?"""
        return "#include <math.h>" in self.head

    def files(self) -> dict[str, Content]:
        """What a compiler needs, by name."""
        files: dict[str, Content] = {f"{self.name}.h": self.header, f"{self.name}.c": self.pieces()}
        if self.blob:
            files[f"{self.name}_weights.S"] = c_constants.assembly(self.name, self.blob, self.title)
            files[f"{self.name}_weights.bin"] = c_constants.content(self.blob)
        return files


def write(
    program: Program,
    folder: Path,
    *,
    name: str = "model",
    machine: str = "portable",
    weights: Literal["array", "incbin"] | None = None,
    table: Table | None = None,
    keep_forms: bool = False,
) -> Artifact:
    """Write the files, each whole or not at all, into a folder that is made if it lacks; other files in it stay.

    Args:
        name: prefix of every symbol and of the files; a C identifier of at most 41 characters.
        machine: of ``machines.MACHINES``: what the program is to be fast on; it runs wherever a C compiler is.
        weights: as "array"s of C, or in a file of bytes that the assembler takes in ("incbin"), which compiles faster; it needs ELF and a
            little-endian processor. None: the file from 4 MiB on.
        table: the machine's, by which kernels are chosen and predicted (``ceilings.find``); None: the usual rules.
        keep_forms: with a table, weights stay in a form that is slower there than int8.

    Raises:
        UnsupportedOp: an op without a kernel, or numbers that C can't hold.   RecipeError: a name that C can't take, an unknown machine.
    """
    planner = Planner(table=table, keep_forms=keep_forms)
    built = model(program, name=name, machine=machine, weights=weights, planner=planner)
    texts: dict[str, Content] = {
        **built.files(),
        "example.c": c_files.example(program, name),
        "Makefile": c_files.makefile(name, needs_libm=built.needs_libm, blob=bool(built.blob)),
        "CMakeLists.txt": c_files.cmake(name, needs_libm=built.needs_libm, blob=bool(built.blob)),
        "README.md": c_files.readme(program, built.arena_bytes, name, blob=bool(built.blob)),
    }
    return write_files(program, Path(folder), texts, target="c", main=f"{name}.c", built=built)


def write_files(program: Program, folder: Path, texts: Mapping[str, Content], *, target: str, main: str, built: Model) -> Artifact:
    """Put texts into a folder and say what it is. Weights in a file that an older model of that name left there go."""
    for file, text in texts.items():
        atomic_write(folder / file, text)
    for file in {f"{built.name}_weights.S", f"{built.name}_weights.bin"} - texts.keys():
        (folder / file).unlink(missing_ok=True)
    facts = {"name": built.name, "arena_bytes": built.arena_bytes, "kernels": list(built.kernels), **built.plan}
    paths = tuple(folder / file for file in texts)
    return Artifact(target=target, folder=folder, files=paths, main=folder / main, program=program.name, facts=facts)


def model(
    program: Program, *, name: str = "model", machine: str = "portable", weights: str | None = None, planner: Planner | None = None
) -> Model:
    """The header and the source of a Program. weights: as ``write``; planner: what chooses kernels."""
    c_text.checked_name(name)
    found = machine_of(machine)
    wanted = None
    if {program.tensor(name).dtype for name in plan(program).offsets} <= {"int8", "uint8"}:
        wanted = _written(program, found, {}, planner).wanted
    source = _written(program, found, wanted, planner)
    arena = _arena(source)
    header = c_files.header(program, arena, name)
    blob = c_constants.in_file(source.tables, weights)
    head, tail = (c_text.prefixed(text, name) for text in _texts(source, name, blob=bool(blob)))
    return Model(
        name=name,
        title=c_text.comment(program.name),
        header=header,
        head=head,
        tables={c_text.prefixed(each, name): _prefixed(table, name) for each, table in source.tables.items()},
        tail=tail,
        blob={c_text.prefixed(each, name): table for each, table in blob.items()},
        arena_bytes=arena,
        kernels=tuple(sorted(source.used)),
        plan=planner.facts() if planner else {},
    )


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _written(program: Program, machine: Machine, scratch: Mapping[int, int] | None, planner: Planner | None) -> Source:
    """The calls of all ops, and what they want. scratch: bytes of the arena that ops want, where they are planned, or none yet."""
    source, moments = _source(program, machine, scratch), exit_moments(program)
    if planner is not None:
        planner.begin()
        source.planner = planner
    for i, op in enumerate(program.ops):
        source.begin(op)
        if op.kind not in RULES:
            raise source.refuse(op, f"kind '{op.kind}'", "choose another target or another op")
        RULES[op.kind](source, op)
        leave(source, i, moments)
    _copies(source)
    return source


def _source(program: Program, machine: Machine, scratch: Mapping[int, int] | None) -> Source:
    """A Source in which the caller's tensors have their places; states lie behind the planned tensors."""
    longest = max((prod(w.shape[1:]) for w in program.weights.values() if w.shape), default=0)
    source = Source(program=program, offsets={}, tensors_end=0, wide_index=longest > 0xFFFF, machine=machine)
    source.packed = packed(source)
    sizes = packed_bytes(source) if machine.duos else {}
    planned = plan(program, alignment=ALIGNMENT, scratch=scratch, sizes=sizes)
    planned, source.room = widest(program, planned, alignment=ALIGNMENT, sizes=sizes)
    offsets, end = dict(planned.offsets), planned.arena_bytes
    for _, name in program.states:
        offsets[name] = end = -(-end // ALIGNMENT) * ALIGNMENT
        end += program.tensor(name).nbytes
    source.offsets, source.tensors_end = offsets, end
    source.scratch_at = None if scratch is None else planned.scratch
    for entry, text in zip(program.inputs, c_files.parameters(program.inputs, "input"), strict=True):
        source.places[entry.tensor] = text
    for out, text in zip(program.outputs, c_files.parameters(program.outputs, "output"), strict=True):
        if out.tensor not in offsets or out.tensor not in {read for _, read in program.states}:
            source.places.setdefault(out.tensor, text)
    return source


def _copies(source: Source) -> None:
    """Outputs that aren't written by an op into the caller's memory, and states that go to the next call."""
    program = source.program
    for out, text in zip(program.outputs, c_files.parameters(program.outputs, "output"), strict=True):
        if (place := source.place(out.tensor)) != text:
            source.write(f"memcpy({text}, {place}, {program.tensor(out.tensor).nbytes});")
    for written, read in program.states:
        source.write(f"memcpy({source.place(read)}, {source.place(written)}, {program.tensor(read).nbytes}); /* for the next call */")


def _arena(source: Source) -> int:
    """Bytes of the arena: tensors, states, scratch; never 0, so that the caller can declare it."""
    return max(ALIGNMENT, source.regions(source.tensors_end)[1])


def _prefixed(table: Array | str, name: str) -> Array | str:
    return c_text.prefixed(table, name) if isinstance(table, str) else table


def _texts(source: Source, name: str, *, blob: bool) -> tuple[str, str]:
    """The source up to its constants, and what stands behind them."""
    program = source.program
    kernels = c_text.kernels([*source.used, "k_index"])
    if source.wide_index:
        kernels = kernels.replace("typedef uint16_t k_index;", "typedef uint32_t k_index;")
    begins = source.regions(source.tensors_end)[0]
    scratch = "".join(f"#define K_SCRATCH_{kind.upper()} {begin}\n" for kind, begin in begins.items())
    calls = "\n".join(source.calls)
    unused = "".join(f"    (void){text};\n" for text in _unused(source, calls))
    structures = "\n".join(text for text in source.tables.values() if isinstance(text, str))
    body = f"{kernels}\n{structures}\n{calls}"
    math = "#include <math.h>\n" if c_text.uses_math(body) else ""
    memory = "    int8_t *const memory = (int8_t *)arena;\n" if "k_at(" in calls else ""
    chosen = f"    const k_set set = {source.machine.sets}();\n" if source.machine.sets in source.used else ""
    title, file = c_text.theirs(c_text.comment(program.name)), c_text.theirs(f"{name}.h")
    head = f"""\
/* {title}: written by karui; see {file}. Edit the network, not this file. */

#include "{file}"

{math}#include <stddef.h>
#include <stdint.h>
#include <string.h>
{c_text.includes(kernels)}{c_text.theirs(c_constants.guard(name)) if blob else ""}
/* ── Kernels ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

{kernels}
/* ── Constants ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

"""
    tail = f"""\
/* ── The network ───────────────────────────────────────────────────────────────────────────────────────────────────── */

/* A place in the arena. Scratch memory has a place for each type. */
#define k_at(type, offset) ((type *)(void *)(memory + (offset)))
{scratch}
{_labels(program)}{_reset(source)}int k_run({c_files.signature(program)})
{{
{memory}{chosen}    if (arena == NULL || (uintptr_t)arena % K_ARENA_ALIGNMENT != 0)
        return 1;
{unused}{calls}
    return 0;
}}
"""
    return head, tail


def _unused(source: Source, calls: str) -> list[str]:
    """Inputs that no op reads."""
    texts = c_files.parameters(source.program.inputs, "input")
    read = {name for op in source.program.ops for name in op.inputs} | {out.tensor for out in source.program.outputs}
    return [text for entry, text in zip(source.program.inputs, texts, strict=True) if entry.tensor not in read]


def _labels(program: Program) -> str:
    labels = c_files.labels(program)
    if not labels:
        return ""
    width = max(len(label.encode()) for label in labels) + 1
    rows = ",\n".join(f"    {c_text.theirs(c_text.string(label))}" for label in labels)
    return f"const char k_labels[{len(labels)}][{width}] = {{\n{rows}\n}};\n\n"


def _reset(source: Source) -> str:
    """Where there are states: the function that makes them start from zero."""
    program = source.program
    if not program.states:
        return ""
    lines = []
    for _, name in program.states:
        tensor = program.tensor(name)
        zero = quantization(tensor)[1] if tensor.dtype == "int8" else 0
        lines.append(f"    memset({source.place(name)}, {int(np.int8(zero))}, {tensor.nbytes});")
    return "void k_reset(void *arena)\n{\n    int8_t *const memory = (int8_t *)arena;\n" + "\n".join(lines) + "\n}\n\n"
