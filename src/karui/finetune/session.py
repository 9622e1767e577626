"""The same hooks for people who keep their own training loop.

>>> with karui.attach(network, [Prune(sparsity=0.9)], steps=1000, data=data) as session:  # doctest: +SKIP
...     optimizer = torch.optim.SGD(session.parameters(), lr=0.01)
...     for batch in my_batches:
...         if session.before_step():  # True: parameters were replaced
...             optimizer = torch.optim.SGD(session.parameters(), lr=0.01)
...         outputs = network(*batch.inputs)
...         loss = session.loss(batch, outputs, my_loss(outputs, batch.targets))
...         optimizer.zero_grad()
...         loss.backward()
...         session.after_backward()
...         optimizer.step()
>>> session.facts  # doctest: +SKIP
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from karui.compress.technique import Attached, Technique
from karui.data import Batch, Data
from karui.errors import RecipeError
from karui.finetune.attach import attach_all, own_random_numbers
from karui.finetune.memory import parameters_of
from karui.finetune.phases import Phase, name_of
from karui.finetune.schedule import derive
from karui.graph.network import Network


class _NoData:
    """Stands where a person gave no data; a technique that looks at it hears so."""

    def without_test(self) -> Self:
        return self

    def __getattr__(self, name: str) -> Any:
        raise RecipeError(f"attach: a technique needs data.{name}; pass data=karui.Data.of(…) to karui.attach")


class Session:
    """Techniques at work on a network. Made by ``attach``; after its block, ``facts`` holds what each technique told at its end.

    network: the network that is trained, edited in place. done: steps made so far.
    """

    def __init__(self, network: Network, techniques: tuple[Technique, ...], steps: int, data: Data, teacher: Network, seed: int) -> None:
        self.network, self.techniques, self.steps = network, techniques, steps
        self.done, self._owed = 0, False
        self.facts: tuple[dict[str, Any], ...] = ()
        self._seed = seed
        with own_random_numbers(network):
            self._attached = attach_all(network, techniques, data, teacher=teacher, steps=steps, seed=seed)
        network.train()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.finish()

    def before_step(self) -> bool:
        """Call before each training step. True: parameters were replaced, added or removed; build the optimizer anew.

        Gradients are forgotten, as by ``optimizer.zero_grad()``. Raises RecipeError: a technique waits for ``after_backward``.
        """
        waiting = [each for each in self._attached if type(each).after_backward is not Attached.after_backward]
        if waiting and self._owed:
            raise RecipeError(f"attach: '{type(waiting[0]).__name__}' needs gradients; call session.after_backward() after loss.backward()")
        for parameter in self.parameters():
            parameter.grad = None
        self.done, self._owed = self.done + 1, True
        return any([each.step(self._progress) for each in self._attached])

    def after_backward(self) -> None:
        """Call after ``loss.backward()``, before the gradients are clipped and the optimizer moves anything."""
        self._owed = False
        for each in self._attached:
            each.after_backward(self._progress)

    @property
    def _progress(self) -> float:
        return min(self.done - 1, self.steps) / max(self.steps, 1)

    def loss(self, batch: Batch | tuple[Any, Any], outputs: tuple[Tensor, ...] | Tensor, task: Tensor) -> Tensor:
        """The loss to minimise, given the task's own (a scalar). batch: a Batch, or a pair (input or tuple of inputs, target)."""
        if not isinstance(batch, Batch):
            inputs, targets = batch
            batch = Batch(inputs=inputs if isinstance(inputs, tuple) else (inputs,), targets=targets)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for each in self._attached:
            task = each.loss(batch, outputs, task)
        return task

    def parameters(self) -> list[torch.nn.Parameter]:
        """What there is to train at this moment: the network's parameters, and those that techniques own."""
        everything = [*self.network.parameters().values(), *parameters_of(self._attached).values()]
        return [p for p in everything if p.requires_grad]

    def finish(self) -> tuple[dict[str, Any], ...]:
        """End every technique (the ``with`` block does it); the network is left in evaluation mode. Returns ``facts``."""
        if self._attached:
            self.network.eval()
            with own_random_numbers(self.network):
                torch.manual_seed(derive(self._seed, "finish"))
                self.facts = tuple(each.finish() for each in self._attached)
            self._attached = []
        return self.facts


def attach(
    network: Network,
    techniques: Sequence[Technique],
    *,
    steps: int,
    data: Data | None = None,
    teacher: Network | None = None,
    seed: int = 0,
) -> Session:
    """Put ``techniques`` on ``network``, in place, and return their hooks for a loop of one's own of ``steps`` training steps.

    data: for techniques that calibrate or observe. teacher: what a loss learns from; a copy of the network as given, where it is left out.
    Raises RecipeError: the network isn't captured, a loss is asked for with no steps, or a technique needs data and there is none.
    """
    if not isinstance(network, Network):
        raise RecipeError(f"attach: expected a Network, got {type(network).__name__}; capture it first: karui.capture(module, example)")
    ordered = Phase(techniques=tuple(techniques)).techniques
    losses = [t for t in ordered if t.stage == "loss"]
    if steps < 0 or (losses and steps == 0):
        what = f"'{name_of(losses[0])}' is a loss and needs" if losses else "they need"
        raise RecipeError(f"attach: steps = {steps}; {what} the number of training steps that you will make")
    held: Any = data if data is not None else _NoData()
    return Session(network, ordered, steps, held, (teacher or network).copy().eval(), seed)
