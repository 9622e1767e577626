from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from karui.compress.distill.features import Features
from karui.compress.distill.inner import METHODS, Inner, attention, hint, pairs_by_shape, relation
from karui.errors import RecipeError
from karui.finetune.phases import Phase, run_phases
from karui.finetune.training import Training
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.zoo import catalogue
from tests.compress.tiny import context, data, small, train


class Wide(nn.Module):
    """Other layers, wider and with larger pictures inside than the small network; the same classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 20, 3, padding=1)
        self.head = nn.Linear(20, 4)

    def forward(self, x):
        x = F.relu(self.second(F.max_pool2d(F.relu(self.first(x)), 2)))
        return self.head(x.mean((2, 3)))


def wide() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return capture(Wide(), torch.randn(2, 1, 8, 8), name="wide").eval()


def values(seed: int = 0, rows: int = 6, channels: int = 3) -> Inner:
    g = torch.Generator().manual_seed(seed)
    return Inner(
        student=torch.randn(rows, channels, 4, 4, generator=g),
        teacher=torch.randn(rows, channels, 4, 4, generator=g),
        regressor=torch.eye(channels),
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_zero_for_equal_values_and_pulls_towards_them(name: str) -> None:
    x = values()
    method = METHODS[name]  # type: ignore[index]
    assert float(method(Inner(student=x.teacher, teacher=x.teacher, regressor=x.regressor))) == pytest.approx(0.0, abs=1e-6)
    student = x.student.clone().requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(150):
        loss = method(Inner(student=student, teacher=x.teacher, regressor=x.regressor))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2 * float(method(x))


def test_attention_is_where_and_not_how_loud() -> None:
    x = values()
    assert float(attention(Inner(student=3 * x.teacher, teacher=x.teacher))) == pytest.approx(0.0, abs=1e-9)
    flat = Inner(student=torch.randn(3, 5), teacher=torch.randn(3, 5))
    with pytest.raises(RecipeError, match="has none; choose other layers"):
        attention(flat)


def test_relations_dont_see_scale_place_and_turn() -> None:
    x = values().teacher.flatten(1)
    turn, _ = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(1)))
    assert float(relation(Inner(student=2 * x @ turn + 1, teacher=x))) == pytest.approx(0.0, abs=1e-5)
    assert float(relation(values())) > 0.01
    far = relation(values(), angle_weight=0.0)
    torch.testing.assert_close(relation(values()), far + relation(values(), distance_weight=0.0))


def test_hints_are_regressed_and_averaged_to_the_smaller_picture() -> None:
    ours, theirs = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    weight = torch.randn(5, 3)
    small_ones = torch.einsum("oc,nchw->nohw", weight, F.avg_pool2d(ours, 2))
    scale = theirs.pow(2).mean().sqrt()
    expected = 0.5 * F.mse_loss(small_ones / scale, theirs / scale)
    torch.testing.assert_close(hint(Inner(student=ours, teacher=theirs, regressor=weight)), expected)
    with pytest.raises(RecipeError, match="can't be compared"):
        hint(Inner(student=torch.randn(2, 3, 8), teacher=theirs, regressor=weight))


def test_pairs_are_found_by_shape() -> None:
    student, teacher = small(), wide()
    values, theirs = student.values(), teacher.values()
    found = [(values[a].shape[1:], theirs[b].shape[1:]) for a, b in pairs_by_shape(student, teacher)]
    assert found == [((8, 8, 8), (12, 8, 8)), ((8, 4, 4), (20, 4, 4))]
    (pair,) = pairs_by_shape(student, teacher, embedding=True)
    assert student.values()[pair[0]].shape[1:] == (12,)
    assert teacher.values()[pair[1]].shape[1:] == (20,)
    flat = capture(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), torch.randn(2, 1, 8, 8))
    with pytest.raises(RecipeError, match="has no values with places inside; name pairs"):
        pairs_by_shape(student, flat)


def test_stages_pair_up_by_their_share_of_the_picture_and_else_the_last() -> None:
    larger = capture(Wide(), torch.randn(2, 1, 16, 16), name="larger")
    student = small()
    values, theirs = student.values(), larger.values()
    found = [(values[a].shape[2:], theirs[b].shape[2:]) for a, b in pairs_by_shape(student, larger)]
    assert found == [((8, 8), (16, 16)), ((4, 4), (8, 8))]
    strided = capture(nn.Sequential(nn.Conv2d(1, 4, 4, 3), nn.Flatten(), nn.Linear(16, 4)), torch.randn(2, 1, 8, 8))
    ((a, b),) = pairs_by_shape(strided, larger)
    assert (strided.values()[a].shape[1:], theirs[b].shape[1:]) == ((4, 2, 2), (20, 8, 8))


def test_stages_of_resnets_pair_up() -> None:
    student, teacher = (capture(catalogue.build(n), torch.zeros(2, 3, 32, 32), name=n) for n in ("resnet8", "resnet20_cifar10"))
    pairs = [(student.layer_of(a), teacher.layer_of(b)) for a, b in pairs_by_shape(student, teacher)]
    assert [a.rpartition(".")[0] for a, _ in pairs] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [b.rpartition(".")[0] for _, b in pairs] == ["blocks.2", "blocks.5", "blocks.8"]


@pytest.mark.parametrize("method", METHODS)
def test_the_student_comes_closer_and_ends_as_it_was_built(method: str) -> None:
    torch.manual_seed(0)  # regressors are drawn
    on, teacher = replace(data(), loss=lambda outputs, targets: 0 * outputs[0].sum()), wide()
    student = small()
    names = set(student.state())
    settings = Features(teacher=teacher, method=method, weight=1.0)  # type: ignore[arg-type]
    attached = settings.attach(student, context(student, steps=60, on=on))
    batch = next(on.train.batches(32, seed=1))

    def gap() -> float:
        return float(attached.loss(batch, student.eval()(*batch.inputs), torch.tensor(0.0)).detach())

    before = gap()
    own = [*student.parameters().values(), *attached.parameters().values()]
    train(student, attached, on, steps=60, optimizer=torch.optim.Adam(own, lr=0.003))
    assert gap() < 0.8 * before
    assert (len(attached.parameters()) > 0) == (method == "hint")
    assert attached.finish() == {}
    assert student.taps == ()
    assert set(student.state()) == names
    lower(student)


def test_layers_may_be_named_and_wrong_names_are_told() -> None:
    student = small()
    attached = Features(teacher=wide(), layers=[["conv2", "second"]]).attach(student, context(student))  # type: ignore[arg-type,list-item]
    assert attached.parameters()["features.0"].shape == (20, 8)
    for layers, message in (
        ((("conv9", "second"),), "network 'small' has no layer 'conv9'"),
        ((("conv2", "third"),), "network 'wide' has no layer 'third'"),
        ((("fc1", "second"),), "can't be compared"),
    ):
        fresh = small()
        with pytest.raises(RecipeError, match=message):
            Features(teacher=wide(), layers=layers).attach(fresh, context(fresh))
        assert fresh.taps == ()
    with pytest.raises(RecipeError, match="expected pairs"):
        Features(layers=(("conv1",),))  # type: ignore[arg-type]


def test_who_has_no_layers_cant_show_them() -> None:
    student = small()
    for teacher, message in ((lambda x: x, "a function has no layers"), ("teacher.onnx", "need a .pt2 file")):
        with pytest.raises(RecipeError, match=message):
            Features(teacher=teacher).attach(student, context(student))  # type: ignore[arg-type]
    Features(teacher=Wide()).attach(student, context(student))


def test_it_goes_together_with_scores_and_masks_and_resumes(tmp_path) -> None:
    import karui

    techniques = (karui.Prune(sparsity=0.5), Features(method="attention"), karui.Distill())
    phase = Phase(techniques=techniques, training=Training(steps=10, batch_size=16, lr=0.02))
    done = run_phases(small(), data(), [phase, Phase(techniques=(karui.Quantize(),))], directory=tmp_path)
    assert done.network.taps == ()
    again = run_phases(small(), data(), [phase, Phase(techniques=(karui.Quantize(),))], directory=tmp_path)
    assert again.network.fingerprint() == done.network.fingerprint()
