"""The scan, with functions that are plain to see through: every cell once, the network left alone, and an interrupted scan goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from karui.analyse import sensitivity
from karui.analyse.sensitivity import Cell, scan, spread
from karui.data.parts import ArrayPart, IterablePart
from karui.errors import DataError, FileError
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.workspace import Run

LAYERS, LEVELS = ("0.weight", "2.weight"), (0.25, 0.5, 0.75)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4)).eval()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {})


def scale(network: Network, layer: str, level: float) -> float:
    """A change that the judge below reads exactly."""
    with torch.no_grad():
        network.get(layer).fill_(level)
    return level / 2


def total(network: Network) -> float:
    return sum(float(network.get(layer).detach().double().sum()) for layer in LAYERS)


def test_every_layer_at_every_level_by_itself(network: Network, run: Run) -> None:
    alone = {layer: float(network.get(layer).detach().double().sum()) for layer in LAYERS}
    found = scan(network, LAYERS, LEVELS, scale, total, run=run)
    assert found.baseline == pytest.approx(sum(alone.values()))
    assert [(cell.layer, cell.level) for cell in found.cells] == [(layer, level) for layer in LAYERS for level in LEVELS]
    for cell in found.cells:
        (other,) = set(LAYERS) - {cell.layer}
        assert cell.value == pytest.approx(cell.level * network.get(cell.layer).numel() + alone[other]), (
            "one layer is changed, the other is not"
        )
        assert cell.reached == cell.level / 2
    assert found.seconds >= sum(cell.seconds for cell in found.cells) > 0 or found.seconds > 0


def test_the_network_is_left_alone(network: Network, run: Run) -> None:
    before, code = {name: tensor.clone() for name, tensor in network.state().items()}, network.module.code
    network.train()
    scan(network, LAYERS, LEVELS, scale, total, run=run)
    assert network.training
    network.eval()
    assert network.module.code == code
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state().items())


class Dies:
    """A judge that is stopped when it is asked once too often."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, network: Network) -> float:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return total(network)


@pytest.mark.parametrize("after", range(7))
def test_it_goes_on_where_it_stopped(network: Network, run: Run, after: int, tmp_path: Path) -> None:
    whole = scan(network, LAYERS, LEVELS, scale, total, run=Run.create(tmp_path / "whole", {}))
    with pytest.raises(KeyboardInterrupt):
        scan(network, LAYERS, LEVELS, scale, Dies(after), run=run)
    known = sensitivity.known_cells(run)
    assert len(known) == max(0, after - 1), "the first judgement is the network's own; each of the others is on the disk at once"
    heard: list[Cell] = []
    rest = scan(network, LAYERS, LEVELS, scale, Dies(7 - after), run=run, told=heard.append)
    assert [(c.layer, c.level, c.value) for c in rest.cells] == [(c.layer, c.level, c.value) for c in whole.cells]
    assert rest.baseline == whole.baseline and len(heard) == 6 - len(known)


def test_other_levels_and_layers_are_added(network: Network, run: Run) -> None:
    scan(network, LAYERS[:1], LEVELS[:2], scale, total, run=run)
    found = scan(network, LAYERS, LEVELS[1:], scale, Dies(3), run=run)
    assert [(cell.layer, cell.level) for cell in found.cells] == [(layer, level) for layer in LAYERS for level in LEVELS[1:]]


def test_scores_that_are_no_numbers(network: Network, run: Run) -> None:
    def judge(judged: Network) -> float:
        return float("nan") if float(judged.get("2.weight").detach().sum()) == 0.75 * 24 else 1.0

    values = {(cell.layer, cell.level): cell.value for cell in scan(network, LAYERS, LEVELS, scale, judge, run=run).cells}
    assert values.pop(("2.weight", 0.75)) is None and set(values.values()) == {1.0}
    assert scan(network, LAYERS, LEVELS, scale, Dies(0), run=run).cells[-1].value is None, "as it was written, so it is read"


def test_a_network_without_a_score_is_refused(network: Network, run: Run) -> None:
    with pytest.raises(DataError, match="scores nan as it is"):
        scan(network, LAYERS, LEVELS, scale, lambda judged: float("nan"), run=run)
    assert not (run.directory / sensitivity.FILE_NAME).exists()


@pytest.mark.parametrize("damage", ["{", "{}", '{"baseline": 1, "seconds": 1, "cells": [{"layer": "a"}]}', "[1]"])
def test_damaged_cells_are_named(network: Network, run: Run, damage: str) -> None:
    (run.directory / sensitivity.FILE_NAME).write_text(damage)
    with pytest.raises(FileError, match=r"cells\.json.*damaged"):
        scan(network, LAYERS, LEVELS, scale, total, run=run)


# ── which samples judge ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def loader(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(7), y.split(7)))


@pytest.mark.parametrize("make", [ArrayPart, lambda x, y: IterablePart(loader(x, y))])
def test_samples_are_taken_from_all_over_a_sorted_part(make: Callable) -> None:
    x, y = torch.arange(100.0)[:, None], torch.arange(100) // 10
    (batch,) = spread(make(x, y), 20).batches(50)
    assert batch.targets.bincount().tolist() == [2] * 10
    assert torch.equal(batch.inputs[0][:, 0] // 10, batch.targets.float()), "each with its own target"
    part = make(x, y)
    assert spread(part, 100) is part


def test_pixels_stay_what_they_are_and_targets_may_be_many() -> None:
    x, y = torch.randint(256, (40, 1, 4, 4), dtype=torch.uint8), torch.arange(40)
    (batch,) = spread(ArrayPart(x, (y, y.float())), 8).batches(8)
    assert batch.stored[0].dtype == torch.uint8 and torch.equal(batch.inputs[0], x[::5].float())
    few = spread(IterablePart([(x[:25], (y[:25], y[:25].float())), (x[25:], (y[25:], y[25:].float()))]), 8)
    (batch,) = few.batches(8)
    assert torch.equal(batch.inputs[0], x[::5].float()) and torch.equal(batch.targets[1], y[::5].float())
