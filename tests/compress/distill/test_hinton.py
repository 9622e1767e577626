import pytest
import torch
from torch import nn

from karui.compress.distill.hinton import CHUNK, Distill
from karui.compress.distill.soft import Said, kl
from karui.compress.technique import Context
from karui.data import ArrayPart, Batch, Data
from karui.errors import RecipeError
from karui.graph.doors.torch import capture
from tests.compress.tiny import context, data, small, train


def soft_loss(ours: torch.Tensor, theirs: torch.Tensor, temperature: float) -> torch.Tensor:
    return kl(Said(student=ours, teacher=theirs, temperature=temperature))


def test_alpha_weighs_the_two_terms() -> None:
    network = small()
    batch = next(data().train.batches(8, seed=1))
    outputs = network(*batch.inputs)
    task = torch.tensor(2.0)
    assert Distill(alpha=0.0).attach(network, context(network)).loss(batch, outputs, task) == 2.0
    assert Distill(alpha=1.0).attach(network, context(network)).loss(batch, outputs, task).item() == pytest.approx(
        0.0, abs=1e-6
    )  # its own teacher
    half = Distill(alpha=0.5, teacher=lambda x: torch.zeros(len(x), 4)).attach(network, context(network)).loss(batch, outputs, task)
    torch.testing.assert_close(half, 0.5 * soft_loss(outputs[0], torch.zeros(8, 4), 4.0) + 1.0)


def test_the_teacher_is_the_original_in_evaluation_mode_and_without_gradients() -> None:
    network, on = small(), data()
    ctx = context(network, steps=10, on=on)
    before = {name: t.clone() for name, t in ctx.teacher.state().items()}
    attached = Distill(alpha=1.0).attach(network, ctx)
    with torch.no_grad():
        for p in network.parameters().values():
            p.mul_(0.5)
    ctx.teacher.train()
    train(network, attached, on, steps=10)
    assert all(torch.equal(t, before[name]) for name, t in ctx.teacher.state().items())
    assert all(p.grad is None for p in ctx.teacher.parameters().values())
    assert ctx.teacher.training


def test_distilling_brings_the_student_to_its_teacher() -> None:
    on = data()
    teacher, student = small(), small()
    with torch.no_grad():
        student.get("fc2.weight").copy_(torch.randn(4, 12, generator=torch.Generator().manual_seed(5)) * 0.1)
    x = on.example(64)

    def gap() -> float:
        return soft_loss(student.eval()(*x)[0], teacher.eval()(*x)[0], 1.0).item()

    before = gap()
    attached = Distill(teacher=teacher, alpha=1.0, temperature=2.0).attach(student, context(student, steps=60, on=on))
    train(student, attached, on, steps=60)
    assert gap() < 0.5 * before


class Counting:
    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return x.flatten(1)[:, :4] * 3


def test_answers_are_asked_for_once() -> None:
    network, on, teacher = small(), data(600), Counting()
    attached = Distill(teacher=teacher).attach(network, context(network, steps=50, on=on))
    for epoch in range(3):
        for batch in on.train.batches(32, seed=epoch):
            (answer,) = attached.answers(batch)
            assert torch.equal(answer, batch.inputs[0].flatten(1)[:, :4] * 3)
    assert teacher.seen == 2 * 2 + 600  # the check (twice the same), every sample
    assert CHUNK < 600


def test_answers_to_augmented_samples_are_asked_for_each_time() -> None:
    network, teacher = small(), Counting()
    x, y = data().example(64)[0], torch.zeros(64).long()
    on = Data.of(train=ArrayPart(x, y, augment=lambda a, g: a + 1), validation=(x, y), test=(x, y))
    attached = Distill(teacher=teacher).attach(network, context(network, steps=50, on=on))
    for batch in on.train.batches(32, seed=1):
        assert torch.equal(attached.answers(batch)[0], batch.inputs[0].flatten(1)[:, :4] * 3)
    assert teacher.seen == 2 * 2 + 64


def test_short_runs_and_large_parts_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    network, on, teacher = small(), data(600), Counting()
    attached = Distill(teacher=teacher).attach(network, context(network, steps=0, on=on))
    attached.answers(next(on.train.batches(32, seed=1)))
    assert teacher.seen == 2 * 2 + 32
    monkeypatch.setattr("karui.compress.distill.hinton.MEMORY_BYTES", 600 * 4 * 4 - 1)
    attached = Distill(teacher=teacher).attach(network, context(network, steps=50, on=on))
    attached.answers(next(on.train.batches(32, seed=1)))
    assert teacher.seen == 2 * (2 * 2 + 32)


def test_a_saved_network_can_teach(tmp_path) -> None:
    small().save(tmp_path / "teacher.pt2")
    network = small()
    attached = Distill(teacher=str(tmp_path / "teacher.pt2")).attach(network, context(network))
    batch = Batch(inputs=data().example(4), targets=None)
    torch.testing.assert_close(attached.answers(batch)[0], network(*batch.inputs)[0])


class Three(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(64, outputs)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_outputs_must_match() -> None:
    network = small()
    with pytest.raises(RecipeError, match=r"the teacher answers \(3,\), the student \(4,\)"):
        Distill(teacher=capture(Three(3), torch.randn(2, 1, 8, 8))).attach(network, context(network))
    with pytest.raises(RecipeError, match="two or more classes"):
        one = capture(Three(1), torch.randn(2, 1, 8, 8))
        Distill().attach(one, context(one))
    with pytest.raises(RecipeError, match="2 outputs"):
        Distill(teacher=lambda x: (x.flatten(1)[:, :4],) * 2).attach(network, context(network))


def test_a_network_of_two_outputs_learns_from_both() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 4), nn.Linear(64, 3)

        def forward(self, x):
            return self.a(x.flatten(1)), self.b(x.flatten(1))

    network = capture(Two(), torch.randn(2, 1, 8, 8)).eval()
    attached = Distill(alpha=1.0, teacher=lambda x: (torch.zeros(len(x), 4), torch.zeros(len(x), 3))).attach(network, context(network))
    batch = Batch(inputs=data().example(4), targets=None)
    outputs = network(*batch.inputs)
    expected = (soft_loss(outputs[0], torch.zeros(4, 4), 4.0) + soft_loss(outputs[1], torch.zeros(4, 3), 4.0)) / 2
    torch.testing.assert_close(attached.loss(batch, outputs, torch.tensor(9.0)), expected)


@pytest.mark.parametrize(("settings", "message"), [({"temperature": 0.0}, "temperature"), ({"alpha": 1.5}, "alpha")])
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(RecipeError, match=message):
        Distill(**settings)


def test_context_needs_no_calibration_data() -> None:
    network = small()
    ctx = Context(data=None, teacher=network, steps=1, seed=0, cost=None)  # type: ignore[arg-type]
    Distill().attach(network, ctx)
