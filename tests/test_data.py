"""Parts, batches, metrics: the same seed gives the same samples, and what is wrong with the data is said in one line."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from karui.data import ACCURACY, ArrayPart, Data, IterablePart, Metric, Part, cross_entropy, top1
from karui.datasets.augment import pad_crop_flip
from karui.errors import DataError
from karui.pixels import Pixels


def pictures(n: int = 37, *, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (n, channels, 8, 8), dtype=np.uint8), np.arange(n)


def loader(n: int = 20, size: int = 6) -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(float(n))[:, None], torch.arange(n)), size, shuffle=True)


def drawn(part: Part, size: int, **settings: int) -> list[list[int]]:
    return [batch.targets.tolist() for batch in part.batches(size, **settings)]


def one_line(error: pytest.ExceptionInfo[DataError], *words: str) -> None:
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_pixels_are_normalised_as_the_device_does() -> None:
    x, y = pictures()
    pixels = Pixels(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    batch = next(ArrayPart(x, y, pixels=pixels).batches(5))
    assert batch.inputs[0].dtype is torch.float32
    assert np.array_equal(batch.inputs[0].numpy(), pixels.normalise(x[:5], axis=1))


def test_bytes_without_pixels_are_their_own_values_and_token_ids_stay_whole() -> None:
    x, y = pictures()
    batch = next(ArrayPart((x, np.arange(37)[:, None]), y).batches(4))
    assert np.array_equal(batch.inputs[0].numpy(), x[:4].astype(np.float32))
    assert batch.inputs[1].dtype is torch.int64


@pytest.mark.parametrize("kind", [np.float64, np.float32, ">f4", np.float16])
def test_floats_of_any_kind_become_float32(kind: str) -> None:
    x = np.linspace(0, 1, 10).astype(kind)[:, None]
    batch = next(ArrayPart(x, np.zeros(10, np.uint8)).batches(10))
    assert batch.inputs[0].dtype is torch.float32 and batch.targets.dtype is torch.int64
    assert np.array_equal(batch.inputs[0].numpy(), x.astype(np.float32))


def test_in_order_every_sample_once() -> None:
    part = ArrayPart(*pictures())
    batches = list(part.batches(10))
    assert [len(b) for b in batches] == [10, 10, 10, 7]
    assert torch.equal(torch.cat([b.targets for b in batches]), torch.arange(37))
    assert torch.equal(torch.cat([b.index for b in batches]), torch.arange(37))


def test_a_seed_decides_the_order_and_index_follows_it() -> None:
    part = ArrayPart(*pictures())
    assert drawn(part, 10, seed=3) == drawn(part, 10, seed=3) != drawn(part, 10, seed=4)
    assert sorted(sum(drawn(part, 10, seed=3), [])) == list(range(37))
    assert all(torch.equal(b.index, b.targets) for b in part.batches(10, seed=3))


@pytest.mark.parametrize(("n", "size", "steps"), [(37, 10, 4), (40, 10, 4), (41, 10, 4), (42, 10, 5), (1, 10, 1), (9, 10, 1)])
def test_steps_and_the_lone_last_sample(n: int, size: int, steps: int) -> None:
    part = ArrayPart(*pictures(n))
    assert part.steps(size) == len(drawn(part, size, seed=0)) == steps
    assert sum(map(len, drawn(part, size))) == n


@pytest.mark.parametrize("skip", [0, 1, 3, 4, 9])
def test_skipping_gives_the_rest_of_the_same_sequence(skip: int) -> None:
    part = ArrayPart(*pictures(), augment=pad_crop_flip)
    whole = list(part.batches(10, seed=5))
    rest = list(part.batches(10, seed=5, skip=skip))
    assert len(rest) == max(0, 4 - skip)
    for a, b in zip(whole[skip:], rest, strict=True):
        assert torch.equal(a.inputs[0], b.inputs[0]) and torch.equal(a.targets, b.targets)
    assert drawn(part, 10)[skip:] == drawn(part, 10, skip=skip)


def test_augmentation_touches_shuffled_batches_only_and_says_what_it_drew() -> None:
    x, y = pictures()
    part = ArrayPart(x, y, augment=lambda samples, generator: torch.zeros_like(samples))
    shuffled, ordered = next(part.batches(9, seed=0)), next(part.batches(9))
    assert shuffled.inputs[0].abs().max() == 0 and shuffled.drawn is not None
    assert torch.equal(ordered.inputs[0], torch.from_numpy(x[:9]).float()) and ordered.drawn is None


def test_augmentation_sees_the_samples_as_stored() -> None:
    seen: list[torch.dtype] = []

    def look(samples: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(samples.dtype)
        return samples

    next(ArrayPart(*pictures(), pixels=Pixels(), augment=look).batches(4, seed=0))
    assert seen == [torch.uint8]


def test_subset_and_take() -> None:
    part = ArrayPart(*pictures())
    assert drawn(part.subset([5, 3, 30]), 10) == [[5, 3, 30]]
    assert drawn(part.take(2), 10) == [[0, 1]]
    assert drawn(part.subset(np.array([7])), 1) == [[7]]


def test_arrays_of_the_user_are_left_alone() -> None:
    x = np.frombuffer(bytes(range(48)), np.uint8).reshape(3, 1, 4, 4)  # read-only: no warning may come of it
    part = ArrayPart(x, [0, 1, 2])
    assert next(part.batches(3)).inputs[0].sum() == sum(range(48))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_part_and_sample(value: float) -> None:
    x = np.zeros((9000, 2), np.float32)
    x[5001, 1] = value
    with pytest.raises(DataError) as error:
        Data.of(train=(x, np.zeros(9000)), validation=(x[:9], np.zeros(9)), test=(x[:9], np.zeros(9)))
    one_line(error, "train", "sample 5001", "NaN")


def test_a_target_that_is_not_finite_is_named() -> None:
    with pytest.raises(DataError) as error:
        ArrayPart(np.zeros((3, 1), np.float32), np.array([0.0, 1.0, np.nan]), name="test")
    one_line(error, "test", "targets", "sample 2")


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (np.zeros((3, 1)), np.zeros(4), ["[3, 4]"]),
        (np.zeros((0, 1)), np.zeros(0), ["no samples"]),
        (np.float32(1), np.zeros(1), ["batch dimension"]),
        (np.zeros((3, 1)), np.int64(1), ["batch dimension"]),
        (np.array(["a", "b"]), np.zeros(2), ["tensor"]),
        (np.zeros((3, 2, 4, 4), np.uint8), np.zeros(3), ["2 channels", "3"]),
    ],
)
def test_malformed_arrays_are_refused(inputs: np.ndarray, targets: np.ndarray, words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        ArrayPart(inputs, targets, pixels=Pixels(mean=(0.0, 0.0, 0.0)), name="train")
    one_line(error, *words)


def test_a_loader_gives_its_own_batches() -> None:
    part = IterablePart([(torch.ones(2, 3), torch.zeros(2)), (torch.ones(5, 3), torch.zeros(5))])
    assert len(part) == 7 and part.steps(100) == 2
    assert [len(b) for b in part.batches(100)] == [2, 5]
    assert [len(b) for b in part.batches(100, skip=1)] == [5]


def test_a_shuffling_loader_repeats_itself_and_disturbs_nobody() -> None:
    part = IterablePart(loader())
    torch.manual_seed(1)
    first, after = drawn(part, 1, seed=3), torch.rand(1)
    torch.manual_seed(2)
    again = drawn(part, 1, seed=3)
    torch.manual_seed(1)
    assert first == again != drawn(part, 1, seed=4)
    assert drawn(part, 1) == drawn(part, 1)
    assert torch.equal(after, torch.rand(1))


def test_skipping_a_loader_gives_the_rest_of_the_same_sequence() -> None:
    part = IterablePart(loader())
    assert drawn(part, 1, seed=3)[2:] == drawn(part, 1, seed=3, skip=2)


def test_a_loop_that_stops_early_does_not_rewind_the_random_numbers() -> None:
    iterator = IterablePart(loader()).batches(1, seed=0)
    next(iterator)
    before = torch.rand(1)
    iterator.close()
    assert not torch.equal(before, torch.rand(1))


def test_random_numbers_between_batches_do_not_change_them() -> None:
    found = []
    for batch in IterablePart(loader()).batches(1, seed=3):
        torch.rand(100)
        found.append(batch.targets.tolist())
    assert found == drawn(IterablePart(loader()), 1, seed=3)


def test_several_inputs_and_targets() -> None:
    item = ((torch.ones(4, 2), torch.ones(4, 3)), (torch.zeros(4), torch.ones(4, 1)))
    batch = next(IterablePart([item]).batches(1))
    assert [tuple(x.shape) for x in batch.inputs] == [(4, 2), (4, 3)]
    assert isinstance(batch.targets, tuple) and len(batch.targets) == 2
    arrays = ArrayPart((np.ones((4, 2)), np.ones((4, 3))), (np.zeros(4), np.ones((4, 1))))
    batch = next(arrays.batches(3, seed=0))
    assert [len(x) for x in (*batch.inputs, *batch.targets)] == [3, 3, 3, 3]


BAD = torch.tensor([[1.0], [float("nan")]])
GOOD = torch.ones(2, 1)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([(GOOD, torch.zeros(2)), (BAD, torch.zeros(2))], ["batch 1", "sample 1", "NaN"]),
        ([(GOOD, torch.zeros(2)), (torch.ones(2, 5), torch.zeros(2))], ["batch 1", "[[5]]", "[[1]]"]),
        ([(GOOD, torch.zeros(3))], ["batch 0", "[2, 3]"]),
        ([(torch.tensor(1.0), torch.tensor(0))], ["batch 0", "DataLoader"]),
        ([GOOD], ["batch 0", "pair"]),
        ([], ["no batch"]),
    ],
)
def test_a_bad_batch_is_named_by_its_number(batches: list[object], words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        list(IterablePart(batches, name="validation").batches(1))
    one_line(error, "validation", *words)


@pytest.mark.parametrize("loader", [iter([]), (x for x in []), 5])
def test_what_can_be_used_only_once_is_refused(loader: object) -> None:
    with pytest.raises(DataError) as error:
        IterablePart(loader, name="train")
    one_line(error, "train")


def test_data_of_takes_pairs_loaders_and_parts() -> None:
    x, y = pictures()
    part = ArrayPart(x, y, pixels=Pixels())
    data = Data.of(train=(x, y), validation=part, test=[(x, y)], pixels=Pixels(), labels=["a", "b"])
    assert data.validation is part and data.calibration is data.train and data.labels == ("a", "b")
    for each in (data.train, data.test):
        assert torch.equal(next(each.batches(37)).inputs[0], next(part.batches(37)).inputs[0])
    assert data.metric is ACCURACY and data.loss is cross_entropy


def test_example_is_the_first_calibration_samples() -> None:
    x = np.arange(10, dtype=np.float32)[:, None]
    batches = [(x[:1], np.zeros(1)), (x[1:4], np.zeros(3))]
    data = Data.of(train=batches, validation=batches, test=batches, calibration=(x[5:], np.zeros(5)))
    assert data.example(2)[0].flatten().tolist() == [5, 6]
    assert len(data.example(100)[0]) == 5
    assert Data.of(train=batches, validation=batches, test=batches).example(3)[0].flatten().tolist() == [0, 1, 2]


def test_fingerprint_notices_other_data() -> None:
    def made(change: float = 0.0, n: int = 50, metric: Metric = ACCURACY) -> str:
        x = np.arange(n, dtype=np.float32)[:, None] + change
        return Data.of(train=(x, np.zeros(n)), validation=loader(), test=(x, np.zeros(n)), metric=metric).fingerprint()

    assert made() == made()
    assert len({made(), made(change=1.0), made(n=51), made(metric=Metric(name="other", function=top1))}) == 4


def test_top1_and_cross_entropy() -> None:
    outputs = (torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]),)
    targets = torch.tensor([0, 1, 1])
    assert top1(outputs, targets).tolist() == [1, 1, 0]
    by_hand = -torch.log_softmax(outputs[0], 1)[torch.arange(3), targets].mean()
    assert torch.allclose(cross_entropy(outputs, targets), by_hand)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("a", "b\nc"), ("label 1", "rename")),
        (("\ud800",), ("label 0", "printable")),
        (("x" * 257,), ("at most 256",)),
        ((1, 2), ("label 0 is a int", "map(str")),
        ("ab", ("one text", "tuple")),
    ],
    ids=["newline", "surrogate", "long", "numbers", "a text"],
)
def test_labels_that_no_program_could_hold_are_refused(labels: tuple[str, ...], words: tuple[str, ...]) -> None:
    part = ArrayPart(*pictures())
    with pytest.raises(DataError) as error:
        Data(name="d", train=part, validation=part, test=part, calibration=part, labels=labels)
    one_line(error, *words)


def test_floats_that_the_pixels_make_no_bytes_of() -> None:
    y = torch.zeros(4, dtype=torch.long)
    pixels = Pixels(mean=(0.5,), std=(0.5,))
    parts = {part: (torch.full((4, 1, 2, 2), 0.25), y) for part in ("train", "validation", "test")}
    Data.of(pixels=pixels, **parts)  # 159.4: normalised elsewhere
    with pytest.raises(DataError, match="stand for bytes 382 to 382, expected 0 to 255"):
        Data.of(pixels=pixels, **{**parts, "test": (torch.full((4, 1, 2, 2), 2.0), y)})
