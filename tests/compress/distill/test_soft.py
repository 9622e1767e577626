import math

import pytest
import torch
from torch.nn import functional as F

from karui.compress.distill.soft import RULES, Said, dist, dkd, kl, match_named, mse, on_scores, rows_of
from karui.errors import RecipeError


def said(temperature: float = 3.0, seed: int = 0, rows: int = 6, classes: int = 5) -> Said:
    g = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, classes, generator=g) for _ in range(2))
    return Said(student=student, teacher=teacher, temperature=temperature, targets=torch.arange(rows) % classes)


def test_kl_is_hintons() -> None:
    x = said(3.0)
    p, q = F.softmax(x.teacher / 3, 1), F.softmax(x.student / 3, 1)
    torch.testing.assert_close(kl(x), 9 * (p * (p / q).log()).sum(1).mean())


def test_gradients_keep_their_size_as_temperature_grows() -> None:
    sizes = []
    for temperature in (20.0, 80.0):
        x = said(rows=64)
        student = x.student.requires_grad_()
        kl(Said(student=student, teacher=x.teacher, temperature=temperature)).backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_kl_is_the_sum_of_decoupled_parts_weighed_by_how_unsure_the_teacher_is() -> None:
    """Zhao et al. 2022, eq. 5: KL = TCKD + (1 − p_t) NCKD, row by row."""
    x = said(2.0, rows=1)
    target, other = dkd(x, other_weight=0.0), dkd(x, target_weight=0.0, other_weight=1.0)
    unsure = 1 - F.softmax(x.teacher / 2, 1)[0, 0]
    torch.testing.assert_close(kl(x), target + unsure * other)


def test_dist_doesnt_see_shift_and_scale_of_what_it_correlates() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])
    q = 0.5 * p + 0.5 / 3
    x = Said(student=q.log(), teacher=p.log(), temperature=1.0)
    assert dist(x).item() == pytest.approx(0.0, abs=1e-5)
    assert kl(x).item() > 0.05
    upside_down = Said(student=(0.8 - p).log(), teacher=p.log(), temperature=1.0)
    assert dist(upside_down, within=0.0).item() == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_least_where_the_student_is_the_teacher_and_pulls_there(name: str) -> None:
    x = said(rows=32)
    match = match_named(name)  # type: ignore[arg-type]
    same = Said(student=x.teacher, teacher=x.teacher, temperature=x.temperature, targets=x.targets)
    assert float(match(same)) == pytest.approx(0.0, abs=1e-4)
    student = x.student.clone().requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.1)
    first = last = float(match(x))
    for _ in range(100):
        loss = match(Said(student=student, teacher=x.teacher, temperature=x.temperature, targets=x.targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
    assert last < 0.05 * first


@pytest.mark.parametrize("name", RULES)
def test_sure_scores_stay_finite(name: str) -> None:
    sure = torch.eye(4) * 300
    student = (sure.flip(0)).requires_grad_()
    loss = match_named(name)(Said(student=student, teacher=sure, temperature=1.0, targets=torch.arange(4)))  # type: ignore[arg-type]
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert bool(torch.isfinite(student.grad).all())


def test_rows_of_dense_outputs() -> None:
    x = torch.randn(2, 3, 4, 5)
    rows = rows_of(x, 1)
    assert rows.shape == (40, 3)
    assert torch.equal(rows[5 * 2 + 1], x[0, :, 2, 1])
    assert torch.equal(rows_of(torch.arange(12.0).view(1, 4, 3), -1)[1], torch.tensor([3.0, 4.0, 5.0]))


def test_what_needs_a_class_as_target_says_so() -> None:
    x = said()
    with pytest.raises(RecipeError, match="one class for each"):
        dkd(Said(student=x.student, teacher=x.teacher, temperature=1.0, targets=torch.rand(6)))
    with pytest.raises(RecipeError, match="targets go from 255 to 255, the scores are of 5 classes"):
        dkd(Said(student=x.student, teacher=x.teacher, temperature=1.0, targets=torch.full((6,), 255)))
    with pytest.raises(RecipeError, match="match: 'cosine' is not a way of matching: use kl, dkd, dist, mse"):
        match_named("cosine")  # type: ignore[arg-type]


def test_a_function_of_ones_own_is_taken_as_it_is() -> None:
    def own(x: Said) -> torch.Tensor:
        return x.student.sum()

    assert match_named(own) is own
    assert (on_scores(own), on_scores(mse), on_scores(kl)) == (False, False, True)
