import errno

import pytest
import torch

from karui.compress.distill import cache
from karui.compress.distill.cache import key_of, soft_targets
from karui.compress.distill.hinton import Distill
from karui.data import ArrayPart, Data
from karui.errors import FileError, RecipeError, RunError
from karui.finetune.phases import Phase, run_phases
from karui.finetune.training import Training
from karui.workspace import Run
from tests.compress.tiny import context, data, small


class Counting:
    """Its count is the class's: a teacher whose own attributes change is another teacher."""

    seen = 0

    def __init__(self, factor: float = 3.0) -> None:
        self.factor = factor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        type(self).seen += len(x)
        return x.flatten(1)[:, :4] * self.factor


def augmented(samples: int = 64) -> Data:
    x, y = data().example(samples)[0], torch.zeros(samples).long()
    shifted = ArrayPart(x, y, augment=lambda a, g: a + torch.rand(1, generator=g))
    return Data.of(train=shifted, validation=(x, y), test=(x, y))


def asked(folder, on: Data, teacher, *, epochs=(1, 2), note=None, **settings):
    """Goes through the epochs; returns (how many samples were asked for, the answers)."""
    network = small()
    attached = Distill(teacher=teacher, cache=str(folder), **settings).attach(network, noting(context(network, steps=50, on=on), note))
    before = teacher.seen
    answers = [attached.answers(batch)[0] for seed in epochs for batch in on.train.batches(16, seed=seed)]
    attached.finish()
    return teacher.seen - before, torch.cat(answers)


def noting(ctx, notes):
    return ctx if notes is None else type(ctx)(**{**vars(ctx), "report": notes.append})


@pytest.mark.parametrize("on", [augmented(), data()], ids=["augmented", "as they are"])
def test_the_second_student_asks_nothing_and_hears_the_same(tmp_path, on, monkeypatch) -> None:
    monkeypatch.setattr(cache, "BATCHES", 3)
    plain = [batch.inputs[0].flatten(1)[:, :4] * 3 for seed in (1, 2) for batch in on.train.batches(16, seed=seed)]
    teacher = Counting()
    first, answers = asked(tmp_path / "kept", on, teacher)
    again, same = asked(tmp_path / "kept", on, teacher)
    assert first >= len(on.train)
    assert again == 0
    assert torch.equal(answers, same)
    torch.testing.assert_close(answers, torch.cat(plain), rtol=1e-3, atol=1e-3)  # float16
    assert asked(tmp_path / "kept", on, teacher, epochs=(3,))[0] == (64 if on.train.augment else 0)


def test_a_key_is_of_samples_order_and_draw() -> None:
    a, b = torch.tensor([1, 2]), torch.tensor([2, 1])
    assert len({key_of(a, None), key_of(b, None), key_of(a, 1), key_of(a, 2)}) == 4
    assert key_of(a, 1) == key_of(a.clone(), 1)


def test_a_folder_of_another_teacher_or_other_data_is_refused(tmp_path) -> None:
    on = augmented()
    asked(tmp_path, on, Counting())
    with pytest.raises(RunError, match=r"cache: .*other settings \(soft targets\.teacher"):
        asked(tmp_path, on, Counting(factor=2.0))
    with pytest.raises(RunError, match=r"cache: .*soft targets\.(data|samples)"):
        asked(tmp_path, augmented(48), Counting())
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files but is not a karui run"):
        asked(tmp_path / "files", on, Counting())
    assert (tmp_path / "files" / "letter.txt").read_text() == "mine"


def test_a_full_disk_ends_the_cache_and_not_the_training(tmp_path, monkeypatch) -> None:
    on, notes, written = augmented(), [], []

    def full(path, arrays) -> None:
        if written:
            raise RunError(f"can't write '{path}': the disk is full") from OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        save(path, arrays)

    save = cache.save_arrays
    monkeypatch.setattr(cache, "save_arrays", full)
    monkeypatch.setattr(cache, "BATCHES", 2)
    teacher = Counting()
    first, answers = asked(tmp_path, on, teacher, note=notes)
    assert first >= 2 * len(on.train)
    assert len(notes) == 1 and "the disk is full" in notes[0] and "asked each time" in notes[0]
    monkeypatch.setattr(cache, "save_arrays", save)
    again, same = asked(tmp_path, on, teacher, note=notes)
    assert 0 < again < first
    assert torch.equal(answers, same)
    assert len(notes) == 1


def test_the_folder_keeps_its_bound(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "BATCHES", 2)
    notes: list[str] = []
    asked(tmp_path, augmented(), Counting(), note=notes, cache_bytes=1000)
    sizes = [path.stat().st_size for path in tmp_path.glob(cache.PATTERN)]
    assert 0 < sum(sizes) <= 2000
    assert len(notes) == 1 and "of 1,000 bytes; raise cache_bytes" in notes[0]


def test_answers_that_float16_cant_hold_are_refused(tmp_path) -> None:
    with pytest.raises(RecipeError, match="float16 can't hold"):
        asked(tmp_path, augmented(), Counting(factor=1e9))


def test_a_damaged_file_is_told(tmp_path) -> None:
    asked(tmp_path, augmented(), Counting())
    file = next(tmp_path.glob(cache.PATTERN))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(FileError, match="damaged"):
        asked(tmp_path, augmented(), Counting())


def test_a_training_with_a_warm_cache_ends_with_the_same_bits(tmp_path) -> None:
    phase = Phase(techniques=(Distill(cache=str(tmp_path / "kept")),), training=Training(steps=12, batch_size=16, lr=0.05))
    cold = run_phases(small(), augmented(), [phase], teacher=small(1), seed=3).network
    assert list((tmp_path / "kept").glob(cache.PATTERN))
    warm = run_phases(small(), augmented(), [phase], teacher=small(1), seed=3).network
    assert cold.fingerprint() == warm.fingerprint()


def test_the_folder_is_a_run_that_says_whose_it_is(tmp_path) -> None:
    x = torch.zeros(2, 4)
    soft_targets(tmp_path / "a", teacher="t", part=data().train, answers=(x,), limit=100, note=print)
    told = Run.open(tmp_path / "a").config["soft targets"]
    assert (told["teacher"], told["samples"], told["outputs"]) == ("t", 64, [[4]])
