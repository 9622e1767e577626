"""Early exits in C: where the scores of an exit are known and sure, ``run`` returns, and the rest is not computed.

That is so where an exit, or a chain of them, makes the program's only output and nothing has to be carried to the next call. Else both
values are computed and one is chosen, as in the interpreter. The outputs are the same either way.
"""

from collections.abc import Mapping

from karui.export import c_files
from karui.export.c_source import Source
from karui.export.c_text import number
from karui.program.program import Op, Program


def exit_if(source: Source, op: Op) -> None:
    """Whoever comes here past an exit where ``run`` may return takes the other value."""
    early, late = (source.place(name) for name in op.inputs)
    out, count, threshold = source.place(op.outputs[0]), source.tensor(op.outputs[0]).count, number(op.attributes["threshold"])
    if any(op is each for each in chain(source.program)):
        source.write(f"memcpy({out}, {late}, {source.tensor(op.outputs[0]).nbytes});")
    else:
        source.call("k_exit_if", early, late, out, count, threshold)


def leave(source: Source, position: int, moments: Mapping[int, list[Op]]) -> None:
    """The statements behind the op at ``position``: return from ``run`` at each exit whose moment this is."""
    program = source.program
    for op in moments.get(position, []):
        early = source.tensor(op.inputs[0])
        (output,) = c_files.parameters(program.outputs, "output")
        source.use("k_sure")
        source.calls.append(f"    /* {source.title(op)}: the exit */")
        source.write(f"if (k_sure({source.place(early.name)}, {early.count}, {number(op.attributes['threshold'])})) {{")
        source.write(f"    memcpy({output}, {source.place(early.name)}, {early.nbytes});")
        source.write("    return 0;")
        source.write("}")


def exit_moments(program: Program) -> dict[int, list[Op]]:
    """Place of an op in ``program.ops`` → the exits that ``run`` may leave at behind it, the outermost first.

    An exit waits for those outside of it, which are asked first.
    """
    written = {name: i for i, op in enumerate(program.ops) for name in op.outputs}
    moments: dict[int, list[Op]] = {}
    latest = 0
    for op in chain(program):
        latest = max(latest, written[op.inputs[0]])
        moments.setdefault(latest, []).append(op)
    return moments


def chain(program: Program) -> list[Op]:
    """The exits at which ``run`` may return, the outermost first: the one that makes the only output, the one that makes its ``late`` …"""
    if len(program.outputs) != 1 or program.states:
        return []
    producers = {name: op for op in program.ops for name in op.outputs}
    found: list[Op] = []
    op = producers.get(program.outputs[0].tensor)
    while op is not None and op.kind == "exit_if" and op.inputs[0] in producers:
        found.append(op)
        op = producers.get(op.inputs[1])
    return found
