"""The scan of pruning, from end to end: what is cut, on which samples it is judged, and that a killed scan ends as if nothing had been."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import karui
from karui import api
from karui.compress.prune.masked import mask_of, zeros_in
from karui.data import ArrayPart, Data, Part
from karui.errors import RecipeError, RunError
from karui.finetune import evaluate
from karui.finetune.progress import Progress
from karui.graph.network import Network
from karui.report import sensitivity as report
from karui.search import sensitivity
from tests import forked
from tests.forked import Karui, Trap


class Net(nn.Module):
    """``[N, 4, 6, 6]`` → ``[N, 3]``: two convolutions that meet in an add, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.head(torch.relu(x + self.second(x)).mean((2, 3)))


def samples(count: int, seed: int) -> ArrayPart:
    x = torch.randn(count, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
    return ArrayPart(x, x[:, :3].mean((2, 3)).argmax(1))


class Secret(Part):
    """A test part that must not be looked at, in any way."""

    def batches(self, size: int, **settings: Any) -> Any:
        raise AssertionError("the scan reads the test part")

    def __len__(self) -> int:
        raise AssertionError("the scan counts the test part")

    def steps(self, size: int) -> int:
        raise AssertionError("the scan counts the test part")

    def fingerprint(self) -> bytes:
        raise AssertionError("the scan reads the test part")


@pytest.fixture(scope="module")
def data() -> Data:
    return Data(name="means", train=samples(64, 0), validation=samples(90, 1), test=Secret(), calibration=samples(32, 2))


@pytest.fixture(scope="module")
def network(data: Data) -> Network:
    torch.manual_seed(0)
    return karui.capture(Net(), data.example(2), name="net").eval()


def test_every_layer_is_judged_on_validation_at_every_level(network: Network, data: Data, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    found = api.sensitivity(network, data, levels=(0.9, 0.5), drop=1.0, out=tmp_path / "run")
    record = found.record
    assert record.baseline == evaluate.score(network, data.validation, data.metric) and record.samples == 90
    assert [row.layer for row in record.rows] == ["first.weight", "second.weight", "head.weight"]
    assert [row.size for row in record.rows] == [288, 576, 24]
    for row in record.rows:
        assert [cell.level for cell in row.cells] == [0.5, 0.9]
        for cell in row.cells:
            by_hand, weight = network.copy(), network.get(row.layer)
            limit = weight.abs().flatten().sort().values[round(cell.level * row.size) - 1]
            by_hand.set(row.layer, torch.where(weight.abs() > limit, weight, 0.0))
            assert cell.value == pytest.approx(evaluate.score(by_hand, data.validation, data.metric))
            assert cell.reached == round(cell.level * row.size) / row.size
            assert cell.loss == pytest.approx(record.baseline - cell.value)
    assert len({cell.value for row in record.rows for cell in row.cells}) > 2, "or nothing was pruned at all"
    assert network.state().keys() == before.keys() and all(torch.equal(v, before[k]) for k, v in network.state().items())
    assert report.read(found.folder) == record and (found.folder / "sensitivity.html").stat().st_size > 5000


def test_samples_bound_what_judges(network: Network, data: Data, tmp_path: Path) -> None:
    found = api.sensitivity(network, data, karui.Prune(include="head"), levels=(0.5,), samples=30, out=tmp_path / "run").record
    validation = data.validation
    assert isinstance(validation, ArrayPart) and found.samples == 30
    assert found.baseline == evaluate.score(network, validation.subset(slice(0, 90, 3)), data.metric)


def test_one_layer_is_pruned_and_no_other(network: Network, data: Data) -> None:
    subject = sensitivity.subject_of(network, data, karui.Prune(), (0.5,), 90, 0)
    for name in subject.layers:
        copy = network.copy()
        assert sensitivity.prune(subject, copy, name, 0.5) == 0.5
        zeros = {each: zeros_in(copy.get(each)) for each in copy.parameters()}
        masks = {each: mask_of(copy, each) for each in copy.parameters() if mask_of(copy, each)}
        assert list(masks) == [name] and not any(zeros.values())
        assert zeros_in(copy.get(str(masks[name]))) == subject.layers[name].size / 2


def test_names_are_taken_to_the_letter(data: Data) -> None:
    """A layer's own name is no pattern, though it may look like one."""
    module = nn.Sequential()
    for name in ("a[01]", "a0", "a1"):
        module.add_module(name, nn.Conv2d(4, 4, 1))
    net = karui.capture(nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten()), data.example(2))
    subject = sensitivity.subject_of(net, data, karui.Prune(), (0.5,), 90, 0)
    for name in subject.layers:
        copy = net.copy()
        sensitivity.prune(subject, copy, name, 0.5)
        assert [each for each in copy.parameters() if mask_of(copy, each)] == [name]


def test_channels_leave_group_by_group(network: Network, data: Data, tmp_path: Path) -> None:
    found = api.sensitivity(network, data, karui.PruneChannels(), levels=(0.25, 0.5), out=tmp_path / "run").record
    (row,) = found.rows  # the add couples both convolutions
    assert (row.layer, row.size, found.level, found.counted) == ("first.weight", 8, "pruning_ratio", "channels")
    assert [cell.reached for cell in row.cells] == [0.25, 0.5]
    assert found.left_out.keys() == {"head.weight"} and "output" in found.left_out["head.weight"]
    subject = sensitivity.subject_of(network, data, karui.PruneChannels(), (0.5,), 90, 0)
    copy = network.copy()
    sensitivity.prune(subject, copy, "first.weight", 0.5)
    assert {name: tuple(copy.get(name).shape) for name in ("first.weight", "second.weight", "head.weight")} == {
        "first.weight": (4, 4, 3, 3),
        "second.weight": (4, 4, 3, 3),
        "head.weight": (3, 4),
    }
    assert row.cells[1].value == pytest.approx(evaluate.score(copy, data.validation, data.metric))


def test_a_pattern_has_its_levels_and_its_layers(network: Network, data: Data, tmp_path: Path) -> None:
    found = api.sensitivity(network, data, karui.Prune(pattern="3:8"), out=tmp_path / "run").record
    assert [[cell.level for cell in row.cells] for row in found.rows] == [[0.625], [0.625]]
    assert found.left_out == {"first.weight": "its 4 input channels are no multiple of 8"}
    blocks = api.sensitivity(network, data, karui.Prune(pattern="1x4", importance="wanda"), levels=(0.5,), out=tmp_path / "blocks").record
    assert [cell.reached for row in blocks.rows for cell in row.cells] == [0.5] * 3
    assert "1x4" in blocks.method and "wanda" in blocks.method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": (0.5, 1.0)}, r"levels: expected shares in \(0, 1\).* got 1.0"),
        ({"levels": (float("nan"),)}, "levels: .* got nan"),
        ({"levels": ()}, "levels: .* got none"),
        ({"samples": 0}, "samples: expected 1 or more, got 0"),
        ({"drop": -1.0}, "drop: .* got -1.0"),
        ({"technique": karui.Prune(include=("first", "hed"))}, r"\['hed'\].*it has first.weight, second.weight, head.weight"),
        ({"technique": karui.Prune(pattern="2:4"), "levels": (0.9,)}, "pattern 2:4 gives 0.5"),
        ({"technique": karui.Prune(importance="movement")}, "'movement' is known after some training only"),
        ({"technique": karui.PruneChannels(include="head")}, "leave no channels that may go"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    network: Network, data: Data, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        api.sensitivity(network, data, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_data_of_another_kind_is_refused(network: Network, data: Data, tmp_path: Path) -> None:
    grey = ArrayPart(torch.zeros(8, 1, 6, 6), torch.zeros(8, dtype=torch.int64), name="grey")
    other = Data(name="grey", train=grey, validation=grey, test=grey, calibration=grey)
    with pytest.raises(RecipeError, match=r"'grey' has samples of float32 \[1, 6, 6\], network 'net' takes float32 \[4, 6, 6\]"):
        api.sensitivity(network, other, out=tmp_path / "run")


def test_a_folder_belongs_to_one_network_and_one_way_of_pruning(network: Network, data: Data, tmp_path: Path) -> None:
    technique = karui.Prune(include="head")
    first = api.sensitivity(network, data, technique, levels=(0.5,), out=tmp_path / "run").record
    other = network.copy()
    other.set("head.weight", other.get("head.weight") * 2)
    for changed in (
        {"network": other},
        {"technique": karui.Prune(include="head", pattern="1x4")},
        {"data": replace(data, validation=samples(90, 5))},
        {"samples": 30},
    ):
        given = {"network": network, "data": data, "technique": technique, "levels": (0.5,)} | changed
        with pytest.raises(RunError, match="other settings"):
            api.sensitivity(out=tmp_path / "run", **given)  # type: ignore[arg-type]
    wider = api.sensitivity(network, data, levels=(0.5, 0.7), drop=9.0, out=tmp_path / "run").record
    assert wider.rows[2].cells[0] == first.rows[0].cells[0] and len(wider.rows) == 3


class Bar(Progress):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.facts: list[str] = []

    def start(self, total: int, label: str, done: int = 0) -> None:
        self.total, self.done = total, done

    def advance(self, facts: str = "", steps: int = 1) -> None:
        self.done += steps
        self.facts.append(facts)


def test_progress_counts_cells(network: Network, data: Data, tmp_path: Path) -> None:
    bar = Bar()
    api.sensitivity(network, data, levels=(0.5,), out=tmp_path / "run", progress=bar)
    assert (bar.total, bar.done) == (3, 3) and bar.facts[0].startswith("first at 50 %: ")
    api.sensitivity(network, data, levels=(0.5, 0.7), out=tmp_path / "run", progress=bar)
    assert (bar.total, bar.done) == (6, 6) and len(bar.facts) == 6, "three were known"


COMMAND = "sensitivity user:network --data user:data -o run --levels 0.5,0.9 -q"


def test_killed_it_goes_on_to_the_same_end(karui: Karui, tmp_path: Path) -> None:
    whole, run = (forked.user(tmp_path / name) / "run" for name in ("whole", "killed"))
    assert karui(COMMAND, whole.parent).code == 0
    counts = []
    for _ in range(2):  # in the middle of the third write (the baseline, a cell, then this one), and of the third of the rest
        assert karui(COMMAND, run.parent, Trap(event="write", where=r"run/\.cells\.json", count=3)).code == -signal.SIGKILL
        assert len(forked.leftovers(run)) == 1 and not (run / "sensitivity.html").exists()
        counts.append(len(json.loads((run / "cells.json").read_text())["cells"]))
    assert counts == [1, 3]
    done = karui(COMMAND, run.parent)
    assert (done.code, done.error) == (0, []) and "bears" in done.out
    assert forked.leftovers(run) == []
    kept = {name: content for name, content in forked.contents(run).items() if not name.endswith(".html")}
    assert kept == {name: content for name, content in forked.contents(whole).items() if not name.endswith(".html")}
