from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.compress.prune.allocation import (
    KNOWN,
    AllocationName,
    Layer,
    allocated,
    allocation_of,
    by_cost,
    bytes_taken,
    largest,
    macs_taken,
    strongest,
)
from karui.errors import RecipeError


def layer(name: str, shape: tuple[int, ...], *, scale: float = 1.0, seed: int = 0, **more: Any) -> Layer:
    scores = torch.randn(int(np.prod(shape)), generator=torch.Generator().manual_seed(seed)).abs() * scale
    return Layer(name=name, shape=shape, scores=scores, **more)


def total(layers: list[Layer], sparsities: list[float]) -> float:
    return sum(each.weights * s for each, s in zip(layers, sparsities)) / sum(each.weights for each in layers)


def three() -> list[Layer]:
    return [
        layer("a", (8, 4, 3, 3), seed=1, macs=1000, loss=lambda s: 1 + 5 * s),
        layer("b", (40, 50), scale=0.2, seed=2, macs=100, loss=lambda s: 1 + 0.1 * s**2),
        layer("c", (5, 40), scale=3, seed=3, macs=10, loss=lambda s: 1 + 2 * s**8),
    ]


@pytest.mark.parametrize("name", get_args(AllocationName))
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.995])
def test_every_rule_meets_the_total(name: Any, sparsity: float) -> None:
    layers = three()
    found = allocated(allocation_of(name), layers, sparsity)
    assert total(layers, found) == pytest.approx(sparsity, abs=1e-3)
    assert all(0 <= s <= each.most < 1 for s, each in zip(found, layers))


def test_global_and_uniform() -> None:
    layers = three()
    found = allocated(KNOWN["global"], layers, 0.6)
    keep = [each.kept(s) for each, s in zip(layers, found)]
    assert max(float(each.scores[~k].max()) for each, k in zip(layers, keep)) <= min(
        float(each.scores[k].min()) for each, k in zip(layers, keep)
    )
    assert allocated(KNOWN["uniform"], layers, 0.6) == pytest.approx([0.6] * 3)


def test_erk_is_its_formula() -> None:
    layers = three()
    density = [1 - s for s in allocated(KNOWN["erk"], layers, 0.6)]
    raw = [(8 + 4 + 3 + 3) / 288, (40 + 50) / 2000, (5 + 40) / 200]
    assert density[2] == 1.0  # it would exceed it
    assert density[0] / density[1] == pytest.approx(raw[0] / raw[1])


def test_lamp_is_equation_five() -> None:
    layers = [
        Layer(name="a", shape=(4,), scores=torch.tensor([3.0, 1.0, 2.0, 0.5])),
        Layer(name="b", shape=(4,), scores=torch.tensor([10.0, 30.0, 20.0, 40.0])),
    ]
    # a: 0.25/14.25, 1/14, 4/13, 1; b: 1/30, 4/29, 9/25, 1
    assert allocated(KNOWN["lamp"], layers, 1 / 8) == [0.25, 0.0]
    assert allocated(KNOWN["lamp"], layers, 2 / 8) == [0.25, 0.25]
    assert allocated(KNOWN["lamp"], layers, 5 / 8) == [0.75, 0.5]


def test_std_gives_layers_of_another_scale_the_same() -> None:
    layers = [layer("a", (50, 50), seed=1), layer("b", (50, 50), scale=7, seed=1)]
    assert allocated(KNOWN["std"], layers, 0.4) == pytest.approx([0.4, 0.4], abs=1e-3)
    assert allocated(KNOWN["global"], layers, 0.4)[1] < 0.2


def test_sensitivity_leaves_no_layer_dead_while_others_live() -> None:
    """A network that answers always the same has a lower loss than one that is wrong for sure; that makes nothing of a layer worth it."""
    fallen = {0.0: 0.3, 0.3: 0.4, 0.5: 0.6, 0.7: 3.0, 0.8: 4.0, 0.9: 5.0, 0.95: 5.0, 0.98: 3.0, 1.0: 2.3}
    layers = [
        Layer(name="a", shape=(50, 20), scores=torch.rand(1000), loss=fallen.__getitem__),
        Layer(name="b", shape=(50, 20), scores=torch.rand(1000), loss=lambda sparsity: 0.3 + 9 * sparsity),
    ]
    for sparsity in (0.6, 0.7, 0.9):
        a, b = allocated(KNOWN["sensitivity"], layers, sparsity)
        assert a <= 0.98 + 1e-9 and b <= 0.98 + 1e-9
        assert a + b == pytest.approx(2 * sparsity, abs=1e-3)
    assert sum(allocated(KNOWN["sensitivity"], layers, 0.99)) == pytest.approx(1.98, abs=1e-3)


def test_sensitivity_ends_at_an_equal_increase() -> None:
    layers = three()
    a, b, c = allocated(KNOWN["sensitivity"], layers, 0.7)
    assert 5 * a == pytest.approx(0.1 * b**2, abs=0.01)
    assert a < 0.05 < c < 0.8 < b
    broken = [layer("a", (10, 10), loss=lambda s: float("nan") if s > 0.5 else 1.0), layer("b", (10, 10), loss=lambda s: 1 + s)]
    assert allocated(KNOWN["sensitivity"], broken, 0.7)[0] < 0.6


def test_what_is_gone_goes_first() -> None:
    for name, rule in KNOWN.items():
        layers = three()
        for each in layers:
            each.scores[: each.weights // 2] = -torch.inf
        found = allocated(rule, layers, 0.5 if name in ("global", "lamp", "std", "uniform") else 0.6)
        for each, s in zip(layers, found):
            gone = each.scores == -torch.inf
            keep = each.kept(s)
            assert not bool(keep[gone].any()) or bool(keep[~gone].all())


@pytest.mark.parametrize("name", get_args(AllocationName))
def test_blocks_that_are_cut_off_at_the_edge(name: Any) -> None:
    sizes = torch.tensor([4.0, 4, 1, 4, 4, 1])
    edge = Layer(name="a", shape=(2, 9), scores=torch.tensor([1.0, 2, 3, 4, 5, 6]), size=sizes)
    even = Layer(name="b", shape=(2, 8), scores=torch.tensor([1.5, 2.5, 3.5, 7.0]), size=4)
    found = allocated(allocation_of(name), [edge, even], 0.5)
    assert total([edge, even], found) == pytest.approx(0.5, abs=0.13)
    if name == "global":
        assert edge.kept(found[0]).tolist() == [False, False, False, True, True, True]  # 17 weights: 4 + 4 + 4 + 4 + 1
        assert even.kept(found[1]).tolist() == [False, False, True, True]
    assert edge.kept(1.0).tolist() == [False] * 5 + [True]  # the best stays


def test_a_mac_budget_is_met() -> None:
    layers = three()
    for name in ("global", "uniform", "erk", "sensitivity"):
        found = by_cost(allocation_of(name), layers, 0.6, macs_taken)
        assert 0.6 <= macs_taken(layers, found) < 0.6 + 5e-3
    assert by_cost(KNOWN["uniform"], layers, 1.0, macs_taken) == pytest.approx([each.most for each in layers])


def test_a_byte_budget_is_met() -> None:
    layers, taken = three(), partial(bytes_taken, bits=8)
    for name in ("global", "uniform", "erk", "sensitivity"):
        found = by_cost(allocation_of(name), layers, 0.6, taken)
        assert 0.6 <= taken(layers, found) < 0.6 + 5e-3


def test_the_bytes_of_a_sparse_layer() -> None:
    single = layer("a", (10, 100))
    assert bytes_taken([single], [0.0], bits=8) == 0
    assert bytes_taken([single], [0.01], bits=4) == 0  # its index would take more than it saves
    assert bytes_taken([single], [0.5], bits=8) == pytest.approx(0.5 - 1 / 8)  # one bit says of each place whether it stays
    assert bytes_taken([single], [1.0], bits=8) == 1
    blocks = Layer(name="b", shape=(10, 100), scores=torch.randn(250), size=4)
    assert bytes_taken([blocks], [0.5], bits=8) == pytest.approx(0.5 - 1 / 32)
    assert bytes_taken([single, blocks], [0.5, 0.5], bits=8) == pytest.approx(0.5 - (1 / 8 + 1 / 32) / 2)


def test_wrong_answers_are_refused() -> None:
    with pytest.raises(RecipeError, match="'even' is not an allocation: use global, uniform, erk"):
        allocation_of("even")  # type: ignore[arg-type]
    for answer, told in [([0.5], "1 numbers"), ([0.5, 1.5, 0.5], r"b: 1\.5"), ([float("nan")] * 3, "a: nan")]:
        with pytest.raises(RecipeError, match=f"allocation: expected a sparsity in .0, 1. for each of 3 layers, got {told}"):
            allocated(lambda layers, sparsity, answer=answer: answer, three(), 0.5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 3000), ties=st.sampled_from([0, 1, 2]), share=st.floats(0, 1), gone=st.floats(0, 1))
def test_the_largest_stay_and_are_counted_exactly(seed: int, count: int, ties: int, share: float, gone: float) -> None:
    scores = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    scores = [scores, scores.round(), scores.sign()][ties]
    scores[: int(gone * count)] = -torch.inf
    drop = round(share * count)
    keep = largest(scores, drop)
    expected = torch.ones(count, dtype=torch.bool)
    expected[torch.argsort(scores, stable=True)[:drop]] = False
    assert torch.equal(keep, expected)


def test_a_sample_that_misleads_changes_nothing() -> None:
    scores = torch.arange(1_000_000.0) % 10  # ten values, in step with the sample
    scores[::11] += 0.5
    assert int(torch.count_nonzero(largest(scores, 654_321))) == 1_000_000 - 654_321
    spikes = torch.zeros(1_000_000)
    spikes[:: 1_000_000 // 100_000 | 1] = torch.arange(len(spikes[::11])).float()
    assert int(torch.count_nonzero(largest(spikes, 950_000))) == 50_000


def test_blocks_of_unequal_size_leave_to_the_nearest() -> None:
    scores, sizes = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([4.0, 4.0, 1.0])
    assert strongest(scores, sizes, 4).tolist() == [True, False, True]
    assert strongest(scores, sizes, 5).tolist() == [True, False, False]
    assert strongest(scores, sizes, 1).tolist() == [True, True, True]
