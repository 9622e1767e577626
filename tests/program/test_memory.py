from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.program.memory import plan, widest
from karui.program.program import Input, Op, Output, Program, Tensor
from tests.program.builders import ALL, lenet, residual


@st.composite
def programs(draw):
    """Random graphs of ops with all kinds of reuse; shapes are right, what they compute doesn't matter."""
    tensors = {"x0": Tensor(name="x0", shape=(draw(st.integers(1, 40)),))}
    ops = []
    for i in range(1, draw(st.integers(2, 14))):
        kind = draw(st.sampled_from(("linear", "clamp", "add", "reshape", "concat", "constant", "quantize", "dequantize")))
        source = draw(st.sampled_from(sorted(tensors)))
        other = draw(st.sampled_from(sorted(tensors)))
        shape, dtype = tensors[source].shape, tensors[source].dtype
        inputs = {"add": (source, source), "concat": (source, other), "constant": ()}.get(kind, (source,))
        if kind == "add":
            twins = [n for n, t in tensors.items() if t.shape == shape and t.dtype == dtype]
            inputs = (source, draw(st.sampled_from(twins)))
        if kind in ("linear", "constant"):
            shape = (draw(st.integers(1, 40)),)
        dtype = {"quantize": "int8", "dequantize": "float32"}.get(kind, dtype)
        tensors[f"x{i}"] = Tensor(name=f"x{i}", shape=shape, dtype=dtype)
        ops.append(Op(kind=kind, name=f"op{i}", inputs=inputs, outputs=(f"x{i}",)))
    made = [op.outputs[0] for op in ops]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=2, unique=True))
    states = ()
    if draw(st.booleans()):
        tensors["state"] = replace(tensors[made[0]], name="state")
        states = ((made[0], "state"),)
    return Program(
        name="p",
        tensors=tensors,
        weights={},
        ops=tuple(ops),
        inputs=(Input(name="x0", tensor="x0"),),
        outputs=tuple(Output(name=o, tensor=o) for o in outputs),
        states=states,
    )


@settings(max_examples=300, deadline=None)
@given(programs(), st.sampled_from((1, 4, 16)), st.dictionaries(st.integers(0, 12), st.integers(1, 60)), st.booleans())
def test_nothing_that_is_read_later_is_overwritten(program, alignment, wanted, wide):
    """Run the plan on symbols: every byte remembers which tensor wrote it last. An op's own bytes are its all the while."""
    wanted = {i: size for i, size in wanted.items() if i < len(program.ops)}
    made = plan(program, alignment=alignment, scratch=wanted)
    assert set(made.scratch) == set(wanted)
    if wide:
        made, room = widest(program, made, alignment=alignment)
        assert all(room[i] >= size for i, size in wanted.items())
        wanted = room
    memory = [""] * made.arena_bytes
    constants = {op.outputs[0] for op in program.ops if op.kind == "constant"}
    mine = {name for op in program.ops for name in op.outputs}
    mine -= constants | {o.tensor for o in program.outputs} | {read for _, read in program.states}
    assert set(made.offsets) == mine
    for i, op in enumerate(program.ops):
        own = range(made.scratch.get(i, 0), made.scratch.get(i, 0) + wanted.get(i, 0))
        assert own.start % alignment == 0
        for at in own:
            memory[at] = "scratch"
        for name in op.inputs:
            if name in made.offsets:
                begin = made.offsets[name]
                assert memory[begin : begin + program.tensor(name).nbytes] == [name] * program.tensor(name).nbytes
        for name in op.outputs:
            if name in made.offsets:
                begin, size = made.offsets[name], program.tensor(name).nbytes
                assert begin % alignment == 0
                overwritten = set(memory[begin : begin + size]) & set(op.inputs)
                assert overwritten <= {made.in_place.get(name, "")}
                memory[begin : begin + size] = [name] * size
        assert all(memory[at] == "scratch" for at in own)
    for written, _ in program.states:  # is carried over when the last op has run
        if written in made.offsets:
            begin = made.offsets[written]
            assert memory[begin : begin + program.tensor(written).nbytes] == [written] * program.tensor(written).nbytes
    assert len(memory) == made.arena_bytes


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("integer", [False, True])
def test_the_arena_is_no_larger_than_what_lives_at_the_worst_moment(name, integer):
    program = ALL[name](integer=integer)
    made = plan(program, alignment=1)
    together = [0] * (len(program.ops) + 1)
    for tensor, (first, last) in made.lifetimes.items():
        for i in range(first, last + 1):
            if made.in_place.get(tensor) is None or i > first:
                together[i] += program.tensor(tensor).nbytes
    assert made.arena_bytes == max(together)


def test_flatten_and_the_residual_add_cost_nothing():
    flat = plan(lenet(integer=True))
    assert flat.in_place["flatten_y"] == "conv2_y" and flat.offsets["flatten_y"] == flat.offsets["conv2_y"]
    made = plan(residual())
    assert made.in_place["b1.add_y"] in ("b1.conv2_y", "stem_y")


def test_a_broadcast_input_is_never_overwritten():
    tensors = {n: Tensor(name=n, shape=s) for n, s in {"x": (4,), "a": (1, 4), "b": (4, 1), "c": (4, 4), "y": (4, 4)}.items()}
    ops = (
        Op(kind="reshape", name="a", inputs=("x",), outputs=("a",)),
        Op(kind="reshape", name="b", inputs=("x",), outputs=("b",)),
        Op(kind="add", name="c", inputs=("a", "b"), outputs=("c",)),
        Op(kind="clamp", name="y", inputs=("c",), outputs=("y",)),
    )
    program = Program(
        name="p", tensors=tensors, weights={}, ops=ops, inputs=(Input(name="x", tensor="x"),), outputs=(Output(name="y", tensor="y"),)
    )
    assert plan(program).in_place == {}


def test_a_chain_takes_its_two_largest_neighbours():
    """MobileNet's sizes: the largest first leaves 9 KiB of holes."""
    sizes = (96 * 96 * 3, 48 * 48 * 8, 48 * 48 * 8, 48 * 48 * 16, 24 * 24 * 16, 24 * 24 * 32, 24 * 24 * 32, 24 * 24 * 32, 12 * 12 * 32, 1)
    tensors = {f"x{i}": Tensor(name=f"x{i}", shape=(size,), dtype="int8") for i, size in enumerate((1, *sizes))}
    ops = tuple(Op(kind="linear", name=f"op{i}", inputs=(f"x{i}",), outputs=(f"x{i + 1}",)) for i in range(len(sizes)))
    ends = (Input(name="x0", tensor="x0"),), (Output(name="y", tensor=f"x{len(sizes)}"),)
    program = Program(name="p", tensors=tensors, weights={}, ops=ops, inputs=ends[0], outputs=ends[1])
    assert plan(program).arena_bytes == 48 * 48 * (8 + 16)
