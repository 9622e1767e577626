from pathlib import Path

import pytest

from karui.errors import RecipeError
from karui.export.targets import targets
from karui.program.interpreter import run
from karui.run.runners import require_measurable, runner, runners
from karui.verify.cost import cost_of, opened
from karui.verify.parity import compare
from tests.program import builders


@pytest.mark.parametrize("target", runners())
def test_every_runner_runs_its_target_and_tells_what_it_says_it_measures(target: str, tmp_path: Path) -> None:
    assert target in targets()
    program = builders.lenet(sparsity=0.5)
    opened_program = opened(program, target, tmp_path)
    inputs = builders.sample(program, 3)
    (found,), (expected,) = opened_program.run(inputs), run(program, inputs)
    assert compare(found, expected, rule="tolerance").ok
    cost = cost_of(opened_program, program)
    for limit in ("bytes", "peak_ram", "latency_ms"):
        told = getattr(cost, limit) is not None
        if told:
            require_measurable(target, [limit])
        else:
            with pytest.raises(RecipeError, match=f"target '{target}' doesn't tell its {limit}"):
                require_measurable(target, [limit])
    assert cost_of(opened_program, program, latency=False).latency_ms is None


def test_unknown_target() -> None:
    with pytest.raises(RecipeError, match=r"target 'abacus' can't be measured here; choose one of c, litert, onnx"):
        runner("abacus")
    with pytest.raises(RecipeError, match="abacus"):
        require_measurable("abacus", [])


def test_the_bytes_are_the_artefacts(tmp_path: Path) -> None:
    program = builders.lenet(integer=True, sparsity=0.5)
    session = opened(program, "onnx", tmp_path / "onnx")
    assert session.bytes == (tmp_path / "onnx" / "model.onnx").stat().st_size
    library = opened(program, "c", tmp_path / "c")
    assert library.peak_ram is not None and f"ARENA_BYTES {library.peak_ram}" in (tmp_path / "c" / "model.h").read_text()
