"""Early exits in C: the interpreter's answers, and no work behind the exit that is taken."""

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from karui.export import c
from karui.export.c_exits import exit_moments
from karui.program.interpreter import run
from karui.program.passes.editor import Editor
from karui.program.passes.exits import order_exits
from karui.program.program import Output, Program, Tensor
from karui.run import host
from tests.export.many import QUICK, agree
from tests.program.builders import NHWC, Builder, sample


def leaving(*, integer: bool = False, seed: int = 0, exits: int = 2, thresholds: tuple[float, ...] = (), ordered: bool = True) -> Program:
    """A few convolutions with an exit behind each but the last; thresholds that about half of the samples reach, if none are given."""
    b = Builder("leaving", integer=integer, seed=seed)
    x = b.input((8, 7, 3), NHWC)
    scores = []
    for i in range(exits):
        x = b.conv2d(x, 6, 3, name=f"conv{i}", pad=1)
        scores.append(b.linear(b.flatten(x, name=f"flatten{i}"), 5, name=f"exit{i}"))
    y = b.linear(b.flatten(b.conv2d(x, 6, 3, name="last")), 5, name="fc")
    if integer:
        *scores, y = [b.dequantize(each) for each in (*scores, y)]
    whole = b.finish(*scores, y)
    found = run(whole, sample(whole, 400, seed=9))
    margins = [np.diff(np.sort(each, 1)[:, -2:], axis=1) for each in found]
    given = thresholds or tuple(float(np.float32(np.median(each))) for each in margins)
    for i in reversed(range(exits)):
        out = f"left{i}"
        b.tensors[out] = Tensor(name=out, shape=(5,))
        y = b.op("exit_if", f"exits.{i}", (scores[i], y), out, threshold=given[i])
    editor = Editor(b.finish(y))
    if ordered:
        order_exits(editor)
    return editor.program()


def built(program: Program, folder: Path) -> host.Library:
    return host.build(c.write(program, folder), flags=QUICK)


@pytest.mark.parametrize("integer", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("exits", [1, 2, 3])
def test_like_the_interpreter(exits: int, integer: bool, tmp_path: Path) -> None:
    for seed in range(3):
        program = leaving(integer=integer, seed=seed, exits=exits)
        x = sample(program, 60, seed)
        found, expected = built(program, tmp_path / str(seed)).run(x), run(program, x)
        agree(program, found, expected)
        if integer:
            assert np.array_equal(found[0], expected[0])


def test_run_returns_behind_each_exit(tmp_path: Path) -> None:
    program = leaving()
    places = {op.name: i for i, op in enumerate(program.ops)}
    assert exit_moments(program).keys() == {places["exit0"], places["exit1"]}
    assert max(places[n] for n in ("conv0", "exit0")) < places["conv1"] < places["exit1"] < places["last"]
    source = c.model(program).source
    assert source.count("return 0;") == 3 and source.index("exits.0: the exit") < source.index("conv1: conv2d")


def reached(program: Program, folder: Path) -> int:
    """How many ops one call computes: their comments become a count."""
    source = c.write(program, folder).main
    text = re.sub(r"^    /\* [^:]*: \w+, .* \*/$", "    reached++;", source.read_text(encoding="utf-8"), flags=re.M)
    source.write_text(text.replace('#include "model.h"', '#include "model.h"\nextern int reached;\nint reached;'), encoding="utf-8")
    library = host.build(folder, flags=QUICK)
    library.run(sample(program, 1))
    return ctypes.c_int.in_dll(library._code, "reached").value


def test_what_is_behind_a_taken_exit_is_not_computed(tmp_path: Path) -> None:
    first, second, none = (leaving(thresholds=given) for given in ((0.0, 0.0), (1e9, 0.0), (1e9, 1e9)))
    places = {op.name: i for i, op in enumerate(first.ops)}
    assert reached(first, tmp_path / "first") == places["exit0"] + 1 == 3
    assert reached(second, tmp_path / "second") == places["exit1"] + 1 == 6
    assert reached(none, tmp_path / "none") == len(none.ops) == 11


def test_an_exit_waits_for_the_one_outside_of_it(tmp_path: Path) -> None:
    """The outer exit lies deeper: the inner one, though its scores are known first, may only be taken where the outer isn't."""
    program = leaving(ordered=False)
    first, second = (op for op in program.ops if op.kind == "exit_if")
    crossed = [
        replace(first, inputs=(second.inputs[0], first.inputs[1])),
        replace(second, inputs=(first.inputs[0], second.inputs[1])),
    ]
    program = replace(program, ops=(*program.ops[:-2], *crossed))
    places = {op.outputs[0]: i for i, op in enumerate(program.ops)}
    assert [len(exits) for exits in exit_moments(program).values()] == [2]
    assert min(exit_moments(program)) == places[first.inputs[0]]
    x = sample(program, 60)
    agree(program, built(program, tmp_path).run(x), run(program, x))


def test_with_a_second_output_or_a_state_everything_is_computed(tmp_path: Path) -> None:
    program = leaving(integer=True)
    two = replace(program, outputs=(*program.outputs, Output(name="scores", tensor="fc_y")))
    state = Tensor(name="before", shape=program.tensor("fc_y").shape, dtype="int8", quant=program.tensor("fc_y").quant)
    kept = replace(program, tensors={**program.tensors, "before": state}, states=(("fc_y", "before"),))
    for name, each in {"two": two, "kept": kept}.items():
        assert exit_moments(each) == {} and "k_sure(" not in c.model(each).source.split("k_run(")[-1]
        x = sample(each, 40)
        agree(each, built(each, tmp_path / name).run(x), run(each, x))
