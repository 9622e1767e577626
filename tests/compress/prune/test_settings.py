"""The contract of techniques over what ``Prune`` can be set to."""

from typing import Any

import pytest

from karui.compress.prune.weights import Prune
from karui.testing.techniques import check_technique


@pytest.mark.parametrize(
    "settings",
    [
        {"pattern": "2:4", "regrow": "latent"},
        {"pattern": "1x4", "sparsity": 0.6, "regrow": "gradient", "allocation": "erk", "samples": 64},
        {"sparsity": 0.7, "importance": "movement", "regrow": "latent"},
        {"macs": 0.4, "importance": "taylor", "samples": 64},
        {"sparsity": 0.7, "importance": "wanda", "allocation": "lamp", "samples": 64},
        {"sparsity": 0.7, "importance": "fisher", "allocation": "sensitivity", "samples": 64},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_the_contract_is_kept(settings: dict[str, Any]) -> None:
    check_technique(Prune, **settings)
