from typing import Any, get_args

import pytest
import torch

from karui.compress.prune.evidence import Evidence
from karui.compress.prune.importance import KNOWN, ImportanceName, Seen, magnitude, weight_importance
from karui.errors import RecipeError
from tests.compress.tiny import data, small


class Told:
    """Evidence that is given by hand, and counts what it is asked for."""

    def __init__(self, **values: torch.Tensor) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Any:
        return lambda parameter: self.values[name]


W = torch.tensor([[-2.0, 1.0], [0.0, 4.0]])
G = torch.tensor([[1.0, 3.0], [5.0, -1.0]])
X = torch.tensor([[2.0, 10.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [[2.0, 1.0], [0.0, 4.0]]),
        ("l2", [[4.0, 1.0], [0.0, 16.0]]),
        ("taylor", [[4.0, 9.0], [0.0, 16.0]]),
        ("fisher", [[2.0, 1.5], [0.0, 8.0]]),
        ("wanda", [[4.0, 10.0], [0.0, 40.0]]),
        ("movement", [[7.0, -1.0], [0.0, 0.0]]),
    ],
)
def test_each_is_its_formula(name: Any, expected: list[list[float]]) -> None:
    told: Any = Told(gradient=G, fisher=G.abs(), inputs=X)
    seen = Seen(name="w", weight=W, evidence=told, moved={"w": torch.tensor([[7.0, -1.0], [0.0, 0.0]])})
    assert weight_importance(name)(seen).tolist() == expected


def test_every_name_has_a_function() -> None:
    assert set(KNOWN) == set(get_args(ImportanceName))
    assert weight_importance("magnitude") is weight_importance(magnitude) is magnitude


def test_magnitude_looks_at_no_data() -> None:
    nothing: Any = None
    assert magnitude(Seen(name="w", weight=W, evidence=Evidence(nothing, nothing))).shape == W.shape


def test_all_layers_share_one_calibration() -> None:
    calls = 0
    on = data()

    class Counted(Evidence):
        def _backward(self, batch: Any) -> Any:
            nonlocal calls
            calls += 1
            return super()._backward(batch)

    network = small()
    found = Counted(network, on, samples=64, batch_size=32)
    for name in ("conv1.weight", "fc1.weight", "fc2.weight"):
        assert (
            weight_importance("taylor")(Seen(name=name, weight=network.get(name).detach(), evidence=found)).shape == network.get(name).shape
        )
    assert calls == 2


def test_wrong_names_and_movement_without_training() -> None:
    wrong: Any = "size"
    with pytest.raises(
        RecipeError, match="'size' is not a weight's importance: use magnitude, l2, taylor, fisher, movement, wanda, or a function"
    ):
        weight_importance(wrong)
    with pytest.raises(RecipeError, match="movement is only gathered"):
        _ = Seen(name="w", weight=W, evidence=Evidence(small(), data())).movement
