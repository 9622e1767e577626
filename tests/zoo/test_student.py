import pytest
import torch

from karui import zoo
from karui.budget import Budget
from karui.errors import RecipeError
from karui.testing.subjects import small_network


def test_students_fit_and_answer_in_the_same_shapes() -> None:
    teacher = zoo.load("lenet5")
    budget = Budget(bytes=40_000)
    students = zoo.student_of(teacher, budget)
    assert any(s.origin.startswith("lenet5 at ") for s in students)
    assert [s.cost.macs for s in students] == sorted((s.cost.macs for s in students), reverse=True)
    x = torch.randn(3, 1, 28, 28)
    for each in students:
        assert each.cost.bytes is not None and each.cost.bytes <= 40_000
        assert each.network(x)[0].shape == (3, 10)
    assert teacher.fingerprint() == zoo.load("lenet5").fingerprint()


def test_a_network_with_blocks_may_lose_some() -> None:
    students = zoo.student_of(zoo.load("resnet20"), Budget(bytes=150_000, target="onnx"), int8=False)
    assert any("of the blocks" in s.origin for s in students)
    assert all(s.cost.bytes <= 150_000 for s in students)


def test_limits_that_nothing_keeps_are_told() -> None:
    with pytest.raises(RecipeError, match=r"none of \d+ candidates keeps bytes 10 on target 'c'"):
        zoo.student_of(small_network(), Budget(bytes=10))
    with pytest.raises(RecipeError, match="sets no limit"):
        zoo.student_of(small_network(), Budget())
    with pytest.raises(RecipeError, match="doesn't tell its peak_ram"):
        zoo.student_of(small_network(), Budget(peak_ram=1000, target="onnx"))
