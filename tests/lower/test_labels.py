"""Labels belong to the output's classes, and are refused before anybody trains for them."""

import pytest
import torch
from torch import nn

from karui.errors import DataError
from karui.graph.doors.torch import capture
from karui.graph.network import Network
from karui.lower import lower
from karui.testing.subjects import small_network


def network(classes: int) -> Network:
    return capture(nn.Linear(3, classes), torch.zeros(2, 3))


@pytest.mark.parametrize(("labels", "word"), [(("a", "b"), r"2 for output 'output' of shape \[4\]"), (("a", "b", "c", "d\n"), "label 3")])
def test_other_labels_than_classes_are_refused(labels: tuple[str, ...], word: str) -> None:
    with pytest.raises(DataError, match=word):
        lower(small_network(), labels=labels)


def test_two_classes_may_share_one_score() -> None:
    assert lower(network(1), labels=("no", "yes")).outputs[0].labels == ("no", "yes")
    assert lower(network(3), labels=("a", "", "c")).outputs[0].labels == ("a", "", "c")


def test_outputs_keep_the_networks_names() -> None:
    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": torch.relu(x), "boxes": x + 1}

    program = lower(capture(Both(), torch.zeros(2, 3)))
    assert [output.name for output in program.outputs] == ["scores", "boxes"]
