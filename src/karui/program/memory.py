"""Where each tensor lies in the arena, so that tensors that live at different times share bytes.

The caller's own buffers (inputs, outputs, states that a call starts from) and constants, which are read in place, are not in the arena.
Placement is greedy by size, as in Pisarchyk & Lee, "Efficient memory management for deep neural net inference" (2020), §5, and in better
orders where that is above the bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from karui.program.program import Op, Program

ROUNDS = 30  # of looking for a better order, where the first isn't the best that there can be

# Ops that read an element before they write it, and never again: the output may take the input's bytes.
_ELEMENTWISE = ("reshape", "clamp", "lookup", "unary", "affine", "add", "sub", "mul", "div")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Byte offsets of the tensors in the arena.

    lifetimes: tensor → (op that writes it, last op that reads it), as places in ``program.ops``; a state lives to the end.
    in_place: output → the input whose bytes it takes over. scratch: op, as a place → where its own bytes are while it runs.
    """

    offsets: Mapping[str, int]
    arena_bytes: int
    lifetimes: Mapping[str, tuple[int, int]]
    in_place: Mapping[str, str] = field(default_factory=dict)
    scratch: Mapping[int, int] = field(default_factory=dict)


@dataclass
class _Buffer:
    """Bytes that one tensor, or a chain of tensors in place, takes from the first op to the last."""

    tensors: list[str]
    size: int
    first: int
    last: int


def plan(
    program: Program, *, alignment: int = 16, scratch: Mapping[int, int] | None = None, sizes: Mapping[str, int] | None = None
) -> Plan:
    """Plan one sample's memory; every offset is a multiple of ``alignment``, and so is the arena's size.

    scratch: bytes that ops, by their places, want for themselves while they run. sizes: bytes of tensors that lie in fewer than their own.
    """
    lifetimes = _lifetimes(program)
    nbytes = {name: program.tensor(name).nbytes for name in lifetimes} | dict(sizes or {})
    shared = _in_place(program, lifetimes, nbytes)
    plans = []
    for in_place in (shared, {}):
        own = {i: _Buffer([], size, i, i) for i, size in (scratch or {}).items()}
        begins, end = _place([*_buffers(lifetimes, in_place, nbytes), *own.values()], alignment)
        offsets = {name: begin for begin, buffer in begins for name in buffer.tensors}
        places = {i: begin for begin, buffer in begins for i, each in own.items() if each is buffer}
        plans.append(Plan(offsets=offsets, arena_bytes=end, lifetimes=lifetimes, in_place=in_place, scratch=places))
    # a buffer that lives longer can be in the way of others: rarely, copying is the smaller
    return min(plans, key=lambda p: p.arena_bytes)


def widest(program: Program, planned: Plan, *, alignment: int = 16, sizes: Mapping[str, int] | None = None) -> tuple[Plan, dict[int, int]]:
    """The same plan with the scratch of each op in the widest place that is free while it runs; and how many bytes that has."""
    nbytes = {name: program.tensor(name).nbytes for name in planned.lifetimes} | dict(sizes or {})
    places, room = {}, {}
    for i in planned.scratch:
        alive = [name for name, (first, last) in planned.lifetimes.items() if first <= i <= last]
        taken = [(planned.offsets[name], planned.offsets[name] + _padded(nbytes[name], alignment)) for name in alive]
        room[i], end = 0, 0
        for begin, stop in [*sorted(taken), (planned.arena_bytes, planned.arena_bytes)]:
            if begin - end > room[i]:
                places[i], room[i] = end, begin - end
            end = max(end, stop)
    return replace(planned, scratch={**planned.scratch, **places}), room


def _lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    outside = {o.tensor for o in program.outputs} | {i.tensor for i in program.inputs} | {read for _, read in program.states}
    last = {name: i for i, op in enumerate(program.ops) for name in op.inputs}
    last.update({written: len(program.ops) for written, _ in program.states})
    return {
        name: (i, max(i, last.get(name, i)))
        for i, op in enumerate(program.ops)
        for name in op.outputs
        if op.kind != "constant" and name not in outside
    }


def _in_place(program: Program, lifetimes: Mapping[str, tuple[int, int]], nbytes: Mapping[str, int]) -> dict[str, str]:
    found: dict[str, str] = {}
    for i, op in enumerate(program.ops):
        if op.kind not in _ELEMENTWISE or op.outputs[0] not in lifetimes:
            continue
        for name in dict.fromkeys(op.inputs):
            if name in lifetimes and lifetimes[name][1] == i and _fits(program, op, name, nbytes):
                found[op.outputs[0]] = name
                break
    return found


def _fits(program: Program, op: Op, name: str, nbytes: Mapping[str, int]) -> bool:
    x, y = program.tensor(name), program.tensor(op.outputs[0])
    same_shape = x.shape == y.shape or op.kind == "reshape"  # an input that is broadcast is read again
    return same_shape and nbytes[name] == nbytes[op.outputs[0]]


def _buffers(lifetimes: Mapping[str, tuple[int, int]], in_place: Mapping[str, str], nbytes: Mapping[str, int]) -> list[_Buffer]:
    of: dict[str, _Buffer] = {}
    for name, (first, last) in lifetimes.items():
        if name in in_place:
            of[name] = of[in_place[name]]
            of[name].tensors.append(name)
            of[name].last = last
        else:
            of[name] = _Buffer([name], nbytes[name], first, last)
    return list({id(buffer): buffer for buffer in of.values()}.values())


def _place(buffers: list[_Buffer], alignment: int) -> tuple[list[tuple[int, _Buffer]], int]:
    """Where each begins, and where all end: the largest first; if that leaves holes, those that reach the end go before the others, again
    and again. No order is better than the bytes that live at one time.
    """
    order = sorted(buffers, key=lambda b: (-b.size, b.first))
    ends = {b.last for b in buffers}  # most bytes live where some buffer is used for the last time
    least = max((sum(_padded(b.size, alignment) for b in buffers if b.first <= i <= b.last) for i in ends), default=0)
    best, end = _in_order(order, alignment)
    for _ in range(ROUNDS):
        if end == least:
            break
        begins, reached = _in_order(order, alignment)
        if reached < end:
            best, end = begins, reached
        top = [buffer for begin, buffer in begins if begin + _padded(buffer.size, alignment) == reached]
        order = [*top, *(buffer for buffer in order if all(buffer is not each for each in top))]
    return best, end


def _in_order(order: list[_Buffer], alignment: int) -> tuple[list[tuple[int, _Buffer]], int]:
    """One after the other, each into the smallest gap that holds it between those of the same time; and where all end."""
    placed: list[tuple[int, int, _Buffer]] = []  # begin, end
    for buffer in order:
        size = _padded(buffer.size, alignment)
        begin = _gap([(a, b) for a, b, other in placed if other.first <= buffer.last and buffer.first <= other.last], size)
        placed.append((begin, begin + size, buffer))
    return [(begin, buffer) for begin, _, buffer in placed], max((end for _, end, _ in placed), default=0)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _gap(taken: list[tuple[int, int]], size: int) -> int:
    best, best_room, end = -1, 0, 0
    for begin, stop in sorted(taken):
        room = begin - end
        if room >= size and (best < 0 or room < best_room):
            best, best_room = end, room
        end = max(end, stop)
    return end if best < 0 else best
