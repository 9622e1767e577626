"""One file that is whole, is of this run, and gives back every bit."""

from pathlib import Path

import pytest
import torch

from karui.errors import FileError, RunError
from karui.finetune.checkpoint import Checkpoints, Snapshot, graph_bytes, of_graph_bytes
from tests.finetune import tiny


def snapshot() -> Snapshot:
    return Snapshot(
        step=7,
        network={"fc1.weight": torch.randn(3, 4).T, "n": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16)},
        optimizer={"exp_avg.fc1.weight": torch.randn(4, 3), "step.fc1.weight": torch.tensor(2.0)},
        best={"fc1.weight": torch.zeros(0, 4)},
        techniques={"0:movement": torch.randn(2, 3)},
        graph=b"\x00PK\xff",
        facts={"loss_sum": 0.1 + 0.2, "history": {"epochs": []}, "best_score": None},
    )


def test_round_trip(tmp_path: Path) -> None:
    wanted = snapshot()
    where = Checkpoints(tmp_path / "x.checkpoint", identity="phase 1")
    assert where.load() is None
    where.save(wanted)
    found = where.load()
    assert found is not None
    assert (found.step, found.graph, found.facts) == (wanted.step, wanted.graph, wanted.facts)
    for one, other in (
        (wanted.network, found.network),
        (wanted.optimizer, found.optimizer),
        (wanted.best, found.best),
        (wanted.techniques, found.techniques),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[n], other[n]) and one[n].dtype == other[n].dtype for n in one)
    where.clear()
    where.clear()
    assert list(tmp_path.iterdir()) == []


def test_the_time_between_two(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "x", seconds=0.0).due()
    assert not Checkpoints(tmp_path / "x", seconds=60.0).due()


def test_another_run_and_damage(tmp_path: Path) -> None:
    file = tmp_path / "x.checkpoint"
    Checkpoints(file, identity="phase 1").save(snapshot())
    with pytest.raises(RunError, match="belongs to another run"):
        Checkpoints(file, identity="phase 2").load()
    whole = file.read_bytes()
    for content in (b"", whole[:40], whole[:-1], b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(FileError, match=r"is damaged .*delete .* to start this phase again"):
            Checkpoints(file, identity="phase 1").load()


def test_a_graph_as_bytes(tmp_path: Path) -> None:
    network = tiny.network()
    network.set("fc1.bias", torch.arange(16.0))
    assert of_graph_bytes(graph_bytes(network, tmp_path), tmp_path).fingerprint() == network.fingerprint()
    assert list(tmp_path.iterdir()) == []
