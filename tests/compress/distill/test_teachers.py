import pytest
import torch
from torch import nn

from karui.compress.distill.hinton import Distill
from karui.compress.distill.teachers import check_steady, fitted, taught_by
from karui.data import Batch
from karui.errors import FileError, RecipeError
from karui.export import onnx as onnx_target
from karui.graph.doors.torch import capture
from karui.lower import lower
from tests.compress.tiny import context, data, small


class Pictures(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(size * size, 4)

    def forward(self, x):
        return self.fc(x.flatten(1))


def ask(teacher, n: int = 3):
    x = data().example(n)
    return taught_by(teacher, small())(*x), x


def test_a_file_of_either_kind_teaches_as_its_network_does(tmp_path) -> None:
    network = small()
    network.save(tmp_path / "teacher.pt2")
    file = onnx_target.write(lower(network), tmp_path).main
    with torch.no_grad():
        expected = network(*data().example(3))[0]
    torch.testing.assert_close(ask(str(tmp_path / "teacher.pt2"))[0][0], expected)
    torch.testing.assert_close(ask(str(file))[0][0], expected, rtol=1e-4, atol=1e-4)


def test_an_onnx_file_of_one_sample_at_a_time(tmp_path) -> None:
    file = tmp_path / "one.onnx"
    module = Pictures(8).eval()
    torch.onnx.export(module, (torch.randn(1, 1, 8, 8),), file, dynamo=False)
    answers, x = ask(str(file), 5)
    torch.testing.assert_close(answers[0], module(*x), rtol=1e-4, atol=1e-5)


def test_several_teach_their_mean() -> None:
    a, b = small(0), small(1)
    answers, x = ask([a, b])
    torch.testing.assert_close(answers[0], (a(*x)[0] + b(*x)[0]) / 2)
    assert not answers[0].requires_grad


def test_a_teacher_may_see_larger_pictures() -> None:
    large = capture(Pictures(16), torch.randn(2, 1, 16, 16)).eval()
    answers, (x,) = ask(large)
    torch.testing.assert_close(answers[0], large(fitted(x, (1, 16, 16)))[0])
    assert fitted(x, (3, 16, 16)) is x  # other channels are another thing


def test_who_teaches_is_told_apart_and_known_again(tmp_path) -> None:
    def identity(teacher) -> str:
        return taught_by(teacher, small()).identity

    small(1).save(tmp_path / "one.pt2")
    assert identity(None) == identity(small()) == identity(small().copy())
    assert identity(small(1)) == identity(str(tmp_path / "one.pt2")) != identity(small())
    assert identity([small(), small(1)]) not in (identity(small()), identity(small(1)))
    assert identity(Pictures(8)) != identity(Pictures(8))  # of other weights


def test_a_module_is_put_into_evaluation() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4))
    x = data().example(4)
    taught = taught_by(module, small())
    assert torch.equal(check_steady(taught, x)[0], taught(*x)[0])


def test_who_cant_teach(tmp_path) -> None:
    noise = capture(Pictures(8), torch.randn(2, 1, 8, 8))
    (tmp_path / "broken.onnx").write_bytes(b"\0" * 100)
    for teacher, error, message in (
        (lambda x: torch.rand(len(x), 4), RecipeError, "isn't deterministic: .*the second time"),
        (lambda x: torch.full((len(x), 4), float("nan")), RecipeError, "NaN or infinity"),
        (lambda x, y: x, RecipeError, r"can't take the student's inputs of shape \[2, 1, 8, 8\]"),
        (3, RecipeError, "distill: int can't teach"),
        ([], RecipeError, "empty list"),
        ("teacher.h5", RecipeError, "'teacher.h5' is no file"),
        (str(tmp_path / "none.onnx"), FileError, "is missing"),
        (str(tmp_path / "broken.onnx"), FileError, "can't load teacher"),
        (capture(Pictures(6), torch.randn(2, 1, 6, 6)), None, ""),
        (noise, None, ""),
    ):
        network = small()
        if error is None:
            Distill(teacher=teacher).attach(network, context(network))
            continue
        with pytest.raises(error, match=message):
            Distill(teacher=teacher).attach(network, context(network))


def test_another_number_of_channels_is_refused_by_name() -> None:
    colour = capture(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), torch.randn(2, 3, 8, 8), name="colour")
    network = small()
    with pytest.raises(RecipeError, match=r"teacher 'colour' can't take the student's inputs"):
        Distill(teacher=colour).attach(network, context(network))


def test_regression_and_sequences() -> None:
    one = capture(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), torch.randn(2, 1, 8, 8)).eval()
    batch = Batch(inputs=data().example(4), targets=torch.zeros(4))
    attached = Distill(match="mse", alpha=1.0, teacher=lambda x: torch.ones(len(x), 1)).attach(one, context(one))
    outputs = one(*batch.inputs)
    torch.testing.assert_close(attached.loss(batch, outputs, torch.tensor(5.0)), ((outputs[0] - 1) ** 2).mean())

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(x[:, 0])  # [N, 8, 3]: classes last

    network = capture(Sequence(), torch.randn(2, 1, 8, 8)).eval()
    batch = Batch(inputs=data().example(4), targets=torch.zeros(4, 8, dtype=torch.int64))
    for match in ("kl", "dkd", "dist"):
        attached = Distill(axis=-1, match=match, teacher=lambda x: torch.zeros(len(x), 8, 3)).attach(network, context(network))
        assert attached.loss(batch, network(*batch.inputs), torch.tensor(0.0)).shape == ()
    with pytest.raises(RecipeError, match="along axis 5"):
        Distill(axis=5).attach(network, context(network))


def test_a_match_of_ones_own_must_give_one_number() -> None:
    network = small()
    attached = Distill(match=lambda said: said.student).attach(network, context(network))
    batch = next(data().train.batches(8))
    with pytest.raises(RecipeError, match="has to return one number"):
        attached.loss(batch, network(*batch.inputs), torch.tensor(0.0))


def test_the_temperature_may_fall_over_the_phase() -> None:
    network = small()
    attached = Distill(temperature=(8.0, 2.0)).attach(network, context(network, steps=4))
    seen = []
    for step in range(4):
        assert attached.step(step / 4) is False
        seen.append(attached.temperature)
    assert seen == [8.0, 6.5, 5.0, 3.5]
    assert Distill(temperature=[8.0, 2.0]) == Distill(temperature=(8.0, 2.0))
    with pytest.raises(RecipeError, match="temperature"):
        Distill(temperature=(4.0, 0.0))
