from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from karui.program.interpreter import run
from karui.program.program import Array
from karui.testing.subjects import small_programs
from karui.verify.cost import cost_of, leaves_early, opened, timed_call, undecided
from tests.export.test_c_exits import leaving
from tests.program.builders import sample


class Noted:
    """Notes which samples it was timed on."""

    runs_on, exact, bytes, peak_ram = "notes", True, 7, 8

    def __init__(self) -> None:
        self.seen: list[float] = []

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        raise AssertionError

    def call(self, inputs: Sequence[Array]) -> Callable[[], None]:
        assert len(inputs[0]) == 1
        return lambda: self.seen.append(float(inputs[0].sum()))


def test_a_program_with_exits_is_timed_on_each_sample() -> None:
    program, x = leaving(), sample(leaving(), 5)
    noted = Noted()
    call, count = timed_call(noted, program, x)
    call()
    assert count == 5 and noted.seen == [float(each.sum()) for each in x[0]]


def test_without_exits_one_sample_of_noise_will_do() -> None:
    program, noted = small_programs()["float"], Noted()
    call, count = timed_call(noted, program, sample(program, 5))
    call()
    call()
    assert count == 1 and len(noted.seen) == 2 and noted.seen[0] == noted.seen[1]
    assert timed_call(noted, leaving())[1] == 1


def test_the_latency_is_the_mean_of_a_sample(tmp_path: Path) -> None:
    program = leaving()
    runner = opened(program, "c", tmp_path / "c")
    one = cost_of(runner, program, samples=[sample(program, 1)[0]]).latency_ms
    many = cost_of(runner, program, samples=[np.repeat(sample(program, 1)[0], 16, axis=0)]).latency_ms
    assert one and many and 0.2 < many / one < 5
    assert cost_of(runner, program, latency=False).latency_ms is None


def test_undecided_computes_everything_and_takes_nothing() -> None:
    program = leaving(thresholds=(0.0, 0.0))
    x = sample(program, 20)
    patient = undecided(program)
    assert leaves_early(program) and leaves_early(patient) and len(patient.ops) == len(program.ops)
    late = run(program, x, keep=True)["fc_y"]
    assert np.array_equal(run(patient, x)[0], late) and not np.array_equal(run(program, x)[0], late)
    plain = small_programs()["float"]
    assert not leaves_early(plain) and undecided(plain).ops == plain.ops
