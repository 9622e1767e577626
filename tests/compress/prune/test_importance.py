import pytest
import torch

from karui.compress.prune.importance import channel_importance, l1_norm, l2_norm, magnitude, weight_importance
from karui.errors import RecipeError


def test_magnitude() -> None:
    assert magnitude(torch.tensor([[-2.0, 1.0]])).tolist() == [[2.0, 1.0]]
    assert weight_importance("magnitude") is magnitude


def test_norms_are_summed_over_producers() -> None:
    a, b = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[2.0], [-5.0]])
    assert l2_norm([a, b]).tolist() == [7.0, 6.0]
    assert l1_norm([a, b]).tolist() == [9.0, 6.0]


def test_wrong_names() -> None:
    with pytest.raises(RecipeError, match="magnitude"):
        weight_importance("size")
    with pytest.raises(RecipeError, match="l2_norm, l1_norm"):
        channel_importance("size")
