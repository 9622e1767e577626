"""The hooks in somebody's own loop do what they do in ours."""

import pytest
import torch

from karui.data import cross_entropy
from karui.errors import RecipeError
from karui.finetune.session import attach
from tests.finetune import tiny


def test_a_loop_of_one_s_own() -> None:
    network, data = tiny.network(), tiny.data(noise=0.5)
    rebuilt = 0
    with attach(network, [tiny.Lean(), tiny.Cut(at=0.5)], steps=40, data=data) as session:
        assert network.training
        optimizer = torch.optim.SGD(session.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(8):
            for batch in data.train.batches(20, seed=epoch):
                if session.before_step():
                    optimizer = torch.optim.SGD(session.parameters(), lr=0.1, momentum=0.9)
                    rebuilt += 1
                outputs = network(*batch.inputs)
                loss = session.loss((batch.inputs[0], batch.targets), outputs, cross_entropy(outputs, batch.targets))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert rebuilt == 1
    assert session.facts == ({"units": 8}, {"moments": 4})
    assert not network.training
    test = next(iter(data.test.batches(60)))
    assert (network(*test.inputs)[0].argmax(1) == test.targets).float().mean() > 0.95


def test_gradients_and_parameters_of_a_technique_s_own() -> None:
    network, data = tiny.network(), tiny.data()
    batch = next(iter(data.train.batches(20, seed=0)))
    with attach(network, [tiny.Move()], steps=4, data=data) as session:
        assert len(session.parameters()) == len(network.parameters()) + 1
        optimizer = torch.optim.SGD(session.parameters(), lr=0.1)
        for _ in range(4):
            session.before_step()
            outputs = network(*batch.inputs)
            session.loss(batch, outputs, cross_entropy(outputs, batch.targets)).backward()
            session.after_backward()
            optimizer.step()
    assert session.facts[0]["learned"] > 0

    session = attach(tiny.network(), [tiny.Move()], steps=4, data=data)
    session.before_step()
    with pytest.raises(RecipeError, match=r"'Moving' needs gradients; call session\.after_backward\(\)"):
        session.before_step()


def test_an_error_in_the_block_ends_nothing() -> None:
    with pytest.raises(KeyError), attach(tiny.network(), [tiny.Cut()], steps=4, data=tiny.data()) as session:
        raise KeyError
    assert session.facts == ()
    assert session.finish() == ({"units": 16},)
    assert session.finish() == ({"units": 16},)


def test_data_is_asked_for_when_it_is_needed() -> None:
    class Needs(tiny.Lean):
        def attach(self, network: tiny.Network, context: tiny.Context) -> tiny.Attached:
            context.data.example(2)
            return super().attach(network, context)

    attach(tiny.network(), [tiny.Lean()], steps=4)
    with pytest.raises(RecipeError, match=r"needs data\.example; pass data=karui\.Data\.of"):
        attach(tiny.network(), [Needs()], steps=4)


def test_wrong_calls() -> None:
    with pytest.raises(RecipeError, match="expected a Network, got Tiny; capture it first"):
        attach(tiny.Tiny(), [], steps=1)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="steps = 0; 'tests.finetune.tiny:Lean' is a loss"):
        attach(tiny.network(), [tiny.Lean()], steps=0)
    with pytest.raises(RecipeError, match="steps = -1"):
        attach(tiny.network(), [tiny.Cut()], steps=-1)
